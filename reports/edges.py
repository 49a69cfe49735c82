"""Where to search next: an optimum at the end of a range is seldom the optimum."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..spaces import Choice, FloatRange, IntRange, Space
from . import formats
from .leaderboard import Leaderboard

_NEAR = 0.1
"""Of a range (of its logarithm, where it is searched so): what counts as its end."""


def at_edges(board: Leaderboard, space: Space) -> tuple[str, ...]:
    """A sentence for each hyperparameter of the best trial that lies at an end of its range.

    Of choices among numbers, the lowest and the highest are ends. Nothing is said where the default
    configuration is the best: it may lie outside the space.
    """
    best = board.best
    if best is None or best.kind != "trial":
        return ()
    found = []
    for name, domain in _domains(space):
        value = best.settings.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            end = _end(float(value), domain)
            if end:
                low, high = (formats.brief(bound) for bound in _bounds(domain))
                found.append(
                    f"{name} {formats.brief(value)} lies at the {end} end of what was searched "
                    f"({low} to {high}): search beyond it."
                )
    return tuple(found)


def _domains(space: Space) -> Iterator[tuple[str, Choice | FloatRange | IntRange]]:
    for block in (space.lora, space.train):
        for name, domain in block.values.items():
            if isinstance(domain, FloatRange | IntRange) or (
                isinstance(domain, Choice) and len(_numbers(domain)) > 1
            ):
                yield name, domain


def _numbers(domain: Choice) -> list[float]:
    """The options' values, if all of them are numbers."""
    values = [option.value for option in domain.options]
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return sorted(float(str(value)) for value in values) if plain else []


def _bounds(domain: Choice | FloatRange | IntRange) -> tuple[float, float]:
    """The lowest and the highest value."""
    if isinstance(domain, Choice):
        numbers = _numbers(domain)
        return numbers[0], numbers[-1]
    return domain.low, domain.high


def _end(value: float, domain: Choice | FloatRange | IntRange) -> str | None:
    low, high = _bounds(domain)
    if isinstance(domain, Choice):
        return "lower" if value == low else "upper" if value == high else None
    if low == high:
        return None
    log = domain.log and low > 0
    place = math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
    return "lower" if place <= _NEAR else "upper" if place >= 1 - _NEAR else None
