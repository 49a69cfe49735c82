"""The real TensorBoard reads back what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from followed import VARIED, course, follow, new_run, reached, with_adapter
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialState

accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return new_run(tmp_path / "run", "tensorboard")


def events(run: RunFolder, number: int) -> Any:
    folder = run.tensorboard / f"trial-{number:04d}"
    return accumulators.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()


def curve(found: Any, tag: str) -> list[tuple[int, float]]:
    return [(point.step, pytest.approx(point.value)) for point in found.Scalars(tag)]


def hparams(found: Any) -> dict[str, Any]:
    """The values of a run's hyperparameters."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    values = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: value.string_value or value.number_value for name, value in values.items()}


def test_every_number_is_a_curve_of_its_trial(run: RunFolder) -> None:
    follow(run, reached(run, 3, 8, TrialState.COMPLETE), reached(run, 4, 2, TrialState.PRUNED))
    for number, steps in ((3, 8), (4, 2)):
        found = events(run, number)
        for key in ("loss", "learning_rate", "eval_loss"):
            assert curve(found, key) == [*course(number, key, steps).items()]


def test_hyperparameters_and_score_of_an_ended_trial(run: RunFolder) -> None:
    result = reached(run, 0, 4, TrialState.PRUNED)
    follow(run, result)
    found = events(run, 0)
    assert hparams(found) == {**VARIED, "state": "PRUNED"}
    assert curve(found, "hparam/score") == [(4, result.score)]


def test_trial_that_is_taken_up_again_writes_on(run: RunFolder) -> None:
    follow(run, reached(run, 0, 5))
    follow(run, reached(run, 0, 8, TrialState.COMPLETE))
    found = events(run, 0)
    for key in ("loss", "eval_loss"):
        assert curve(found, key) == [*course(0, key, 8).items()]
    assert [path.name for path in run.tensorboard.iterdir()] == ["trial-0000"]


def test_end_of_a_log_that_a_kill_left_torn_is_written_again(run: RunFolder) -> None:
    follow(run, reached(run, 0, 5))
    (log,) = (run.tensorboard / "trial-0000").iterdir()
    log.write_bytes(log.read_bytes()[:-7])
    follow(run, reached(run, 0, 8, TrialState.COMPLETE))
    assert curve(events(run, 0), "loss") == [*course(0, "loss", 8).items()]


def test_best_trial_needs_no_more(run: RunFolder) -> None:
    best = reached(run, 0, 8, TrialState.COMPLETE)
    with_adapter(run, 0)
    follow(run, best, best=best)
    assert curve(events(run, 0), "loss") == [*course(0, "loss", 8).items()]
