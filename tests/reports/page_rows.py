"""A page's leaderboard as a reader gets it, held against the numbers of ``leaderboard.json``."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any, NamedTuple

_UNITS = {
    "": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "%": 0.01,
    " B": 1.0, " KiB": 2.0**10, " MiB": 2.0**20, " GiB": 2.0**30, " TiB": 2.0**40,
}  # fmt: skip


class Cell(NamedTuple):
    """What is seen in a cell, and the value that it is sorted by."""

    shown: str
    raw: str


class Rows(HTMLParser):
    """The rows of ``#rows``, by the heads of their columns, and which of them are hidden."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.heads: list[str] = []
        self.cells: list[list[Cell]] = []
        self.hidden: list[bool] = []
        self._inside = self._body = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "table":
            self._inside = given.get("id") == "rows"
        elif not self._inside:
            return
        elif tag == "th":
            self.heads.append("")
        elif tag == "tbody":
            self._body = True
        elif tag == "tr" and self._body:
            self.cells.append([])
            self.hidden.append("hidden" in given)
        elif tag == "td":
            self.cells[-1].append(Cell("", given.get("data-value") or ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._inside = self._body = False

    def handle_data(self, data: str) -> None:
        if not self._inside:
            return
        if self._body and self.cells and self.cells[-1]:
            last = self.cells[-1][-1]
            self.cells[-1][-1] = last._replace(shown=last.shown + data)
        elif not self._body and self.heads:
            self.heads[-1] += data


def rows_of(text: str) -> list[dict[str, Cell]]:
    """Every row of a page's leaderboard, hidden or not, in order."""
    page = Rows(text)
    assert len(set(page.heads)) == len(page.heads)
    return [dict(zip(page.heads, cells, strict=True)) for cells in page.cells]


def check_rows(rows: list[dict[str, Cell]], data: dict[str, Any]) -> None:
    """Every cell of every row says what ``leaderboard.json`` says, in full and as it is shown.

    Columns that are not named here are found by their data: some key of the JSON's rows has the
    same values in every row, and what is shown rounds them.
    """
    assert len(rows) == len(data["rows"])
    known = _columns(data)
    assert set(known) <= set(rows[0])
    for head in rows[0]:
        cells = [row[head] for row in rows]
        if head in known:
            expected = [known[head](row) for row in data["rows"]]
            for cell, (value, shown), row in zip(cells, expected, data["rows"], strict=True):
                assert _same(cell.raw, value), (head, row["name"], cell, value)
                assert cell.shown == shown, (head, row["name"], cell, shown)
        else:
            _found(head, cells, data["rows"])


def _columns(data: dict[str, Any]) -> dict[str, Any]:
    """For each column, the value and the text that a row of the JSON stands for."""
    columns = {
        "#": lambda row: (row["rank"], "" if row["rank"] is None else str(row["rank"])),
        "trial": lambda row: (
            row["name"],
            row["name"] + " (default)" * (row["kind"] == "default"),
        ),
        "state": lambda row: (row["state"], row["state"]),
        data["metric"]: lambda row: (row["score"], _loss(row["score"])),
        "perplexity": lambda row: (_perplexity(row), _short(_perplexity(row))),
        "gain over base": lambda row: (row["gain_over_base"], _loss(row["gain_over_base"])),
        "steps": lambda row: (
            row["steps"],
            "-" if row["horizon"] is None else f"{row['steps']}/{row['horizon']}",
        ),
        "trainable": lambda row: (
            row["trainable_parameters"],
            _count(row["trainable_parameters"]),
        ),
        "tokens/s": lambda row: (row["tokens_per_second"], _short(row["tokens_per_second"])),
        "time": lambda row: (row["seconds"], _clock(row["seconds"])),
        "peak memory": lambda row: (_memory(row), _size(_memory(row))),
    }
    if any(row["error"] for row in data["rows"]):
        columns["reason"] = lambda row: (row["error"] or "", row["error"] or "")
    for name in {name for row in data["rows"] for name in row["params"]}:
        columns[name] = lambda row, name=name: _parameter(row["params"], name)
    return columns


def _memory(row: dict[str, Any]) -> int | None:
    found: int | None = row["gpu_memory_bytes"] or row["peak_memory_bytes"]
    return found


def _perplexity(row: dict[str, Any]) -> float | None:
    loss = row["eval_loss"]
    if row["perplexity"] is None and loss is not None:
        assert loss > math.log(1.7e308)
        return math.inf
    assert loss is None or math.isclose(row["perplexity"], math.exp(loss))
    value: float | None = row["perplexity"]
    return value


def _parameter(params: dict[str, Any], name: str) -> tuple[Any, str]:
    if name not in params:
        return None, ""
    value = params[name]
    if isinstance(value, bool):
        return str(value).lower(), str(value).lower()
    if isinstance(value, float):
        return value, _digits(value)
    if isinstance(value, list):
        return ",".join(value), ",".join(value)
    return value, str(value)


def _rounded(value: float, exponent: int) -> Decimal:
    return Decimal(value).quantize(Decimal(1).scaleb(exponent))


def _significant(value: float, count: int) -> Decimal:
    return _rounded(value, Decimal(value).adjusted() - count + 1)


def _digits(value: float, count: int = 3) -> str:
    """As many significant digits; plain from 1e-4 up to as many digits."""
    if value == 0 or math.isinf(value):
        return "0" if value == 0 else "inf"
    number = _significant(value, count)
    place = number.adjusted()
    if -4 <= place < count:
        text = f"{number:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa = f"{number.scaleb(-place):.{count - 1}f}".rstrip("0").rstrip(".")
    return f"{mantissa}e{'-' if place < 0 else '+'}{abs(place):02d}"


def _loss(value: float | None) -> str:
    if value is None:
        return "-"
    return str(_rounded(value, -4)) if abs(value) < 100 else _digits(value, 4)


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    if math.isinf(value) or abs(value) < 999.5:
        return _digits(value)
    if value < 99_999.5:
        return f"{int(_rounded(value, 0)):,}"
    number = _significant(value, 2)
    return f"{number.scaleb(-number.adjusted()):.1f}e+{number.adjusted():02d}"


def _count(value: int | None) -> str:
    if value is None or value < 1000:
        return "-" if value is None else str(value)
    # The unit of which three digits are below a thousand.
    for unit, name in ((1e3, "K"), (1e6, "M"), (1e9, "B")):
        if _significant(value / unit, 3) < 1000:
            return _digits(value / unit) + name
    raise AssertionError(value)


def _size(value: int | None) -> str:
    if value is None:
        return "-"
    if value < 0.9995 * 2**10:
        return f"{value} B"
    for power, name in ((10, "KiB"), (20, "MiB"), (30, "GiB"), (40, "TiB")):
        if value < 0.9995 * 2 ** (power + 10):
            number = value / 2**power
            return f"{_digits(number) if number < 999.5 else int(_rounded(number, 0))} {name}"
    raise AssertionError(value)


def _clock(seconds: float) -> str:
    whole = int(_rounded(seconds, 0))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _same(raw: str, value: Any) -> bool:
    if value is None:
        return raw == ""
    if isinstance(value, (int, float)):
        return raw != "" and float(raw) == value
    return raw == value


def _found(head: str, cells: list[Cell], rows: list[dict[str, Any]]) -> None:
    """A column that is not known here: its values are some key's, and what is shown is them."""
    keys = _flat(rows)
    same = [
        key
        for key, values in keys.items()
        if all(_same(cell.raw, value) for cell, value in zip(cells, values, strict=True))
    ]
    assert same, f"no key of leaderboard.json has the values of the column {head!r}: {cells}"
    for cell in cells:
        number = re.fullmatch(r"(-?[\d,]+(?:\.(\d+))?(?:e([+-]\d+))?)( ?[A-Za-z%]*).*", cell.shown)
        if number is None or number[4] not in _UNITS or not cell.raw:
            continue
        shown = float(number[1].replace(",", "")) * _UNITS[number[4]]
        last = 10.0 ** (int(number[3] or 0) - len(number[2] or ""))
        assert math.isclose(
            shown, float(cell.raw), abs_tol=0.51 * last * _UNITS[number[4]], rel_tol=0
        ), (head, cell)


def _flat(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Every key of the rows, those of mappings in them by their path, with its value in each."""

    def walk(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {path: json.dumps(value) if isinstance(value, list) else value}
        made: dict[str, Any] = {}
        for key, item in value.items():
            made |= walk(item, f"{path}.{key}" if path else key)
        return made

    flat = [walk(row, "") for row in rows]
    names = dict.fromkeys(name for each in flat for name in each)
    return {name: [each.get(name) for each in flat] for name in names}
