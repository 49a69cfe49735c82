"""What a check of the machine comes to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """A line of the doctor's.

    Attributes:
        check: which check it is of.
        state: how it came out.
        said: what was found.
        remedy: what to do; None where nothing is to be done.
    """

    check: str
    state: State
    said: str
    remedy: str | None = None


def ok(check: str, said: str) -> Finding:
    """All is well."""
    return Finding(check, State.OK, said)


def warning(check: str, said: str, remedy: str) -> Finding:
    """A search runs, but not as it might."""
    return Finding(check, State.WARNING, said, remedy)


def failed(check: str, said: str, remedy: str) -> Finding:
    """A search would fail."""
    return Finding(check, State.FAILED, said, remedy)


def skipped(check: str) -> Finding:
    """Nobody looked."""
    return Finding(check, State.SKIPPED, "not checked")
