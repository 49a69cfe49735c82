"""Walking through a space: drawing a configuration from it, and finding one in it.

Both are the same walk. It goes through conditional choices first, for their options replace
other keys' values, then through all other values, and through ratios last; wherever it meets a
domain it asks for a label or a number. Drawing asks the sampler; finding a configuration asks
that configuration, and then compares what came out with what was wanted.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, cast

from .domains import (
    Choice,
    FloatRange,
    IntRange,
    Label,
    Option,
    Ratio,
    Simple,
    Value,
    label_text,
)
from .fields import block_fields

Suggest: TypeAlias = Callable[[str, Simple], object]
Sample: TypeAlias = dict[str, dict[str, object]]

_TOLERANCE: Final = 1e-9


@dataclass(frozen=True)
class Parameter:
    """One parameter that a sampler may be asked for.

    Attributes:
        name: `lora.r`; of a ratio `lora.lora_alpha.ratio`; of a value that an option brings
            `train.learning_rate@lora.use_dora=true`.
        domain: What it is drawn from.
        condition: Parameter and label that bring it; None for one of the space's own values.
            Those too are not asked for in a trial whose options replace them.
    """

    name: str
    domain: Simple
    condition: tuple[str, Label] | None = None


class Chooser(Protocol):
    """Answers the walk: a label of a choice, or a number."""

    def __call__(self, name: str, domain: Simple, key: str, scale: float | None) -> object:
        """Answer for parameter `name` of `key`; `scale` is what a ratio is multiplied with."""
        ...


class _OutsideError(Exception):
    """The wanted configuration is not in the space."""


def parameters(values: Mapping[str, Value]) -> tuple[Parameter, ...]:
    """Every parameter of the values (by dotted key), in the order of the walk."""
    first = [key for key, value in values.items() if conditional(value)]
    others = [key for key in values if key not in first]
    found: list[Parameter] = []
    for key in (*first, *others):
        found += _parameters_of(key, values[key], None)
        for option in values[key].options if key in first else ():  # type: ignore[union-attr]
            for name, value in option.given.items():
                found += _parameters_of(name, value, (key, option.label))
    return tuple(found)


def draw(values: Mapping[str, Value], suggest: Suggest) -> Sample:
    """One configuration; see `Space.sample`."""

    def choose(name: str, domain: Simple, key: str, scale: float | None) -> object:
        return suggest(name, domain)

    return _nested(_walk(values, choose))


def locate(
    values: Mapping[str, Value], wanted: Mapping[str, Mapping[str, object]]
) -> dict[str, Label] | None:
    """The answers that make `draw` return `wanted`; see `Space.locate`."""
    flat = {f"{block}.{name}": value for block in wanted for name, value in wanted[block].items()}
    answers: dict[str, Label] = {}

    def choose(name: str, domain: Simple, key: str, scale: float | None) -> object:
        if key not in flat:
            raise _OutsideError
        answers[name] = _answer(domain, key, flat[key], scale)
        return answers[name]

    try:
        found = _walk(values, choose)
    except _OutsideError:
        return None
    same = found.keys() == flat.keys() and all(_equal(found[key], flat[key]) for key in flat)
    return answers if same else None


def conditional(value: Value) -> bool:
    """Whether a value is a choice of which some option brings values for other keys."""
    return isinstance(value, Choice) and any(option.given for option in value.options)


def finish(key: str, number: float) -> float:
    """A ratio's product as its field takes it: rounded (half to even) for a field of ints."""
    block, _, name = key.partition(".")
    kinds = block_fields(block)[name].type
    return number if kinds.has("float") or not math.isfinite(number) else round(number)


def _walk(values: Mapping[str, Value], choose: Chooser) -> dict[str, object]:
    found: dict[str, object] = dict.fromkeys(values)  # keeps the order of the file
    effective = dict(values)
    suffix: dict[str, str] = {}
    for key, value in values.items():
        if conditional(value):
            option = _pick(cast(Choice, value), key, key, choose, None)
            effective[key] = option.value
            effective.update(option.given)
            suffix.update(dict.fromkeys(option.given, condition_suffix(key, option.label)))
    for key, value in effective.items():
        if not isinstance(value, Ratio):
            found[key] = _resolve(value, key, key + suffix.get(key, ""), choose)
    for key, value in effective.items():
        if isinstance(value, Ratio):
            scale = cast(float, found[value.of])
            name = f"{key}.ratio{suffix.get(key, '')}"
            factor = _resolve(value.domain, key, name, choose, scale)
            found[key] = finish(key, cast(float, factor) * scale)
    return found


def _resolve(
    value: Value, key: str, name: str, choose: Chooser, scale: float | None = None
) -> object:
    if isinstance(value, Choice):
        return copy.deepcopy(_pick(value, key, name, choose, scale).value)
    if isinstance(value, IntRange):
        return int(cast(int, choose(name, value, key, scale)))
    if isinstance(value, FloatRange):
        return float(cast(float, choose(name, value, key, scale)))
    return copy.deepcopy(value)


def _pick(choice: Choice, key: str, name: str, choose: Chooser, scale: float | None) -> Option:
    return choice.option(choose(name, choice, key, scale))


def condition_suffix(key: str, label: Label) -> str:
    """What the name of a conditional parameter ends in."""
    return f"@{key}={label_text(label)}"


def _parameters_of(
    key: str, value: Value, condition: tuple[str, Label] | None
) -> Iterator[Parameter]:
    suffix = condition_suffix(*condition) if condition else ""
    if isinstance(value, Ratio):
        yield Parameter(f"{key}.ratio{suffix}", value.domain, condition)
    elif isinstance(value, Choice | FloatRange | IntRange):
        yield Parameter(f"{key}{suffix}", value, condition)


def _answer(domain: Simple, key: str, wanted: object, scale: float | None) -> Label:
    """The label or number that gives the wanted value; raises if none does."""
    if isinstance(domain, Choice):
        for option in domain.options:
            value: object = option.value
            if scale is not None:
                value = finish(key, cast(float, value) * scale)
            if _equal(value, wanted):
                return option.label
        raise _OutsideError
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        raise _OutsideError
    for number in _candidates(domain, float(wanted) if scale is None else wanted / scale):
        if _equal(number if scale is None else finish(key, number * scale), wanted):
            return number
    raise _OutsideError


def _candidates(domain: FloatRange | IntRange, number: float) -> Iterator[float]:
    """Numbers of the domain nearest to one: itself if it can, then its neighbours on the grid."""
    inside = min(max(number, domain.low), domain.high)
    step = domain.step
    if step is None:
        yield inside
        return
    nearest = round((inside - domain.low) / step)
    last = round((domain.high - domain.low) / step)
    for index in (nearest, nearest - 1, nearest + 1):
        if 0 <= index <= last:
            yield domain.low + index * step


def _equal(left: object, right: object) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return math.isclose(left, right, rel_tol=_TOLERANCE)
    return left == right


def _nested(flat: Mapping[str, object]) -> Sample:
    sample: Sample = {"lora": {}, "train": {}}
    for key, value in flat.items():
        block, _, name = key.partition(".")
        sample[block][name] = value
    return sample
