"""The formats of data: which columns a row has, and which tasks it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

CLASSIFIERS: Final = ("SEQ_CLS", "TOKEN_CLS")
"""Tasks whose model gets a fresh head, with an output for each class of the data."""


@dataclass(frozen=True)
class DataFormat:
    """One value of `data.format`.

    Attributes:
        roles: What the columns are, by the names that `data.fields` maps from.
        tasks: Values of `model.task` that it is for.
        optional: Roles that a row need not have.
        lists: Roles whose column holds lists; those of all others hold text.
    """

    roles: tuple[str, ...]
    tasks: tuple[str, ...]
    optional: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()


FORMATS: Final[Mapping[str, DataFormat]] = {
    "instruction": DataFormat(
        ("instruction", "input", "response"),
        ("CAUSAL_LM", "SEQ_2_SEQ_LM"),
        optional=frozenset({"input"}),
    ),
    "chat": DataFormat(("messages",), ("CAUSAL_LM",), lists=frozenset({"messages"})),
    "completion": DataFormat(("prompt", "completion"), ("CAUSAL_LM",)),
    "text": DataFormat(("text",), ("CAUSAL_LM",)),
    "seq2seq": DataFormat(("source", "target"), ("SEQ_2_SEQ_LM",)),
    "classification": DataFormat(("text", "label"), ("SEQ_CLS",)),
    "token_classification": DataFormat(
        ("tokens", "tags"), ("TOKEN_CLS",), lists=frozenset({"tokens", "tags"})
    ),
}


def formats_of(task: str) -> tuple[str, ...]:
    """The formats that a task takes."""
    return tuple(name for name, form in FORMATS.items() if task in form.tasks)
