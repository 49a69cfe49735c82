"""How long a search takes: what was measured of one trial, scaled by arithmetic to others."""

from __future__ import annotations

from collections.abc import Sequence

from ..trainer.config import TrialConfig
from ..trainer.targets import adapter_parameters, resolve_targets
from .classes import Values
from .layout import Layout, some_values
from .plan import Plan

_FORWARD, _PASS_FROZEN, _PASS_TRAINED = 2, 4, 6
"""Operations a weight and token: of a forward pass, and with the backward one."""


def passes(values: Values) -> int:
    """Forward and backward passes of a trial that goes to its horizon."""
    train = values["train"]
    return int(train["max_steps"]) * int(train.get("gradient_accumulation_steps", 1))


def seconds(plan: Plan, trials: Sequence[Values], measured: TrialConfig, rate: float) -> float:
    """Of the workers together, for trials that all go to their horizon, evaluations included.

    Loading, and answers that metrics ask for, are not in it.

    Args:
        plan: of their space.
        trials: to train.
        measured: the trial whose passes were counted.
        rate: its passes a second, of all workers together.
    """
    one = _of_a_pass(plan, {"lora": measured.lora, "train": measured.train})
    work = (passes(v) * _of_a_pass(plan, v) + _of_evaluations(plan, v) for v in trials)
    return sum(work) / one / rate


def search_seconds(plan: Plan, layout: Layout) -> float | None:
    """Of the whole search; None where nothing was measured."""
    if layout.speed is None:
        return None
    draws = some_values(plan.space)
    taken = seconds(plan, draws, layout.speed.trial, layout.speed.rate)
    return taken / len(draws) * plan.space.search.trials


def trial_seconds(plan: Plan, values: Values, layout: Layout) -> float | None:
    """Of one trial, while all workers are busy; None where nothing was measured."""
    if layout.speed is None:
        return None
    taken = seconds(plan, [values], layout.speed.trial, layout.speed.rate)
    return taken * layout.allocation.trials


def _weights(plan: Plan, values: Values) -> tuple[int, int]:
    """Frozen and trained."""
    lora = values["lora"]
    targets = resolve_targets(lora["target_modules"], plan.modules)
    trained = adapter_parameters(targets, int(lora["r"]), plan.modules)
    return sum(parameter.numel() for parameter in plan.modules.parameters()), trained


def _of_a_pass(plan: Plan, values: Values) -> float:
    frozen, trained = _weights(plan, values)
    tokens = int(values["train"].get("per_device_train_batch_size", 8)) * plan.lengths.mean
    return float(tokens * (_PASS_FROZEN * frozen + _PASS_TRAINED * trained))


def _of_evaluations(plan: Plan, values: Values) -> float:
    frozen, trained = _weights(plan, values)
    tokens = plan.lengths.judged * len(plan.space.rungs())
    return float(tokens * _FORWARD * (frozen + trained))
