"""The error of a trial, beside ``SpaceError`` for what a user wrote; and an error in a line."""

from __future__ import annotations


class TrialError(RuntimeError):
    """A trial, an export or a model could not be carried out; the message says what to do."""


class AdapterRefusedError(TrialError):
    """peft puts no such adapter on this base, whatever the machine."""


class DiskFullError(TrialError):
    """Nothing more can be written: no fault of the trial that noticed it."""


def reason(error: BaseException) -> str:
    """The innermost reason, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
