"""Population based training's changes of a configuration."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from modelless import space_in
from tune_lora.search.perturb import perturbed
from tune_lora.spaces import Space

DICE = range(300)


def changed(space: Space, key: str, value: Any, *, resample: float = 0.0) -> list[Any]:
    """What ``value`` becomes under many dice, and that configuration and parameters agree."""
    found = []
    for seed in DICE:
        had = {name: _middle(space, name) for name in _names(space)} | {key: value}
        values, params = perturbed(space, had, resample, random.Random(seed))
        block, _, field = key.partition("@")[0].partition(".")
        assert values[block][field] == params[key]
        found.append(params[key])
    return found


def _names(space: Space) -> list[str]:
    return [p.name for p in space.parameters() if p.condition is None]


def _middle(space: Space, name: str) -> Any:
    domain: Any = next(p.domain for p in space.parameters() if p.name == name)
    return domain.labels[0] if hasattr(domain, "labels") else domain.low


def rate(folder: Path, domain: Any, **train: Any) -> Space:
    return space_in(folder, train={"learning_rate": domain, **train})


def test_a_value_is_multiplied_by_either_factor(tmp_path: Path) -> None:
    space = rate(tmp_path, {"log_uniform": [1e-5, 1e-1]})
    found = changed(space, "train.learning_rate", 1e-3)
    assert set(found) == {1e-3 * 0.8, 1e-3 * 1.2}
    assert 100 < found.count(1e-3 * 0.8) < 200


def test_it_stays_in_its_domain(tmp_path: Path) -> None:
    space = rate(tmp_path, {"log_uniform": [1e-5, 1e-1]})
    assert set(changed(space, "train.learning_rate", 1e-5)) == {1e-5, 1e-5 * 1.2}
    assert set(changed(space, "train.learning_rate", 1e-1)) == {1e-1, 1e-1 * 0.8}


def test_on_a_grid_it_goes_to_the_nearest_point(tmp_path: Path) -> None:
    domain = {"uniform": [0.0, 0.5], "step": 0.05}
    space = space_in(tmp_path, train={"weight_decay": domain})
    found = set(changed(space, "train.weight_decay", 0.4))
    assert sorted(found) == pytest.approx([0.3, 0.5])
    anew = changed(space, "train.weight_decay", 0.4, resample=1.0)
    assert {round(value / 0.05, 9) % 1 for value in anew} == {0.0}
    assert max(anew) == 0.5


def test_a_choice_moves_to_a_neighbour(tmp_path: Path) -> None:
    space = rate(tmp_path, {"choice": [1e-4, 3e-4, 1e-3, 3e-3]})
    assert set(changed(space, "train.learning_rate", 3e-4)) == {1e-4, 1e-3}
    assert set(changed(space, "train.learning_rate", 1e-4)) == {1e-4, 3e-4}
    assert set(changed(space, "train.learning_rate", 3e-3)) == {1e-3, 3e-3}


def test_a_value_is_drawn_anew_by_chance(tmp_path: Path) -> None:
    space = rate(tmp_path, {"log_uniform": [1e-5, 1e-1]})
    anew = changed(space, "train.learning_rate", 1e-3, resample=1.0)
    assert len(set(anew)) == len(DICE)
    assert all(1e-5 <= value <= 1e-1 for value in anew)
    # Uniform in the logarithm: half of them below the geometric mean.
    assert sum(value < 1e-3 for value in anew) == pytest.approx(150, abs=40)
    some = changed(space, "train.learning_rate", 1e-3, resample=0.25)
    kept = sum(value in (0.8e-3, 1.2e-3) for value in some)
    assert kept == pytest.approx(225, abs=30)
    options = rate(tmp_path, {"choice": [1e-4, 1e-3, 1e-2]})
    assert set(changed(options, "train.learning_rate", 1e-4, resample=1.0)) == {1e-4, 1e-3, 1e-2}


def test_what_shapes_the_adapter_and_the_run_stays(tmp_path: Path) -> None:
    space = space_in(
        tmp_path,
        lora={
            "lora_dropout": {"uniform": [0.0, 0.5]},
            "lora_alpha": {"ratio_of": "r", "choice": [1, 2]},
        },
        train={"warmup_steps": {"int": [0, 3]}, "adam_beta1": {"uniform": [0.5, 0.9]}},
    )
    had = {
        "lora.r": 4,
        "lora.lora_dropout": 0.25,
        "lora.lora_alpha.ratio": 2,
        "train.warmup_steps": 2,
        "train.adam_beta1": 0.625,
        "train.learning_rate": 1e-2,
    }
    for resample in (0.0, 1.0):
        for seed in DICE:
            values, params = perturbed(space, had, resample, random.Random(seed))
            moved = {name for name in had if params[name] != had[name]}
            assert moved == {"train.learning_rate", "train.adam_beta1"}
            assert (values["lora"]["r"], values["lora"]["lora_alpha"]) == (4, 8)
            assert params.keys() == had.keys()


CONDITIONAL = {
    "choice": [
        False,
        {"value": True, "with": {"train.learning_rate": {"log_uniform": [1e-5, 1e-4]}}},
    ]
}


def test_a_conditional_value_stays_in_its_own_domain(tmp_path: Path) -> None:
    space = space_in(tmp_path, lora={"use_dora": CONDITIONAL})
    name = "train.learning_rate@lora.use_dora=true"
    had = {"lora.r": 2, "lora.use_dora": True, name: 1e-4}
    for resample in (0.0, 1.0):
        for seed in DICE:
            values, params = perturbed(space, had, resample, random.Random(seed))
            assert params.keys() == had.keys()
            assert values["lora"]["use_dora"] is True
            assert 1e-5 <= params[name] <= 1e-4
            assert values["train"]["learning_rate"] == params[name]


def test_another_option_draws_what_only_it_asks_for(tmp_path: Path) -> None:
    option = {"value": 1.0, "with": {"lora.r": {"int": [2, 4]}}}
    space = space_in(tmp_path, train={"max_grad_norm": {"choice": [0.5, option]}})
    had = {"lora.r": 2, "train.learning_rate": 1e-2, "train.max_grad_norm": 0.5}
    drawn = set()
    for seed in DICE:
        values, params = perturbed(space, had, 0.0, random.Random(seed))
        if params["train.max_grad_norm"] == 1.0:
            rank = params["lora.r@train.max_grad_norm=1.0"]
            assert isinstance(rank, int)
            assert values["lora"]["r"] == rank
            drawn.add(rank)
        else:
            assert params == {**had, "train.learning_rate": params["train.learning_rate"]}
    assert drawn == {2, 3, 4}


def test_the_same_dice_fall_alike(tmp_path: Path) -> None:
    space = rate(tmp_path, {"log_uniform": [1e-5, 1e-1]})
    had = {"lora.r": 2, "train.learning_rate": 1e-3}
    first, again, other = (
        [perturbed(space, had, 0.5, random.Random(s)) for s in seeds]
        for seeds in (range(9), range(9), range(9, 18))
    )
    assert first == again
    assert first != other


def test_a_sampler_of_the_space_could_have_drawn_it(tmp_path: Path) -> None:
    """Every value is one that the study's own sampler knows: nothing is just outside."""
    space = rate(tmp_path, {"uniform": [0.1, 0.7], "step": 0.1}, adam_epsilon=1e-8)
    for value in changed(space, "train.learning_rate", 0.5, resample=0.5):
        nearest = 0.1 + round((value - 0.1) / 0.1) * 0.1
        assert math.isclose(value, nearest)
        assert 0.1 <= value <= 0.7
