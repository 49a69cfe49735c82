"""What the value of each role must be, and how it is read from what a file holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_BARE = "such a row has no supervised token; remove them"


class RowError(Exception):
    """A row that cannot be used.

    Attributes:
        said: what it does, in the plural; ``{role}`` stands for the role.
        remedy: what is to be done about it.
    """

    def __init__(self, said: str, remedy: str) -> None:
        super().__init__(said)
        self.said, self.remedy = said, remedy


@dataclass(frozen=True)
class Role:
    """How a role is read.

    Attributes:
        read: given the value in the file and the names of its classes, where these are numbers
            there; raises ``RowError``.
        feature: the type of its column for ``datasets``.
    """

    read: Callable[[Any, Sequence[str]], Any]
    feature: Callable[[], Any]


def _text(value: Any, names: Sequence[str]) -> str:
    if names:
        return names[value] if value is not None and 0 <= value < len(names) else ""
    if isinstance(value, list | dict):
        raise RowError("have a list or mapping for {role}", "it must be text; mend them")
    return "" if value is None else str(value)


def _filled(value: Any, names: Sequence[str]) -> str:
    text = _text(value, names)
    if not text.strip():
        raise RowError("have an empty {role}", _BARE)
    return text


def _words(value: Any, names: Sequence[str]) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise RowError("have {role} that are no list of strings", "mend them")
    return _some(value)


def _tags(value: Any, names: Sequence[str]) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(tag, str | int) for tag in value):
        raise RowError("have {role} that are no list of strings or whole numbers", "mend them")
    tags = _some([_text(tag, names) for tag in value])
    if not all(tags):
        raise RowError("have an empty tag or one that has no name", "mend them")
    return tags


def _some(values: list[str]) -> list[str]:
    if not values:
        raise RowError("have no {role}", _BARE)
    return values


def _messages(value: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """Role, content and whatever else a template may know, without what is null."""
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise RowError("have {role} that are no list of mappings", "each has a role and a content")
    read = [{key: item for key, item in one.items() if item is not None} for one in value]
    for message in read:
        role, content = message.get("role"), message.get("content", "")
        if not isinstance(role, str) or not role:
            known = ", ".join(map(str, message)) or "nothing"
            raise RowError(f"have a message without role (it has {known})", "mend them")
        if not isinstance(content, str):
            raise RowError("have a message whose content is not text", "mend them")
        if "content" not in message and len(message) == 1:
            raise RowError("have a message without content", "mend them")
    said = [m for m in read if m["role"] == "assistant" and m.get("content", "").strip()]
    if not said:
        raise RowError("have no message of the assistant that says anything", _BARE)
    return read


def _string() -> Any:
    from datasets import Value

    return Value("string")


def _strings() -> Any:
    from datasets import List

    return List(_string())


def _mappings() -> Any:
    from datasets import Json, List

    return List(Json())


_TEXT, _FILLED = Role(_text, _string), Role(_filled, _string)
ROLES = {
    "instruction": _FILLED,
    "input": _TEXT,
    "response": _FILLED,
    "messages": Role(_messages, _mappings),
    "prompt": _FILLED,
    "completion": _FILLED,
    "text": _FILLED,
    "source": _FILLED,
    "target": _FILLED,
    "label": _FILLED,
    "tokens": Role(_words, _strings),
    "tags": Role(_tags, _strings),
}
"""By name; see ``spaces.formats``."""
