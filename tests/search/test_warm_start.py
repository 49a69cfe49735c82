"""Beginning with another run's best, and what a search may take of the disk."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from outcomes import everything, outcome
from peft import LoraConfig, get_peft_model
from tiny_models import ARCHITECTURES, tiny_model
from tune_lora.search.preflight import preflight
from tune_lora.search.resources import disk_budget
from tune_lora.search.study import Study
from tune_lora.search.warm_start import warm_params
from tune_lora.spaces import Space
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialState
from tune_lora.trainer.targets import adapter_parameters, resolve_targets

SpaceOf = Callable[..., Space]


def ranked(space: Space, run: RunFolder) -> list[dict[str, object]]:
    """A run of which trial n's loss is 9 - n; its parameters, best first."""
    configs = everything(Study(space, run.study, run.name))
    for config in configs:
        result = outcome(config, TrialState.COMPLETE, [9.0 - config.number])
        run.trial(config.number).write_result(replace(result, total_parameters=1))
    return [dict(config.params or {}) for config in reversed(configs) if config.params]


def test_the_best_come_first_and_are_tried_first(
    space_of: SpaceOf, run: RunFolder, tmp_path: Path
) -> None:
    space = space_of("search.trials=6")
    best = ranked(space, run)
    found = warm_params(run, space)
    assert found == best[:3]
    again = Study(space, tmp_path / "again.db", "again", found)
    configs = everything(again)
    assert configs[0].baseline
    assert [dict(config.params or {}) for config in configs[1:4]] == best[:3]


def test_what_the_new_space_lacks_is_left_out(space_of: SpaceOf, run: RunFolder) -> None:
    ranked(space_of("search.trials=6"), run)
    narrow = space_of("train.learning_rate=0.01", "search.trials=6")
    assert all(set(params) == {"lora.r"} for params in warm_params(run, narrow))
    with pytest.raises(TrialError, match="share no parameter"):
        warm_params(run, space_of("train.learning_rate=0.01", "lora.r=2"))


def test_values_off_the_new_grid_are_left_out(
    space_of: SpaceOf, run: RunFolder, tmp_path: Path
) -> None:
    lora = {"r": {"choice": [2, 4]}, "lora_dropout": {"choice": [0.0, 0.05, 0.1]}}
    train = {"learning_rate": 0.01}
    best = ranked(space_of(lora=lora, train=train, search={"trials": 7, "sampler": "grid"}), run)
    assert any(params["lora.r"] == 2 for params in best[:3])
    stepped = space_of(
        lora={"r": {"int": [1, 7], "step": 3}, "lora_dropout": {"uniform": [0, 0.2], "step": 0.1}}
    )
    found = warm_params(run, stepped)
    assert {params.get("lora.r") for params in found} <= {4, None}
    assert {params.get("lora.lora_dropout") for params in found} <= {0.0, 0.1, None}
    study = Study(stepped, tmp_path / "stepped.db", "stepped", found)
    with warnings.catch_warnings():
        # Optuna takes a value off the grid as it is, with a warning.
        warnings.simplefilter("error")
        configs = everything(study)[1:]
    assert {config.lora["r"] for config in configs} <= {1, 4, 7}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("targets", ["qv", "attention", "mlp", "all-linear"])
def test_adapter_parameters_are_pefts(architecture: str, targets: str) -> None:
    model = tiny_model(architecture)
    resolved = resolve_targets(targets, model)
    counted = adapter_parameters(resolved, 4, model)
    task = {"t5": "SEQ_2_SEQ_LM", "bert": None}.get(architecture, "CAUSAL_LM")
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=resolved, task_type=task))
    assert counted == adapted.get_nb_trainable_parameters()[0]


def test_the_budget_holds_what_a_trial_writes(space_of: SpaceOf) -> None:
    largest = preflight(space_of()).largest_adapter
    assert largest == 4 * ((32 + 32) + (32 + 16)) * 2
    assert disk_budget(largest, 3, 2) == 4 * largest * (3 + 2 * 2 * 4)
