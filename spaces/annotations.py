"""What a field of a foreign config class accepts, read from the text of its annotation.

The classes themselves (peft's LoraConfig, transformers' TrainingArguments) cannot be asked:
importing them takes seconds. Simple annotations become checks; an annotation that names some
class of its own is not checked here and left to that class.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["null", "bool", "int", "float", "str", "list", "map", "any", "choice"]

_SCALARS: Final[dict[str, Kind]] = {
    "int": "int",
    "float": "float",
    "bool": "bool",
    "str": "str",
    "None": "null",
}
_LISTS: Final = {"list", "List", "tuple", "Tuple", "set", "Sequence"}
_MAPS: Final = {"dict", "Dict", "Mapping"}
_WORDS: Final[dict[Kind, str]] = {
    "null": "null",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "map": "a mapping",
    "any": "anything",
}
_JSON: Final[dict[Kind, dict[str, object]]] = {
    "null": {"type": "null"},
    "bool": {"type": "boolean"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "str": {"type": "string"},
    "map": {"type": "object"},
    "any": {},
}


@dataclass(frozen=True)
class FieldType:
    """A union of the kinds of value that a field accepts.

    Attributes:
        kinds: The members of the union.
        choices: The values of kind "choice" (a Literal, or the values of a str enum). A value
            holding `[...]` stands for any whole number in that place, as peft writes
            `pissa_niter_[number of iters]`.
        item: What the items of kind "list" must be.
    """

    kinds: tuple[Kind, ...]
    choices: tuple[object, ...] = ()
    item: FieldType | None = None

    def accepts(self, value: object) -> bool:
        """Whether a constant is of one of these kinds (an int passes for a float)."""
        return any(self._accepts_as(kind, value) for kind in self.kinds)

    def has(self, *kinds: Kind) -> bool:
        """Whether any of `kinds`, or "any", is among the members."""
        return any(kind in self.kinds for kind in (*kinds, "any"))

    def describe(self) -> str:
        """The union in words, for a fault's rule."""
        words = [_WORDS[kind] for kind in self.kinds if kind in _WORDS]
        if "list" in self.kinds:
            words.append("a list")
        if self.choices:
            words.append(f"one of {', '.join(map(str, self.choices))}")
        return " or ".join(words)

    def json_schema(self) -> dict[str, object]:
        """The union as a JSON Schema."""
        parts = [dict(_JSON[kind]) for kind in self.kinds if kind in _JSON]
        if "list" in self.kinds:
            items = self.item.json_schema() if self.item else {}
            parts.append({"type": "array", "items": items})
        exact = [choice for choice in self.choices if not _is_pattern(choice)]
        if exact:
            parts.append({"enum": exact})
        patterns = [_pattern(choice) for choice in self.choices if _is_pattern(choice)]
        parts += [{"type": "string", "pattern": pattern} for pattern in patterns]
        return parts[0] if len(parts) == 1 else {"anyOf": parts}

    def _accepts_as(self, kind: Kind, value: object) -> bool:
        match kind:
            case "any":
                return True
            case "null":
                return value is None
            case "bool":
                return isinstance(value, bool)
            case "int":
                return isinstance(value, int) and not isinstance(value, bool)
            case "float":
                return isinstance(value, int | float) and not isinstance(value, bool)
            case "str":
                return isinstance(value, str)
            case "map":
                return isinstance(value, dict)
            case "list":
                item = self.item or FieldType(("any",))
                return isinstance(value, list) and all(item.accepts(entry) for entry in value)
            case "choice":
                return any(_matches(choice, value) for choice in self.choices)


def field_type(annotation: ast.expr, enums: Mapping[str, tuple[str, ...]]) -> FieldType:
    """Read an annotation.

    Args:
        annotation: The parsed annotation.
        enums: The str enums that it may name, with their values.
    """
    if isinstance(annotation, ast.Constant):
        if isinstance(annotation.value, str):
            return field_type(ast.parse(annotation.value, mode="eval").body, enums)
        return FieldType(("null",) if annotation.value is None else ("any",))
    if isinstance(annotation, ast.BinOp):
        return _union(
            [field_type(annotation.left, enums), field_type(annotation.right, enums)], enums
        )
    if isinstance(annotation, ast.Subscript):
        return _subscript(annotation, enums)
    name = annotation.attr if isinstance(annotation, ast.Attribute) else ast.unparse(annotation)
    if name in enums:
        return FieldType(("choice",), choices=enums[name])
    if name in _LISTS:
        return FieldType(("list",))
    return FieldType((_SCALARS.get(name) or ("map" if name in _MAPS else "any"),))


def _subscript(annotation: ast.Subscript, enums: Mapping[str, tuple[str, ...]]) -> FieldType:
    name = ast.unparse(annotation.value).rsplit(".", 1)[-1]
    inner = annotation.slice
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if name == "Literal":
        values = tuple(part.value for part in parts if isinstance(part, ast.Constant))
        return FieldType(("choice",), choices=values)
    if name == "Optional":
        return _union([field_type(inner, enums), FieldType(("null",))], enums)
    if name == "Union":
        return _union([field_type(part, enums) for part in parts], enums)
    if name in _LISTS:
        return FieldType(("list",), item=_union([field_type(p, enums) for p in parts], enums))
    return FieldType(("map",) if name in _MAPS else ("any",))


def _union(members: list[FieldType], enums: Mapping[str, tuple[str, ...]]) -> FieldType:
    kinds = tuple(dict.fromkeys(kind for member in members for kind in member.kinds))
    choices = tuple(choice for member in members for choice in member.choices)
    if choices and choices in enums.values():
        # `SchedulerType | str` still takes only the enum's values: the class converts them.
        kinds = tuple(kind for kind in kinds if kind != "str")
    item = next((member.item for member in members if member.item), None)
    return FieldType(kinds, choices, item)


def _is_pattern(choice: object) -> bool:
    return isinstance(choice, str) and "[" in choice


def _pattern(choice: object) -> str:
    return "^" + re.sub(r"\[[^]]*\]", "[0-9]+", str(choice)) + "$"


def _matches(choice: object, value: object) -> bool:
    if _is_pattern(choice):
        return isinstance(value, str) and re.fullmatch(_pattern(choice), value) is not None
    return type(choice) is type(value) and choice == value
