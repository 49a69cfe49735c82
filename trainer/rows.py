"""Rows as they stand in a source: read from wherever they are, renamed to their roles, checked.

Files are read by the ``datasets`` library, in batches from and to files on disk, so that no more
of them is ever held in memory than a batch; what a user gets to see when that fails names the key
of the space file, not the library.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..spaces import DataBlock, Fault, GeneralBlock, SpaceError
from ..spaces.extraction import generate
from ..spaces.formats import FORMATS
from .errors import reason
from .lines import line_of
from .shapes import ROLES, RowError
from .sources import local_path

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

BATCH = 1000
"""Rows that are held in memory at a time."""
_SHOWN = 20_000
"""Rows from which progress is shown."""
_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Rows:
    """All rows of one split of a source.

    Attributes:
        rows: one column a role, on disk.
        digests: of each row's content, ``[rows]`` of 16 bytes: equal exactly for equal rows.
        key: of the space, that names the source.
        source: its value.
        split: the split's name in the source; "" for the one that is trained on.
        classes: names of the labels, where the source says them.
    """

    rows: Dataset
    digests: np.ndarray[Any, np.dtype[np.bytes_]]
    key: str
    source: str
    split: str = ""
    classes: tuple[str, ...] = ()

    def place(self, row: int) -> str:
        """Where a row, counted from 0, stands in the source that the user has.

        Returns:
            ``line 17 of d.jsonl`` where the source is a file of lines, else ``row 17 of NAME,
            counted from 1``.
        """
        return _place(self.source, self.key, self.split, row, len(self.rows))


def read_rows(source: str, key: str, block: DataBlock, scratch: Path) -> dict[str, Rows]:
    """Every split that a source has; a single file is all ``train``.

    Args:
        source: of the space's data.
        key: of the space, that names it.
        block: the format of its rows.
        scratch: a folder for files that rows are mapped from. It may be deleted afterwards, while
            rows are in use: Linux keeps mapped files until they are no longer.

    Raises:
        SpaceError: it is missing, unreadable or empty, a column is missing, or a row cannot be
            used.
    """
    found = _read(source, key)
    main = "train" if "train" in found else next(iter(found))
    return {
        name: _to_roles(raw, block, key, source, "" if name == main else name, scratch)
        for name, raw in found.items()
        if name in ("train", "validation", "test") or name == main
    }


def read_texts(general: GeneralBlock, block: DataBlock, scratch: Path) -> Rows:
    """The first rows of a general text.

    Of a source that has them, the test split is read, or else the validation split.

    Args:
        general: where it is.
        block: of format ``text``, with its column.
        scratch: see ``read_rows``.

    Raises:
        SpaceError: see ``read_rows``.
    """
    key, source = "data.general.source", general.source
    found = _read(source, key)
    split = next((name for name in ("test", "validation") if name in found), next(iter(found)))
    raw = found[split]
    if general.column not in raw.column_names:
        rule = f"is no column of {source}, which has {', '.join(raw.column_names)}"
        raise SpaceError.single("data.general.column", general.column, rule)
    texts = enumerate(raw.select_columns([general.column]))
    filled = (index for index, row in texts if str(row[general.column] or "").strip())
    raw = raw.select([*islice(filled, general.rows)])
    if len(raw) == 0:
        raise SpaceError.single(key, source, "there are no rows with a text")
    within = "" if len(found) == 1 else split
    return _to_roles(raw, block, key, source, within, scratch)


def mapped(rows: Dataset, function: Any, features: Any, scratch: Path, doing: str) -> Dataset:
    """``function``'s rows, written to a file in ``scratch`` batch by batch.

    Args:
        rows: to go through.
        function: given a batch, columns by name, and the indices of its rows, returns columns.
        features: their types.
        scratch: a folder.
        doing: what a progress bar says, where there are enough rows for one.
    """
    from datasets import Dataset

    if len(rows) == 0:
        return Dataset.from_dict({name: [] for name in features}, features=features)
    name = uuid.uuid4().hex
    with _bars_for(len(rows)):
        return rows.map(
            function,
            batched=True,
            batch_size=BATCH,
            with_indices=True,
            remove_columns=rows.column_names,
            features=features,
            cache_file_name=str(scratch / f"{name}.arrow"),
            load_from_cache_file=False,
            # Else it is made of the function and all that it refers to, tokenizer included.
            new_fingerprint=name,
            desc=doing,
        )


@contextmanager
def _bars_for(rows: int) -> Iterator[None]:
    """No progress bar for what takes a moment."""
    import datasets

    if rows > _SHOWN or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _read(source: str, key: str) -> dict[str, Dataset]:
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


def _place(source: str, key: str, split: str, row: int, rows: int) -> str:
    path = local_path(source, key)
    line = line_of(path, row, rows) if path.is_file() else None
    within = f"the {split} split of {source}" if split else source
    return f"line {line} of {source}" if line else f"row {row + 1} of {within}, counted from 1"


def _to_roles(
    raw: Dataset, block: DataBlock, key: str, source: str, split: str, scratch: Path
) -> Rows:
    """Columns renamed to their roles, all others dropped, every needed field filled."""
    from datasets import Features

    columns = _columns(raw, block, key, source)
    _check_types(raw, columns, block, key, source)
    reader = _Reader(columns, {role: raw.features[column] for role, column in columns.items()})
    reader.digests = np.zeros(len(raw), dtype="S16")
    features = Features({role: ROLES[role].feature() for role in columns})
    picked = raw.select_columns(list(dict.fromkeys(columns.values())))
    try:
        made = mapped(picked, reader, features, scratch, f"reading {source}")
    except UnicodeDecodeError as error:
        # Arrow reads a file's bytes as they are; they become text only here.
        rule = f"cannot be read: its {reader.role} is not UTF-8 ({error})"
        raise SpaceError.single(key, source, rule) from error
    if reader.faults:
        raise SpaceError(
            Fault(
                key,
                source,
                f"{count} rows {said}, the first is {_place(source, key, split, first, len(raw))}: "
                f"{remedy}",
            )
            for (said, remedy), (count, first) in reader.faults.items()
        )
    classes = next((tuple(names) for names in reader.names.values() if names), ())
    return Rows(made, reader.digests, key, source, split, classes)


def _columns(raw: Dataset, block: DataBlock, key: str, source: str) -> dict[str, str]:
    """The column of each role that there is."""
    form, columns = FORMATS[block.format], {}
    for role in form.roles:
        column = block.fields.get(role, role)
        if column in raw.column_names:
            columns[role] = column
        elif role not in form.optional or role in block.fields:
            rule = f"has no column {column!r} for {role}; it has {', '.join(raw.column_names)}"
            near = (f"data.fields.{role}",)
            raise SpaceError.single(key, source, rule, near)
    return columns


def _check_types(
    raw: Dataset, columns: Mapping[str, str], block: DataBlock, key: str, source: str
) -> None:
    """Text where lists are needed, or the reverse, is said of the column, not of every row."""
    from datasets import ClassLabel, Json, Value

    for role, column in columns.items():
        feature = raw.features[column]
        plain = isinstance(feature, ClassLabel | Value)
        if plain and role in FORMATS[block.format].lists:
            rule = f"its column {column!r} must hold lists for data.format {block.format}"
            if source.endswith(".csv"):
                rule += "; a csv file cannot: write it as jsonl or parquet"
            raise SpaceError.single(key, source, rule)
        # Of mixed kinds it is Json; each row is then looked at.
        if not plain and not isinstance(feature, Json) and role not in FORMATS[block.format].lists:
            rule = f"its column {column!r} must hold text for {role}, and holds lists or mappings"
            raise SpaceError.single(key, source, rule)


def outline(source: str) -> tuple[dict[str, bool | None], int]:
    """The columns of a source's training rows, and how many rows there are.

    Returns:
        Of each column, whether it holds lists (None where its rows differ); and the rows.

    Raises:
        SpaceError: at ``data.train``: it is missing or cannot be read.
    """
    from datasets import ClassLabel, Json, Value

    found = _read(source, "data.train")
    rows = found["train"] if "train" in found else next(iter(found.values()))
    kinds = {
        name: None if isinstance(kind, Json) else not isinstance(kind, ClassLabel | Value)
        for name, kind in rows.features.items()
    }
    return kinds, len(rows)


class _Reader:
    """A batch of a source's columns to columns of roles.

    Attributes:
        digests: of the rows so far.
        faults: how many rows have one, and the first of them, by what is to be said.
        role: that is being read.
        names: of the classes, by role, where a column has numbers for them.
    """

    digests: np.ndarray[Any, np.dtype[np.bytes_]]

    def __init__(self, columns: Mapping[str, str], features: Mapping[str, Any]) -> None:
        self._columns = columns
        self.faults: dict[tuple[str, str], tuple[int, int]] = {}
        self.role = ""
        self.names = {role: _class_names(feature) for role, feature in features.items()}

    def __call__(self, batch: Mapping[str, Any], indices: Sequence[int]) -> dict[str, list[Any]]:
        made: dict[str, list[Any]] = {}
        for role, column in self._columns.items():
            self.role = role
            read, names = ROLES[role].read, self.names[role]
            made[role] = []
            for index, value in zip(indices, batch[column], strict=True):
                try:
                    made[role].append(read(value, names))
                except RowError as error:
                    made[role].append(None)
                    self._note(role, error, index)
        for index, row in zip(indices, zip(*made.values(), strict=True), strict=True):
            text = json.dumps(row, sort_keys=True, ensure_ascii=True)
            self.digests[index] = hashlib.blake2b(text.encode(), digest_size=16).digest()
            if "tags" in made and None not in row and len(row[0]) != len(row[1]):
                self._note("tags", RowError("have not a tag for each token", "mend them"), index)
        return made

    def _note(self, role: str, error: RowError, index: int) -> None:
        said = (error.said.replace("{role}", role), error.remedy)
        count, first = self.faults.get(said, (0, index))
        self.faults[said] = (count + 1, first)


def _class_names(feature: Any) -> tuple[str, ...]:
    """The names behind a column of class numbers, or of lists of them."""
    inner = getattr(feature, "feature", feature)
    return tuple(getattr(inner, "names", None) or ())
