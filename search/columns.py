"""Which format a data set has, by the names of its columns and whether they hold lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..spaces import SpaceError
from ..spaces.formats import FORMATS

_NAMES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "chat": {"messages": ("conversations", "conversation", "chat", "dialog", "turns")},
    "seq2seq": {
        "source": ("src", "article", "document", "dialogue", "prompt", "input_text"),
        "target": ("tgt", "summary", "highlights", "completion", "target_text"),
    },
    "completion": {"prompt": (), "completion": ("continuation",)},
    "instruction": {
        "instruction": ("prompt", "question", "query", "source", "article", "document", "input"),
        "input": ("context",),
        "response": ("output", "answer", "target", "summary", "highlights"),
    },
    "token_classification": {
        "tokens": ("words",),
        "tags": ("ner_tags", "pos_tags", "chunk_tags", "labels", "ner"),
    },
    "classification": {
        "text": ("sentence", "review", "content", "document", "body", "message", "tweet", "input"),
        "label": ("labels", "class", "category", "sentiment", "topic", "intent", "kind"),
    },
    "text": {"text": ("content", "document", "body")},
}
"""Names of columns that roles often have besides their own, by format; the formats are tried in
this order."""


@dataclass(frozen=True)
class Recognised:
    """A data set's format.

    Attributes:
        format: as ``data.format`` takes it.
        fields: as ``data.fields`` takes them: roles whose column has another name.
        task: the first of the tasks that it is for.
    """

    format: str
    fields: Mapping[str, str]
    task: str


def recognise(columns: Mapping[str, bool | None], source: str, tasks: Sequence[str]) -> Recognised:
    """The first format whose needed columns are all there.

    Args:
        columns: of the training rows, and whether each holds lists (None: some rows).
        source: where they are from, for the message.
        tasks: peft's task types that come into question, the likeliest first.

    Raises:
        SpaceError: at ``data.train``: they are of no format that is known.
    """
    suited = [name for name in _NAMES if set(FORMATS[name].tasks) & set(tasks)]
    for name in suited:
        found = _fields(name, columns)
        if found is not None:
            task = next(task for task in tasks if task in FORMATS[name].tasks)
            fields = {role: column for role, column in found.items() if column != role}
            return Recognised(name, fields, task)
    known = "; ".join(f"{name} needs {_needs(name)}" for name in suited)
    rule = (
        f"its columns are {', '.join(columns)}; for {' or '.join(tasks)}, {known}: "
        "rename them, or write a space with data.format and data.fields"
    )
    raise SpaceError.single("data.train", source, rule)


def _needs(name: str) -> str:
    form = FORMATS[name]
    needed = [role for role in form.roles if role not in form.optional]
    return " and ".join(f"{role} (lists)" if role in form.lists else role for role in needed)


def _fields(name: str, columns: Mapping[str, bool | None]) -> dict[str, str] | None:
    """The column of each role of a format; None where one that is needed is missing."""
    form, lower = FORMATS[name], {column.lower(): column for column in reversed(list(columns))}
    found: dict[str, str] = {}
    # What is needed chooses first: `input` may be the instruction.
    for role in sorted(form.roles, key=lambda role: role in form.optional):
        lists = role in form.lists
        names = [lower[n] for n in (role, *_NAMES[name][role]) if n in lower]
        fitting = (c for c in names if columns[c] in (lists, None) and c not in found.values())
        column = next(fitting, None)
        if column is not None:
            found[role] = column
        elif role not in form.optional:
            return None
    return found
