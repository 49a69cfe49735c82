"""What is wrong with a space file: faults, gathered and raised together.

A user who mistyped three keys should mend three keys in one go, so nothing in this room raises
at the first fault: every check adds to a `FaultLog`, and one `SpaceError` shows them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]

COMMAND_LINE: Final = "command line"
_SHOWN_CHARACTERS: Final = 60


class _Missing(Enum):
    """Stands for a value that is not there, which `None` (YAML's null) cannot do."""

    MISSING = "missing"


MISSING: Final = _Missing.MISSING


def dotted(path: KeyPath) -> str:
    """The path as a user writes it, with anything unprintable escaped."""
    return ".".join(
        part if isinstance(part, str) and part.isprintable() and part else repr(part)
        for part in path
    )


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a space, with all that is needed to mend it.

    Attributes:
        path: Dotted key path, `""` where the fault is of the file as a whole.
        value: What stands there, `MISSING` where nothing does.
        rule: What was to stand there.
        line: Line of the file, counted from 1; None for the command line or a missing key.
        source: The file's name, or "command line".
        suggestions: What the user may have meant, likeliest first.
    """

    path: str
    value: object = MISSING
    rule: str = ""
    line: int | None = None
    source: str = ""
    suggestions: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = self.source + (f":{self.line}" if self.line is not None else "")
        what = self.path
        if self.value is not MISSING:
            what += f"{' = ' if what else ''}{_shown(self.value)}"
        text = ": ".join(part for part in (where, what, self.rule) if part)
        if self.suggestions:
            text += f"; did you mean {' or '.join(self.suggestions)}?"
        return text


class SpaceError(ValueError):
    """A space that cannot be used; `str()` names every fault, one a line."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults: tuple[Fault, ...] = tuple(faults)
        super().__init__(self.faults)

    @classmethod
    def single(
        cls,
        path: str,
        value: object,
        rule: str,
        suggestions: Sequence[str] = (),
        source: str = "",
    ) -> SpaceError:
        """An error of one fault, for checks that lie outside this room."""
        return cls([Fault(path, value, rule, source=source, suggestions=tuple(suggestions))])

    def __str__(self) -> str:
        return "\n".join(str(fault) for fault in self.faults)


@dataclass
class FaultLog:
    """Gathers faults and knows where in the file, or on the command line, each key was given.

    Attributes:
        source: The file's name, as faults show it.
        lines: Line of each key of the file, counted from 1.
        overridden: Paths that the command line set.
    """

    source: str = ""
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    overridden: tuple[KeyPath, ...] = ()
    faults: list[Fault] = field(default_factory=list)

    def add(
        self,
        path: KeyPath,
        value: object,
        rule: str,
        suggestions: Sequence[str] = (),
        line: int | None = None,
    ) -> None:
        """Note one fault at `path`; without a `line`, the nearest known one is looked up."""
        known, source = self._origin(path)
        line = known if line is None else line
        self.faults.append(Fault(dotted(path), value, rule, line, source, tuple(suggestions)))

    def error(self) -> SpaceError:
        """All that was noted, each fault once, in the order of the file."""
        unique = {str(fault): fault for fault in self.faults}
        return SpaceError(sorted(unique.values(), key=lambda fault: fault.line or 0))

    def _origin(self, path: KeyPath) -> tuple[int | None, str]:
        for end in range(len(path), 0, -1):
            if path[:end] in self.overridden:
                return None, COMMAND_LINE
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]], self.source
        return None, self.source


def _shown(value: object) -> str:
    """A value in the YAML user's terms, escaped to ASCII and cut to one short line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        text = value if isinstance(value, str) and _plain(value) else ascii(value)
    except ValueError:  # an int of more digits than Python prints
        text = "a giant number"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"


def _plain(text: str) -> bool:
    return bool(text) and text.isprintable() and text.strip() == text
