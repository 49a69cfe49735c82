"""Rows of text: read from wherever they are, renamed to their roles, split, checked.

Files are read by the ``datasets`` library; what a user gets to see when that fails names the
key of the space file, not the library.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..spaces import DataBlock, SpaceError
from ..spaces.extraction import generate
from .errors import reason
from .lines import line_of
from .sources import local_path

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_ROLES = {"instruction": ("instruction", "input", "response"), "classification": ("text", "label")}
_OPTIONAL = {"input"}


def read_splits(block: DataBlock) -> dict[str, Dataset]:
    """The three splits of a space's data, with one column a role and no two alike.

    ``validation`` and ``test`` are shares of ``train``'s rows, drawn with ``data.seed``, or
    sources of their own; a hub data set, a folder or a built-in one brings its own where it
    has splits of these names. ``test`` may be empty.

    Raises:
        SpaceError: a source is missing, unreadable or empty, a column is missing, or a field
            of a row is empty.
    """
    splits = _carve(_read(block.train, "data.train"), block)
    limits = block.limit
    for split in SPLITS:
        rows = _to_roles(splits[split], block, split)
        limit = getattr(limits, split)
        splits[split] = rows.select(range(min(limit, len(rows)))) if limit else rows
    for split in ("train", "validation"):
        if len(splits[split]) == 0:
            raise SpaceError.single(f"data.{split}", getattr(block, split), "there are no rows")
    return splits


def first_place(block: DataBlock, split: str, indices: Iterable[int]) -> str:
    """Where the first of some rows of a split stands in the source that the user has.

    Returns:
        ``line 17 of d.jsonl`` where the source is a file of lines, else ``row 17 of NAME, counted
        from 1``; of the rows, the one that comes first there.
    """
    from datasets import Dataset

    own = getattr(block, split)
    if split != "train" and isinstance(own, str):
        source, first, read = own, min(indices), _read(own, f"data.{split}")
        rows = len(read.get(split, next(iter(read.values()))))
    else:
        source, read = block.train, _read(block.train, "data.train")
        rows = len(read["train"] if "train" in read else next(iter(read.values())))
        # Splitting depends on how many rows there are, and not on what is in them.
        numbers = {k: Dataset.from_dict({"row": range(len(v))}) for k, v in read.items()}
        numbered = _carve(numbers, block)[split]["row"]
        first = min(numbered[index] for index in indices)
    path = local_path(source, f"data.{split}")
    line = line_of(path, first, rows) if path.is_file() else None
    return f"line {line} of {source}" if line else f"row {first + 1} of {source}, counted from 1"


def _read(source: str, key: str) -> dict[str, Dataset]:
    """Every split that a source has; a single file is all ``train``."""
    from datasets import Dataset, load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    if source.startswith("builtin:"):
        if source != "builtin:extraction":
            rule = "there is no such built-in data set; the one there is: builtin:extraction"
            raise SpaceError.single(key, source, rule)
        return {name: Dataset.from_list(rows) for name, rows in generate().items()}
    path = local_path(source, key)
    try:
        if path.is_file():
            return dict(load_dataset(_builder(path, key, source), data_files=str(path)))
        if path.is_dir():
            return dict(load_dataset(str(path)))
        if path.suffix in _BUILDERS or source.startswith(("/", ".", "~")):
            raise SpaceError.single(key, source, "no such file")
        return dict(load_dataset(source))
    except DatasetNotFoundError as error:
        rule = "is neither an existing path nor a data set on the hub"
        raise SpaceError.single(key, source, rule) from error
    except DatasetGenerationError as error:
        raise SpaceError.single(key, source, f"cannot be read: {reason(error)}") from error
    except (OSError, ValueError, ConnectionError) as error:
        if isinstance(error, SpaceError):
            raise
        raise SpaceError.single(key, source, f"cannot be read: {reason(error)}") from error


def _builder(path: Path, key: str, source: str) -> str:
    if path.stat().st_size == 0:
        raise SpaceError.single(key, source, "there are no rows: the file is empty")
    if path.suffix not in _BUILDERS:
        known = ", ".join(_BUILDERS)
        raise SpaceError.single(key, source, f"of this kind of file nothing is known; use {known}")
    return _BUILDERS[path.suffix]


def _carve(found: dict[str, Dataset], block: DataBlock) -> dict[str, Dataset]:
    """Train, validation and test, by share, by own source or as the source brings them."""
    train = found["train"] if "train" in found else next(iter(found.values()))
    splits = {"train": train}
    shares = {}
    for split in ("validation", "test"):
        wanted = getattr(block, split)
        if isinstance(wanted, str):
            own = _read(wanted, f"data.{split}")
            splits[split] = own.get(split, next(iter(own.values())))
        elif split in found:
            splits[split] = found[split]
        else:
            shares[split] = float(wanted)
    shuffled = train.shuffle(seed=block.seed) if shares else train
    taken = 0
    for split, share in shares.items():
        count = round(share * len(train)) if share else 0
        count = max(1, count) if share and len(train) > 2 else count
        if taken + count >= len(train):  # both shares may have been rounded up
            rule = f"its {len(train)} rows are too few to split: none is left to train on"
            raise SpaceError.single("data.train", block.train, rule)
        splits[split] = shuffled.select(range(taken, taken + count))
        taken += count
    splits["train"] = shuffled.select(range(taken, len(train)))
    return splits


def _to_roles(rows: Dataset, block: DataBlock, split: str) -> Dataset:
    """Columns renamed to their roles, all others dropped, every needed field filled."""
    key = f"data.{split}"
    source = getattr(block, split) if isinstance(getattr(block, split), str) else block.train
    columns = {}
    for role in _ROLES[block.format]:
        column = block.fields.get(role, role)
        if column in rows.column_names:
            columns[role] = rows[column]
        elif role not in _OPTIONAL or role in block.fields:
            rule = f"has no column {column!r} for {role}; it has {', '.join(rows.column_names)}"
            near = (f"data.fields.{role}",)
            raise SpaceError.single(key, source, rule, near)
    return _filled(columns, block, split, source)


def _filled(columns: dict[str, Any], block: DataBlock, split: str, source: object) -> Dataset:
    from datasets import Dataset

    key = f"data.{split}"
    made: dict[str, list[str]] = {}
    for role, values in columns.items():
        try:
            made[role] = ["" if value is None else str(value) for value in values]
        except UnicodeDecodeError as error:
            # Arrow reads a file's bytes as they are; they become text only here.
            rule = f"cannot be read: its {role} is not UTF-8 ({error})"
            raise SpaceError.single(key, source, rule) from error
        if role in _OPTIONAL:
            continue
        empty = [index for index, text in enumerate(made[role]) if not text.strip()]
        if empty:
            rule = (
                f"{len(empty)} rows have an empty {role}, the first is "
                f"{first_place(block, split, empty)}: such a row has no supervised token; "
                "remove them"
            )
            raise SpaceError.single(key, source, rule)
    return Dataset.from_dict(made)
