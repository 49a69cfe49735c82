"""YAML as a space file uses it: data plus the line of every key, or faults.

PyYAML's own loader is not safe enough in three ways. It follows YAML 1.1, in which `1e-5` is a
string and `no` a boolean; it keeps the last of two equal keys in silence; and a short text can
blow up through aliases or nesting. Here numbers are those of YAML 1.2, only true and false are
booleans, and whatever a space has no use for is a fault.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import yaml

from .errors import MISSING, FaultLog, KeyPath

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"

MAX_CHARACTERS: Final = 100_000
MAX_DEPTH: Final = 24
MAX_INT: Final = 2**63 - 1

_TAG: Final = "tag:yaml.org,2002:"
_FLOAT: Final = re.compile(
    r"""^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
_RESOLVERS: Final = (
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("float", _FLOAT, "-+0123456789."),
    ("int", re.compile(r"^(?:[-+]?[0-9]+|0x[0-9a-fA-F]+)$"), "-+0123456789"),
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
)


class _Refused(yaml.YAMLError):
    """A construct that YAML allows and a space does not; carries the node's line."""

    def __init__(self, line: int, rule: str) -> None:
        super().__init__(rule)
        self.line = line
        self.rule = rule


class _SpaceLoader(yaml.SafeLoader):
    """Composes nodes only; aliases and deep nesting are refused while composing."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(line, "aliases (*name) are not supported; write the value out")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused(line, f"is nested more than {MAX_DEPTH} levels deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


class SpaceDumper(yaml.SafeDumper):
    """Quotes exactly those strings that the loader above would read as something else."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def ignore_aliases(self, data: object) -> bool:
        """Write equal lists out twice: the loader takes no aliases."""
        return True


for _name, _pattern, _first in _RESOLVERS:
    for _class in (_SpaceLoader, SpaceDumper):
        _class.add_implicit_resolver(f"{_TAG}{_name}", _pattern, list(_first))


@dataclass
class YamlText:
    """What a YAML text holds.

    Attributes:
        data: Plain data; `MISSING` where the text could not be read at all.
        lines: Line of every key and list item, counted from 1.
    """

    data: Plain | object
    lines: dict[KeyPath, int] = field(default_factory=dict)


def read_yaml(text: str, log: FaultLog, base: KeyPath = ()) -> YamlText:
    """Read one YAML document; whatever is wrong with it is noted in `log`, nothing is raised.

    Args:
        text: The document.
        log: Receives the faults; its `lines` are replaced by this document's.
        base: Path of the document's root, for values given on the command line.
    """
    if len(text) > MAX_CHARACTERS:
        log.add(base, MISSING, f"is longer than {MAX_CHARACTERS} characters")
        return YamlText(MISSING)
    try:
        node = _compose(text)
    except _Refused as error:
        log.add(base, MISSING, error.rule, line=None if base else error.line)
        return YamlText(MISSING)
    except (yaml.YAMLError, RecursionError, ValueError, IndexError) as error:
        mark = None if base else getattr(error, "problem_mark", None)
        rule = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
        log.add(base, MISSING, f"is not YAML: {rule}", line=mark.line + 1 if mark else None)
        return YamlText(MISSING)
    builder = _Builder(log)
    if not base:
        log.lines = builder.lines
    data = builder.build(node, base) if node is not None else None
    return YamlText(data, builder.lines)


def _compose(text: str) -> yaml.Node | None:
    loader = _SpaceLoader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
        return node
    finally:
        loader.dispose()


class _Builder:
    """Turns composed nodes into plain data, noting lines and faults on the way."""

    def __init__(self, log: FaultLog) -> None:
        self.log = log
        self.lines: dict[KeyPath, int] = {}

    def build(self, node: yaml.Node, path: KeyPath) -> Plain:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        convert = _SCALARS.get(node.tag) if isinstance(node, yaml.ScalarNode) else None
        if convert is None:
            self.log.add(path, MISSING, f"has a tag that a space cannot use: {node.tag}")
            return None
        try:
            return convert(node.value)
        except ValueError as error:
            self.log.add(path, node.value, str(error))
            return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Plain]:
        found: dict[str, Plain] = {}
        for key_node, value_node in node.value:
            if key_node.tag not in (f"{_TAG}str", f"{_TAG}merge"):
                self.lines.setdefault((*path, "?"), key_node.start_mark.line + 1)
                shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else MISSING
                self.log.add((*path, "?"), shown, "is not a word: quote it to use it as a key")
                continue
            key = str(key_node.value)
            here = (*path, key)
            line = key_node.start_mark.line + 1
            if key in found:
                rule = f"is given twice, here and on line {self.lines[here]}"
                self.lines[here] = line
                self.log.add(here, MISSING, rule)
                continue
            self.lines[here] = line
            found[key] = self.build(value_node, here)
        return found


def _int(text: str) -> int:
    if len(text) > len(str(MAX_INT)) + 1:
        raise ValueError("is too large a number")
    value = int(text, 16) if text.startswith("0x") else int(text)
    if abs(value) > MAX_INT:
        raise ValueError("is too large a number")
    return value


def _float(text: str) -> float:
    try:
        value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        raise ValueError("is not a number") from None
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return text.lower() == "true"


def _str(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half a surrogate pair, which is no text")
    return text


_SCALARS: Final[dict[str, Callable[[str], Plain]]] = {
    f"{_TAG}null": lambda _: None,
    f"{_TAG}bool": _bool,
    f"{_TAG}int": _int,
    f"{_TAG}float": _float,
    f"{_TAG}str": _str,
}
