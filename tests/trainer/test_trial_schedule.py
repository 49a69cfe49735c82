"""When a trial is evaluated, and that its learning rates do not depend on when it is stopped."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from tiny_trials import Outcome, go_on, make_config, stop
from tune_lora.trainer.result import TrialResult, TrialState

Trial = Callable[..., Outcome]


def cosine(step: int, *, peak: float, warmup: int, horizon: int) -> float:
    """The rate of optimizer step ``step`` (from 1): linear warmup, then half a cosine to 0."""
    done = step - 1
    if done < warmup:
        return peak * done / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (horizon - warmup)))


@pytest.mark.parametrize(("report", "steps"), [(go_on, 12), (stop, 5)])
def test_schedule_spans_the_horizon_even_if_the_trial_is_stopped(
    trial: Trial, report: Callable[[TrialResult], bool], steps: int
) -> None:
    config = make_config(
        rungs=(5,), max_steps=12, lr_scheduler_type="cosine", warmup_steps=3, learning_rate=1e-2
    )
    rates = [row["learning_rate"] for row in trial(config, report=report).rows("learning_rate")]
    expected = [cosine(step, peak=1e-2, warmup=3, horizon=12) for step in range(1, steps + 1)]
    assert rates == pytest.approx(expected, rel=1e-6)


def test_stopped_trial_trained_as_the_whole_one_did_so_far(trial: Trial) -> None:
    config = make_config(rungs=(3,), max_steps=9, lr_scheduler_type="cosine")
    whole, cut = trial(config), trial(config, report=stop)
    assert [row["loss"] for row in cut.rows("loss")] == [row["loss"] for row in whole.rows("loss")][
        :3
    ]
    assert cut.losses == whole.losses[:1]


@pytest.mark.parametrize(
    ("rungs", "train", "steps"),
    [
        ((1, 3), {"max_steps": 7}, [1, 3, 7]),
        ((), {"max_steps": 3}, [3]),
        ((), {"max_steps": 1}, [1]),
        ((2, 3), {"max_steps": 8, "eval_steps": 4}, [2, 3, 4, 8]),
        ((4,), {"max_steps": 7, "eval_steps": 2}, [2, 4, 6, 7]),
        ((), {"max_steps": 5, "eval_steps": None}, [5]),
        # 32 rows are 8 batches: the second rung lies in the second epoch.
        ((8, 9), {"max_steps": 10}, [8, 9, 10]),
    ],
)
def test_evaluated_at_the_rungs_and_every_eval_steps(
    trial: Trial, rungs: tuple[int, ...], train: dict[str, Any], steps: list[int]
) -> None:
    outcome = trial(make_config(rungs=rungs, **train))
    assert outcome.result.state is TrialState.COMPLETE
    assert [item.step for item in outcome.result.evaluations] == steps
    assert [row["step"] for row in outcome.rows("eval_loss")] == steps
    assert [row["step"] for row in outcome.rows("loss")] == list(range(1, train["max_steps"] + 1))


def test_report_sees_the_trial_so_far_and_never_the_horizon(trial: Trial) -> None:
    seen: list[TrialResult] = []

    def report(result: TrialResult) -> bool:
        seen.append(result)
        return True

    outcome = trial(make_config(rungs=(1, 3), max_steps=5), report=report)
    assert [result.step for result in seen] == [1, 3]
    assert all(result.state is TrialState.RUNNING for result in seen)
    assert [result.evaluations for result in seen] == [
        outcome.result.evaluations[:1],
        outcome.result.evaluations[:2],
    ]
    assert [result.score for result in seen] == [
        min(outcome.losses[:1]),
        min(outcome.losses[:2]),
    ]
