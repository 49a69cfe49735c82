"""The search domains that a value of `lora` or `train` may be written as.

A domain's constructor checks it whole and raises ValueError with the rule broken, so that a
domain that exists can be handed to Optuna as it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeGuard, cast

Constant: TypeAlias = "bool | int | float | str | list[Constant] | dict[str, Constant] | None"
Label: TypeAlias = bool | int | float | str | None

_GRID_TOLERANCE: Final = 1e-6
_MOST_STEPS: Final = 1e9
_ON_GRID: Final = 1e-8
"""How far from a whole number of steps Optuna lets a real number lie."""


@dataclass(frozen=True)
class FloatRange:
    """A real number in [low, high], drawn uniformly or, with `log`, uniformly in its logarithm.

    Attributes:
        low: Smallest value; above 0 with `log`.
        high: Largest value, above `low`.
        log: Whether to draw on a logarithmic scale.
        step: Distance of the values on a grid from `low`; None for any value. Not with `log`.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.log, self.step)

    def holds(self, value: object) -> bool:
        """Whether the value is a number of this range and, with `step`, on its grid."""
        if not _within(value, self.low, self.high):
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < _ON_GRID


@dataclass(frozen=True)
class IntRange:
    """A whole number in [low, high], both included.

    Attributes:
        low: Smallest value; at least 1 with `log`.
        high: Largest value, above `low`.
        log: Whether to draw on a logarithmic scale.
        step: Distance of neighbouring values. Above 1 not with `log`.
    """

    low: int
    high: int
    log: bool = False
    step: int = 1

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.log, None if self.step == 1 else self.step)

    def holds(self, value: object) -> bool:
        """Whether the value is a whole number of this range and on its grid; 8.0 is one."""
        return _within(value, self.low, self.high) and (value - self.low) % self.step == 0


@dataclass(frozen=True)
class Option:
    """One option of a choice.

    Attributes:
        value: The value that the field takes.
        given: Values or domains that other keys (dotted) take when this option is drawn.
    """

    value: Constant
    given: Mapping[str, Value] = field(default_factory=dict)

    @property
    def label(self) -> Label:
        """What stands for the value in a study: see `label_of`."""
        return label_of(self.value)


@dataclass(frozen=True)
class Choice:
    """One of a few options, which may be of any type.

    Attributes:
        options: At least one; their labels, and how the labels read, differ pairwise.
    """

    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("choice needs at least one option")
        labels: list[Label] = []
        for label in self.labels:
            # `==` on purpose: Optuna looks categories up by equality, and True == 1 == 1.0.
            if label in labels or label_text(label) in map(label_text, labels):
                raise ValueError(f"choice has two options that are equal: {label_text(label)}")
            labels.append(label)

    @property
    def labels(self) -> tuple[Label, ...]:
        """Categories that Optuna takes and stores, in the order of the options."""
        return tuple(option.label for option in self.options)

    def holds(self, label: object) -> bool:
        """Whether an option has this label."""
        return label in self.labels

    def option(self, label: object) -> Option:
        """The option that a label stands for.

        Raises:
            ValueError: No option has this label.
        """
        for option in self.options:
            if option.label == label:
                return option
        raise ValueError(f"{label!r} is none of the labels {self.labels}")


Simple: TypeAlias = Choice | FloatRange | IntRange


@dataclass(frozen=True)
class Ratio:
    """A value that is a multiple of another key's value.

    Attributes:
        of: Dotted key of the other value, e.g. `lora.r`.
        domain: The factors; numbers above 0.
    """

    of: str
    domain: Simple

    def __post_init__(self) -> None:
        low, _ = extent(self.domain)
        if low <= 0:
            raise ValueError("a ratio must be above 0")


Domain: TypeAlias = Choice | FloatRange | IntRange | Ratio
Value: TypeAlias = "Constant | Domain"


def label_of(value: Constant) -> Label:
    """A scalar itself; of a list or a mapping its JSON text, with sorted keys."""
    if isinstance(value, list | dict):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    return value


def label_text(label: Label) -> str:
    """How a label reads in a parameter's name: a string as it is, the rest as YAML writes it."""
    return label if isinstance(label, str) else json.dumps(label)


def numbers(domain: Value) -> tuple[float, ...]:
    """The numbers that bound a value: of a choice its options, of a range its two ends.

    Raises:
        ValueError: It is not a number, or is itself a ratio.
    """
    if isinstance(domain, FloatRange | IntRange):
        return (domain.low, domain.high)
    if isinstance(domain, Ratio):
        raise ValueError("must not itself be a ratio")  # noqa: TRY004 - a rule broken by a value
    values = [o.value for o in domain.options] if isinstance(domain, Choice) else [domain]
    found = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(found) < len(values):
        raise ValueError("must be a number, or a domain of numbers")
    return tuple(found)


def extent(domain: Value) -> tuple[float, float]:
    """The smallest and the largest number; errors as in `numbers`."""
    found = numbers(domain)
    return min(found), max(found)


def _within(value: object, low: float, high: float) -> TypeGuard[float]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and low <= cast(float, value) <= high


def _check_range(low: float, high: float, log: bool, step: float | None) -> None:
    if not low < high:
        raise ValueError("the first bound must be below the second")
    if not math.isfinite(high - low):
        raise ValueError("the bounds are too far apart")
    if log and low <= 0:
        raise ValueError("the bounds of a logarithmic domain must be above 0")
    if step is None:
        return
    if log:
        raise ValueError("a logarithmic domain takes no step")
    if step <= 0:
        raise ValueError("step must be above 0")
    steps = (high - low) / step
    if steps > _MOST_STEPS:
        raise ValueError("step is too small for the range")
    if abs(steps - round(steps)) > _GRID_TOLERANCE * max(1.0, steps):
        reached = low + math.floor(steps) * step
        raise ValueError(f"step must divide the range: {reached:.6g} is the last value it reaches")
