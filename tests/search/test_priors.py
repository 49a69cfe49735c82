"""Where a search starts: which configurations, in which order, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from modelless import space_in
from optuna.trial import TrialState as OptunaState
from outcomes import everything, following, opened, read_back
from tune_lora.search.priors import LEARNING_RATES, prior_params
from tune_lora.spaces import Space
from tune_lora.trainer.folder import RunFolder

SpaceOf = Callable[..., Space]

RATE, RANK = "train.learning_rate", "lora.r"
WIDE = {"learning_rate": {"log_uniform": [3e-5, 2e-3]}}
CONSTANT = {"r": 8}


@pytest.fixture
def space_of(tmp_path: Path) -> SpaceOf:
    return partial(space_in, tmp_path)


def rates(space: Space) -> list[object]:
    return [params[RATE] for params in prior_params(space)]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random", "qmc"])
@pytest.mark.parametrize("baseline", [True, False])
def test_they_are_the_first_trials_after_the_baseline(
    space_of: SpaceOf, run: RunFolder, sampler: str, baseline: bool
) -> None:
    space = space_of(
        train=WIDE, search={"trials": 4 + baseline, "baseline": baseline, "sampler": sampler}
    )
    configs = everything(opened(space, run))[baseline:]
    assert [config.train["learning_rate"] for config in configs[:3]] == list(LEARNING_RATES)
    assert [config.lora["r"] for config in configs[:3]] == [4] * 3
    assert configs[3].train["learning_rate"] not in LEARNING_RATES


def test_a_grid_begins_with_those_that_are_on_it(space_of: SpaceOf, run: RunFolder) -> None:
    grid = {"learning_rate": {"choice": [1e-4, 2e-4, 3e-4, 5e-4]}}
    space = space_of(train=grid, search={"trials": 20, "sampler": "grid"})
    configs = everything(opened(space, run))[1:]
    found = [(config.train["learning_rate"], config.lora["r"]) for config in configs]
    assert found[:2] == [(3e-4, 4), (2e-4, 4)]
    assert len(set(found)) == len(found) == 8


def test_they_can_be_turned_off(space_of: SpaceOf, run: RunFolder) -> None:
    space = space_of("search.priors=false", train=WIDE, search={"trials": 5})
    found = {config.train["learning_rate"] for config in everything(opened(space, run))}
    assert found.isdisjoint(LEARNING_RATES)


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ({"log_uniform": [3e-5, 2e-3]}, [3e-4, 1e-3, 2e-4]),
        ({"log_uniform": [2e-4, 3e-4]}, [3e-4, 2e-4]),
        ({"log_uniform": [2.5e-4, 2e-3]}, [3e-4, 1e-3]),
        ({"log_uniform": [1e-5, 1e-4]}, []),
        ({"uniform": [1e-4, 1e-3], "step": 1e-4}, [3e-4, 1e-3, 2e-4]),
        ({"uniform": [1.5e-4, 1.05e-3], "step": 1e-4}, []),
        ({"choice": [1e-3, 2e-5, 2e-4]}, [1e-3, 2e-4]),
        ({"choice": [2e-5, 5e-5]}, []),
        (3e-4, []),
    ],
)
def test_what_lies_outside_is_left_out(
    space_of: SpaceOf, domain: object, expected: list[float]
) -> None:
    assert rates(space_of(train={"learning_rate": domain})) == expected


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ({"choice": [8, 16, 32, 64, 128]}, 64),
        ({"choice": [32, 8, 16]}, 32),
        ({"choice": [128, 256]}, 128),
        ({"int": [4, 256]}, 64),
        ({"int": [4, 48]}, 48),
        ({"int": [96, 256]}, 96),
        ({"int": [6, 86], "step": 20}, 46),
        ({"log_int": [4, 256]}, 64),
    ],
)
def test_the_largest_rank_up_to_64(space_of: SpaceOf, domain: object, expected: int) -> None:
    found = prior_params(space_of(train=WIDE, lora={"r": domain}))
    assert [params[RANK] for params in found] == [expected] * 3


@pytest.mark.parametrize(
    ("lora", "expected"),
    [
        ({"target_modules": {"choice": ["qv", "all-linear"]}}, {"target_modules": "all-linear"}),
        ({"target_modules": {"choice": ["qv", "mlp"]}}, {}),
        ({"lora_dropout": {"choice": [0.1, 0.0]}}, {"lora_dropout": 0.0}),
        ({"lora_dropout": {"uniform": [0.0, 0.1]}}, {}),
        ({"lora_alpha": {"choice": [16, 32]}}, {}),
        ({"lora_alpha": {"ratio_of": "r", "choice": [1, 2]}}, {}),
    ],
)
def test_other_fields_are_set_only_where_there_is_evidence(
    space_of: SpaceOf, lora: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    found = prior_params(space_of(train=WIDE, lora={**CONSTANT, **lora}))
    named = {f"lora.{name}": value for name, value in expected.items()}
    assert found == [{RATE: rate, **named} for rate in LEARNING_RATES]


def test_what_they_leave_open_is_the_samplers(space_of: SpaceOf, run: RunFolder) -> None:
    decay = {"weight_decay": {"uniform": [0.0, 0.1]}}
    configs = everything(opened(space_of(train={**WIDE, **decay}, search={"trials": 4}), run))
    assert [config.train["learning_rate"] for config in configs[1:]] == list(LEARNING_RATES)
    found = {config.train["weight_decay"] for config in configs[1:]}
    assert len(found) == 3
    assert all(0.0 <= value <= 0.1 for value in found)


@pytest.mark.parametrize("first", [True, False])
def test_an_option_with_its_own_learning_rates_does_not_take_their_place(
    space_of: SpaceOf, run: RunFolder, first: bool
) -> None:
    given = {"value": True, "with": {RATE: {"log_uniform": [1e-5, 1e-4]}}}
    options = [given, False] if first else [False, given]
    space = space_of(train=WIDE, lora={"use_dora": {"choice": options}}, search={"trials": 4})
    assert [params["lora.use_dora"] for params in prior_params(space)] == [False] * 3
    configs = everything(opened(space, run))[1:]
    assert [config.train["learning_rate"] for config in configs] == list(LEARNING_RATES)


def test_a_choice_that_brings_neither_rate_nor_rank_is_the_samplers(space_of: SpaceOf) -> None:
    given = {"value": True, "with": {"lora.lora_alpha": {"choice": [8, 16]}}}
    space = space_of(train=WIDE, lora={"use_dora": {"choice": [given, False]}})
    assert [set(params) for params in prior_params(space)] == [{RATE, RANK}] * 3


@pytest.mark.parametrize("kept", [True, False])
def test_a_search_killed_at_its_start_still_begins_with_them(
    space_of: SpaceOf, run: RunFolder, kept: bool
) -> None:
    space = space_of(train=WIDE, search={"trials": 4})
    study = opened(space, run)
    if kept:
        following(study)
    else:
        study._study.ask()
    configs = everything(opened(space, run))
    assert [config.number for config in configs] == [0, 1, 2, 3]
    assert [config.train["learning_rate"] for config in configs[1:]] == list(LEARNING_RATES)


def test_resumed_they_are_not_tried_again(space_of: SpaceOf, run: RunFolder) -> None:
    for trials in (2, 6):
        everything(opened(space_of(train=WIDE, search={"trials": trials}), run))
    found = [trial.params.get(RATE) for trial in read_back(run)]
    assert found[1:4] == list(LEARNING_RATES)
    assert len(found) == len(set(found)) == 6
    assert all(trial.state is OptunaState.RUNNING for trial in read_back(run))
