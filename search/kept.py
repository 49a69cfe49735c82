"""A run folder that cannot be written: what is said, and how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError

from ..trainer.errors import TrialError, reason
from ..trainer.folder import RunFolder


@contextmanager
def written(run: RunFolder) -> Iterator[None]:
    """Outside the ledger, too, a folder that cannot be written is said to be so.

    Raises:
        TrialError: it cannot.
    """
    try:
        yield
    except (OSError, StorageInternalError) as error:
        said = f"{run.root}: cannot be written: {reason(error)}"
        raise TrialError(f"{said}\n{going_on(run)}") from error


def going_on(run: RunFolder) -> str:
    """What a user whose search has ended early does next."""
    return f"What was won is kept; go on with --resume {run.root}"
