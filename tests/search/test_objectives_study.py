"""A study with several objectives: what Optuna is told, and that every sampler goes on with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from modelless import space_in
from optuna.study import StudyDirection
from optuna.trial import TrialState as OptunaState
from outcomes import following, opened, outcome, read_back
from tune_lora.search.measures import measures_of, measures_said
from tune_lora.search.study import Study
from tune_lora.spaces import Space
from tune_lora.spaces.crosschecks import SEVERAL
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialState


def space_of(folder: Path, *overrides: str, metric: Any = ("eval_loss", "parameters")) -> Space:
    return space_in(
        folder,
        *overrides,
        data={"general": "g.jsonl"},
        search={"metric": [*metric], "trials": 12, "baseline": False, "priors": False},
    )


def told(study: Study, run: RunFolder, config: TrialConfig, loss: float) -> None:
    size = 100 * config.lora["r"]
    study.tell(outcome(config, TrialState.COMPLETE, [loss], trainable_parameters=size))


def test_directions_names_and_values(tmp_path: Path, run: RunFolder) -> None:
    space = space_of(tmp_path, metric=("exact_match", "eval_loss", "seconds"))
    study = opened(space, run)
    config = following(study)
    assert (config.metric, config.objectives) == ("exact_match", space.search.objectives)
    assert TrialConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    done = outcome(config, TrialState.COMPLETE, [2.0, 1.0], seconds=12.5)
    assert done.best is not None
    evaluations = [
        {**vars(each), "metrics": {"exact_match": share}}
        for each, share in zip(done.evaluations, (0.5, 0.25), strict=True)
    ]
    kept = type(done).from_dict(
        {**done.to_dict(), "evaluations": evaluations, "score": 0.5, "best_step": 1}
    )
    study.report(kept)
    study.tell(kept)
    (frozen,) = read_back(run)
    assert (frozen.state, frozen.values) == (OptunaState.COMPLETE, [0.5, 2.0, 12.5])
    on_disk = optuna.load_study(study_name=run.name, storage=f"sqlite:///{run.study}")
    up, down = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    assert on_disk.directions == [up, down, down]
    assert on_disk.metric_names == ["exact_match", "eval_loss", "seconds"]


def test_stopped_and_incomplete_trials_have_no_values(tmp_path: Path, run: RunFolder) -> None:
    study = opened(space_of(tmp_path, metric=("eval_loss", "forgetting")), run)
    study.tell(outcome(following(study), TrialState.PRUNED, [3.0]))
    study.tell(outcome(following(study), TrialState.COMPLETE, [3.0]))
    pruned, without = read_back(run)
    assert (pruned.state, pruned.values) == (OptunaState.PRUNED, None)
    assert (without.state, without.values) == (OptunaState.FAIL, None)


@pytest.mark.parametrize("sampler", SEVERAL)
def test_every_sampler_goes_on_after_a_resume(tmp_path: Path, run: RunFolder, sampler: str) -> None:
    learning = {"choice": [1e-3, 3e-3, 1e-2, 3e-2]} if sampler == "grid" else None
    over = ["train.learning_rate={choice: [1e-3, 3e-3, 1e-2, 3e-2]}"] if learning else []
    space = space_of(tmp_path, f"search.sampler={sampler}", "search.trials=8", *over)
    seen = set()
    for part in (5, 3):
        # As a resumed search opens it.
        study = opened(space, run)
        for place in range(part):
            config = following(study)
            seen.add(config.digest())
            if place == 2:
                study.tell(outcome(config, TrialState.PRUNED, [3.0]))
            else:
                told(study, run, config, 100 * config.train["learning_rate"])
    assert len(seen) == 8
    assert opened(space, run).next_config() is None
    states = [trial.state for trial in read_back(run)]
    assert states.count(OptunaState.COMPLETE) == 6
    assert states.count(OptunaState.PRUNED) == 2


def test_what_is_measured_when(tmp_path: Path) -> None:
    space = space_of(tmp_path, metric=("eval_loss", "forgetting", "parameters"))
    assert measures_of(space) == {}
    said = measures_said(space)
    assert said == (
        "eval_loss (less is better), forgetting (less), parameters (less); trials are ranked by "
        "Pareto fronts, and while they train eval_loss alone decides; "
        "forgetting of each trial at its end, on g.jsonl"
    )
    each = space_of(tmp_path, metric=("forgetting", "json_valid"))
    assert measures_of(each)["general"] is True
    assert measures_of(each)["names"] == ["json_valid"]
    beside = space_of(tmp_path, "search.metrics=[general_loss]")
    assert (measures_of(beside)["general"], measures_of(beside)["names"]) == (True, [])
