"""Constants and domains back as the plain data that a space file holds."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from .domains import Choice, FloatRange, IntRange, Option, Ratio, Value


def plain_block(values: Mapping[str, Value]) -> dict[str, object]:
    """A block of values as plain data."""
    return {name: plain_value(value) for name, value in values.items()}


def plain_value(value: Value) -> object:
    """A constant (copied) or a domain as plain data."""
    match value:
        case Choice(options):
            return {"choice": [_option(option) for option in options]}
        case FloatRange() | IntRange():
            return _range(value)
        case Ratio(of, domain):
            inner = plain_value(domain)
            return {"ratio_of": of, **(inner if isinstance(inner, dict) else {})}
        case _:
            return copy.deepcopy(value)


def _option(option: Option) -> object:
    value = copy.deepcopy(option.value)
    if option.given:
        return {"value": value, "with": plain_block(option.given)}
    # A mapping that looks like the long form of an option must be written in that form.
    looks_long = isinstance(value, dict) and "value" in value and set(value) <= {"value", "with"}
    return {"value": value} if looks_long else value


def _range(domain: FloatRange | IntRange) -> dict[str, object]:
    whole = isinstance(domain, IntRange)
    keyword = ("log_" if domain.log else "") + ("int" if whole else "uniform")
    found: dict[str, object] = {keyword: [domain.low, domain.high]}
    if domain.step is not None and not (whole and domain.step == 1):
        found["step"] = domain.step
    return found
