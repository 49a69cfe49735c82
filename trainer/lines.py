"""Lines of data files: where a row stands, for messages to whoever has to mend it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


def line_of(path: Path, row: int, rows: int) -> int | None:
    """The line, counted from 1, at which a row (counted from 0) of a jsonl or csv file begins.

    None for another kind of file, or one of which not so many ``rows`` were read as it has by this
    count. Blank lines are no rows, and a csv's first line is its heading.
    """
    starts = {".jsonl": _jsonl, ".csv": _csv}.get(path.suffix)
    if starts is None:
        return None
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        try:
            found = list(starts(file))
        except csv.Error:
            return None
    return found[row] if len(found) == rows else None


def _jsonl(file: TextIO) -> Iterator[int]:
    return (number for number, line in enumerate(file, start=1) if line.strip())


def _csv(file: TextIO) -> Iterator[int]:
    reader = csv.reader(file)
    begin, heading = 1, True
    for record in reader:
        if record and not heading:
            yield begin
        heading = heading and not record
        begin = reader.line_num + 1
