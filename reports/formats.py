"""Numbers and values as short text; shared by tables, verdict and model card."""

from __future__ import annotations

import json
import math

ABSENT = "-"


def loss(value: float | None) -> str:
    """Four decimals; four significant digits from 100 on."""
    if value is None:
        return ABSENT
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.4g}"


def short(value: float | None) -> str:
    """Three significant digits: ``0.412``, ``1.5``, ``2,340``, ``1.2e+09``."""
    if value is None:
        return ABSENT
    if not math.isfinite(value) or abs(value) < 999.5:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) < 99_999.5 else f"{value:.1e}"


def objective(name: str, value: float | None) -> str:
    """An objective's value: ``4.88M`` of parameters, ``1.25 GiB``, ``4:07``, else as ``short``."""
    if value is None:
        return ABSENT
    if name == "parameters":
        return count(round(value))
    if name == "memory":
        return size(round(value))
    return clock(value) if name == "seconds" else short(value)


def count(value: int | None) -> str:
    """``921K``, ``4.88M``."""
    if value is None:
        return ABSENT
    for bound, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        # 0.9995 of a unit rounds up to it at three digits.
        if value >= 0.9995 * bound:
            return f"{value / bound:.3g}{unit}"
    return str(value)


def size(value: int | None) -> str:
    """Bytes in binary units: ``734 MiB``, ``1.25 GiB``."""
    if value is None:
        return ABSENT
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if value >= 0.9995 * 2**power:
            number = value / 2**power
            return f"{number:.3g} {unit}" if number < 999.5 else f"{number:.0f} {unit}"
    return f"{value} B"


def clock(seconds: float) -> str:
    """``4:07`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def share(fraction: float | None) -> str:
    """A fraction as a percentage of three significant digits."""
    return ABSENT if fraction is None else f"{100 * fraction:.3g}%"


def plain(value: object) -> str:
    """A hyperparameter in full: numbers as they are, lists joined by commas."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(plain(item) for item in value)
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True, default=str)
    return str(value)


def brief(value: object) -> str:
    """A hyperparameter for a reader: as ``plain``, floats with three significant digits."""
    if value is None:
        return ABSENT
    if isinstance(value, float):
        return f"{value:.3g}"
    return plain(value)


def printable(text: str) -> str:
    """The text on one line, control characters and the like as spaces."""
    return "".join(c if c.isprintable() else " " for c in text)
