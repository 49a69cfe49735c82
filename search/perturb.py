"""How population based training changes a configuration: each value a little, or drawn anew.

Factors and odds are those of the paper (https://arxiv.org/abs/1711.09846, section 4.1.1) and of Ray
Tune's ``PopulationBasedTraining``. Unlike Ray's, a value never leaves its domain.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

from ..spaces import PBT_CHANGES, Choice, FloatRange, IntRange, Sample, Simple, Space

FACTORS = (0.8, 1.2)


def perturbed(
    space: Space, params: Mapping[str, Any], resample: float, dice: random.Random
) -> tuple[Sample, dict[str, Any]]:
    """A configuration like the one of ``params``, values of ``PBT_CHANGES`` changed.

    Args:
        space: where it comes from.
        params: by name, as a sampler has drawn them.
        resample: chance that a value is drawn anew.
        dice: where chance comes from.

    Returns:
        The configuration, as ``Space.sample`` returns it, and its parameters by name.
    """
    found: dict[str, Any] = {}

    def answer(name: str, domain: Simple) -> Any:
        if name not in params:
            # Another option of a conditional choice asks for values that the one before did not.
            found[name] = drawn(domain, dice)
        # A conditional parameter is named after its key, "@" and its condition.
        elif name.split("@")[0] in PBT_CHANGES:
            found[name] = _changed(domain, params[name], resample, dice)
        else:
            found[name] = params[name]
        return found[name]

    return space.sample(answer), found


def _changed(domain: Simple, value: Any, resample: float, dice: random.Random) -> Any:
    if dice.random() < resample:
        return drawn(domain, dice)
    if isinstance(domain, Choice):
        place = domain.labels.index(value) + dice.choice((-1, 1))
        return domain.labels[max(0, min(len(domain.labels) - 1, place))]
    return _within(domain, value * dice.choice(FACTORS))


def drawn(domain: Simple, dice: random.Random) -> Any:
    """A value of the domain, at random as a sampler that knows nothing would draw it."""
    if isinstance(domain, Choice):
        return dice.choice(domain.labels)
    if domain.log:
        return _within(domain, math.exp(dice.uniform(math.log(domain.low), math.log(domain.high))))
    return _within(domain, dice.uniform(domain.low, domain.high))


def _within(domain: FloatRange | IntRange, value: float) -> float:
    """The nearest value of the domain."""
    if domain.step is not None:
        value = domain.low + round((value - domain.low) / domain.step) * domain.step
    return min(domain.high, max(domain.low, value))
