"""A search under Ray whose objective is a function of the user's, of which more is better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState as OptunaState
from outcomes import read_back
from ray_searches import TinySearch, ray_search
from tune_lora.reports import build
from tune_lora.trainer.result import TrialState

TRIALS = 6
METRIC = "alike_of_ray:share"
MODULE = """
from difflib import SequenceMatcher

def share(predictions, references, rows):
    pairs = zip(predictions, references)
    return sum(SequenceMatcher(None, *pair).ratio() for pair in pairs) / len(rows)
"""


def test_asha_stops_those_with_less_and_optuna_is_told_so(
    tiny: Callable[..., Path], pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alike_of_ray.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    search = {
        "trials": TRIALS,
        "metric": METRIC,
        "metrics": ["rougeL"],
        "generation": {"rows": 3, "max_new_tokens": 6},
        "keep_adapters": 2,
        "scheduler": {"asha": {"grace_steps": 2, "reduction_factor": 2}},
    }
    run = ray_search(TinySearch(tmp_path, tiny(), pairs, search))
    results, told = list(run.results()), read_back(run)
    assert [result.number for result in results] == list(range(TRIALS))
    assert {result.state for result in results} <= {TrialState.COMPLETE, TrialState.PRUNED}
    study = optuna.load_study(study_name=run.name, storage=f"sqlite:///{run.study}")
    assert study.direction is optuna.study.StudyDirection.MAXIMIZE
    for result, trial in zip(results, told, strict=True):
        shares = {e.step: e.metrics[METRIC] for e in result.evaluations}
        assert result.score == max(shares.values())
        assert trial.intermediate_values == shares
        assert trial.state is OptunaState[result.state.name]
        if result.state is TrialState.PRUNED:
            # Somebody had more at the rung where it was stopped, and went on.
            others = [r for r in results if r.step > result.step]
            at_rung = [
                e.metrics[METRIC] for r in others for e in r.evaluations if e.step == result.step
            ]
            assert max(at_rung) > shares[result.step]
    ranked = [row for row in build(run).rows if row.rank]
    assert [row.score for row in ranked] == sorted((r.score for r in results), reverse=True)
    kept = {r.number for r in results if run.trial(r.number).adapter.is_dir()}
    assert kept == {row.trial for row in ranked[:2]}
    base = run.read_base()
    assert base is not None
    assert set(base.metrics) == {METRIC, "rougeL"}
