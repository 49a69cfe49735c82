"""Whole searches with all trackers at once: cut off in the middle of a trial, and gone on with."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray_searches import TinySearch, killed_and_resumed
from rich.console import Console
from searches import searched
from tune_lora.search import course, driver
from tune_lora.spaces import Space
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialResult
from wandb_log import history, records, summary

wandb = pytest.importorskip("wandb")
mlflow = pytest.importorskip("mlflow")
accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

TRACKERS = ["wandb", "tensorboard", "mlflow"]


@pytest.fixture(autouse=True)
def _no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


class Interrupting(Console):
    """Presses Ctrl-C when a line is shown."""

    def __init__(self, line: str) -> None:
        super().__init__(file=io.StringIO())
        self.awaited = line

    def print(self, *objects: object, **options: object) -> None:  # type: ignore[override]
        if any(self.awaited in str(shown) for shown in objects):
            signal.raise_signal(signal.SIGINT)


def written(run: RunFolder, number: int, key: str) -> dict[int, Any]:
    """What the trial itself has kept of its course."""
    lines = run.trial(number).metrics.read_text("utf-8").splitlines()
    return {row["step"]: row[key] for row in map(json.loads, lines) if key in row}


def check(run: RunFolder, best: int) -> None:
    """Every tracker has every trial once, whole, and the best one's adapter."""
    results = list(run.results())
    offline = records(run.root, runs=len(results))
    client = mlflow.MlflowClient(f"sqlite:///{run.root / 'mlflow.db'}")
    stored = client.search_runs([client.get_experiment_by_name("tune-lora").experiment_id])
    nested = {entry.info.run_name: entry for entry in stored if entry.data.params}
    assert len(stored) == len(results) + 1 == len(offline) + 1
    for result in results:
        (rows,) = (rows for name, rows in offline.items() if name.endswith(result.name))
        entry, events = nested[result.name], _events(run, result)
        for key in ("loss", "eval_loss"):
            wanted = written(run, result.number, key)
            points = client.get_metric_history(entry.info.run_id, key)
            curve = events.Scalars(key)
            assert len(points) == len(curve) == len(wanted)
            found = [history(rows, key), *({p.step: p.value for p in ps} for ps in (points, curve))]
            for values in found:
                assert values.keys() == wanted.keys()
                # Up to where it took over another's weights, a trial's own course may be shown.
                assert result.config["lineage"] or values == pytest.approx(wanted)
        assert summary(rows)["state"] == entry.data.tags["state"] == result.state
        assert summary(rows)["score"] == entry.data.metrics["score"] == result.score
        artifacts = [row.artifact.name for row in rows if row.HasField("artifact")]
        assert artifacts == ([f"{run.name}-adapter"] if result.number == best else [])
        kept = client.list_artifacts(entry.info.run_id)
        assert [file.path for file in kept] == (["adapter"] if result.number == best else [])


def _events(run: RunFolder, result: TrialResult) -> Any:
    folder = str(run.tensorboard / result.name)
    return accumulators.EventAccumulator(folder, size_guidance={"scalars": 0}).Reload()


def test_interrupted_and_resumed(space_of: Callable[..., Space], tmp_path: Path) -> None:
    space = space_of("search.trials=3", "tracking=[wandb, tensorboard, mlflow]")
    run = driver.new_run(space, tmp_path / "run")
    driver.run_search(space, run, Interrupting("trial-0001  step   2/4"), local=True)
    assert {r.number: r.state.finished for r in run.results()} == {0: True, 1: False}
    outcome = searched(space, driver.resumed_run(space, run.root))
    assert outcome.board.best is not None
    assert outcome.board.best.trial is not None
    check(run, outcome.board.best.trial)
    wandb.teardown()


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["pbt", "asha"])
def test_killed_under_ray_and_resumed(
    tiny: Callable[..., Path], pairs: Path, tmp_path: Path, scheduler: str
) -> None:
    kinds = {"pbt": {"interval_steps": 2, "quantile": 0.34}, "asha": {"grace_steps": 2}}
    search = {"trials": 6, "scheduler": {scheduler: kinds[scheduler]}}
    wanted = TinySearch(tmp_path, tiny(), pairs, search, {"tracking": TRACKERS})
    run = killed_and_resumed(wanted, _someone_is_half_way)
    rows = json.loads(run.leaderboard("json").read_text("utf-8"))["rows"]
    check(run, next(row["trial"] for row in rows if row["rank"] == 1))


def _someone_is_half_way(run: RunFolder) -> bool:
    return any(4 <= result.step < 8 for result in run.results())


def test_missing_tracker_is_said_before_anything_is_loaded(
    space_of: Callable[..., Space], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_lora.search.tracking.find_spec", lambda name: None)
    monkeypatch.setattr(course, "preflight", lambda *_: pytest.fail("the model was looked at"))
    space = space_of("tracking=mlflow")
    run = driver.new_run(space, tmp_path / "run")
    with pytest.raises(TrialError, match="mlflow is not installed"):
        searched(space, run)
    assert not run.root.exists()
