"""The scheduler: a trial that falls behind is stopped, the baseline never."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from tune_lora.search.ray_tune import Asha, make_scheduler
from tune_lora.spaces import Space

SpaceOf = Callable[..., Space]


@dataclass
class RayTrial:
    """As much of Ray's trial as a scheduler looks at."""

    trial_id: str
    config: dict[str, object]


def judged(scheduler: TrialScheduler, losses: list[float], *, baseline: int = -1) -> list[bool]:
    """Whether each trial goes on after step 1, one after the other."""
    scheduler.set_search_properties("eval_loss", "min")
    answers = []
    for number, loss in enumerate(losses):
        trial = RayTrial(str(number), {})
        scheduler.on_trial_add(None, trial)
        found = {"step": 1, "eval_loss": loss, "baseline": number == baseline}
        answers.append(scheduler.on_trial_result(None, trial, found) == TrialScheduler.CONTINUE)
    return answers


def better_half(losses: list[float]) -> list[bool]:
    """ASHA of reduction factor 2: no worse than the median of those that were there before."""
    return [not n or loss <= statistics.median(losses[:n]) for n, loss in enumerate(losses)]


LOSSES = [3.0, 2.0, 4.0, 2.5, 1.0, 5.0, 0.5]


def test_the_worse_half_of_a_rung_is_stopped(space_of: SpaceOf) -> None:
    scheduler = make_scheduler(space_of())
    assert isinstance(scheduler, Asha)
    answers = judged(scheduler, LOSSES)
    assert answers == better_half(LOSSES)
    assert False in answers


def test_the_baseline_goes_on_however_far_behind(space_of: SpaceOf) -> None:
    assert judged(make_scheduler(space_of()), LOSSES)[2] is False
    assert judged(make_scheduler(space_of()), LOSSES, baseline=2)[2] is True


def test_a_result_without_a_score_is_no_reason_to_stop(space_of: SpaceOf) -> None:
    scheduler = make_scheduler(space_of())
    judged(scheduler, LOSSES)
    trial = RayTrial("failed", {})
    scheduler.on_trial_add(None, trial)
    found = {"step": 1, "baseline": False}
    assert scheduler.on_trial_result(None, trial, found) == TrialScheduler.CONTINUE


@pytest.mark.parametrize(
    "search", [{"scheduler": "none"}, {"scheduler": {"asha": {"grace_steps": 4}}}]
)
def test_no_rungs_no_stopping(space_of: SpaceOf, search: dict[str, object]) -> None:
    scheduler = make_scheduler(space_of(search=search))
    assert type(scheduler) is FIFOScheduler
