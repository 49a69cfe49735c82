"""Fronts against their definition, on points with many ties."""

from __future__ import annotations

import random

import pytest
from fake_runs import result
from peeled import peeled
from tune_lora.reports.pareto import fronts, fronts_of
from tune_lora.trainer.result import TrialState


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("values", [2, 5, 1000])
def test_fronts_are_those_of_the_definition(objectives: int, values: int) -> None:
    dice = random.Random(objectives * values)
    for count in (0, 1, 2, 7, 60):
        points = [
            tuple(float(dice.randrange(values)) for _ in range(objectives)) for _ in range(count)
        ]
        assert fronts(points) == peeled(points)


def test_of_trials_those_count_that_have_ended_and_lack_nothing() -> None:
    both = ("eval_loss", "forgetting")

    def trial(number: int, loss: float | None, forgot: float | None, **more: object) -> object:
        found = {} if forgot is None else {"forgetting": forgot}
        return result(number, loss, objectives=both, metrics=found, **more)  # type: ignore[arg-type]

    results = [
        trial(0, 1.0, 0.3),
        trial(1, 0.5, 0.5),
        trial(2, 1.0, 0.5),
        trial(3, 0.4, 0.1, state=TrialState.PRUNED),
        trial(4, 0.4, None),
        trial(5, 0.4, 0.1, state=TrialState.FAILED),
        trial(6, None, None),
    ]
    assert fronts_of(results) == {0: 1, 1: 1, 2: 2}  # type: ignore[arg-type]
    assert fronts_of([result(0, 0.5)]) == {}
