"""Searches under Ray with Hyperband and the median rule, of trials that train nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState as OptunaState
from outcomes import read_back
from ray_clusters import instant
from ray_searches import TinySearch, ray_search
from tune_lora.reports import build
from tune_lora.trainer.result import TrialState

TRIALS = 9


@pytest.mark.parametrize(
    ("scheduler", "judged"),
    [
        # Of its three brackets the last judges nobody.
        pytest.param(
            {"hyperband": {"grace_steps": 2, "reduction_factor": 2}},
            (2, 4),
            marks=pytest.mark.slow,
        ),
        ({"median": {"interval_steps": 2, "grace_steps": 4, "min_trials": 2}}, (4, 6)),
    ],
    ids=["hyperband", "median"],
)
def test_it_ends_and_optuna_is_told_the_truth(
    tiny: Callable[..., Path],
    pairs: Path,
    tmp_path: Path,
    scheduler: dict[str, Any],
    judged: tuple[int, ...],
) -> None:
    search = {"trials": TRIALS, "scheduler": scheduler}
    run = ray_search(TinySearch(tmp_path, tiny(), pairs, search), instant(at_once=2))
    results, told = list(run.results()), read_back(run)
    assert [result.number for result in results] == list(range(TRIALS))
    ranked = [row.trial for row in build(run).rows if row.trial is not None]
    assert sorted(ranked) == list(range(TRIALS))

    states = [result.state for result in results]
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    assert states[0] is TrialState.COMPLETE
    for result in results:
        wanted = judged if result.state is TrialState.PRUNED else (8,)
        assert result.step in wanted, result.number
    for result, trial in zip(results, told, strict=True):
        assert trial.state is OptunaState[result.state.name]
        assert trial.intermediate_values == {e.step: e.eval_loss for e in result.evaluations}
        if result.state is TrialState.COMPLETE:
            assert trial.value == result.score
