"""The configurations that were trained again on fresh seeds, as lines for a reader."""

from __future__ import annotations

from collections.abc import Sequence

from . import formats
from .leaderboard import Leaderboard
from .noise import LEVEL
from .rows import Row

HEADS = (
    "configuration of",
    "seeds",
    "mean",
    "standard error",
    f"{LEVEL:.0%} interval",
    "test rows",
    "the search's own",
    "trainable",
    "",
)
"""Of ``cells``."""


def confirmed_rows(board: Leaderboard) -> tuple[Row, ...]:
    """One row a configuration that was trained again, in the board's order."""
    found: dict[tuple[str, str], Row] = {}
    for row in board.rows:
        if row.confirmed is not None:
            found.setdefault((row.run, row.configuration), row)
    return tuple(found.values())


def cells(row: Row) -> tuple[str, ...]:
    """A line of the table; ``row`` is one of ``confirmed_rows``."""
    found = row.confirmed
    assert found is not None
    low, high = found.interval
    failed = f", {found.failed} failed" if found.failed else ""
    return (
        row.name,
        f"{len(found.scores)}{failed}",
        formats.loss(found.mean),
        formats.loss(found.standard_error),
        f"{formats.loss(low)} to {formats.loss(high)}",
        with_error(found.test_mean, found.test_standard_error),
        formats.loss(row.score),
        formats.count(row.trainable_parameters),
        "tie" if row.tie else "",
    )


def expectation(row: Row) -> str:
    """``0.4312 ± 0.0041``, mean and standard error; ``-`` of what was not trained again."""
    found = row.confirmed
    return formats.ABSENT if found is None else with_error(found.mean, found.standard_error)


def test_expectation(row: Row) -> str:
    """The same, on the test rows."""
    found = row.confirmed
    if found is None:
        return formats.ABSENT
    return with_error(found.test_mean, found.test_standard_error)


def with_error(mean: float | None, error: float | None) -> str:
    """A mean and its standard error."""
    if mean is None:
        return formats.ABSENT
    return formats.loss(mean) + ("" if error is None else f" ± {formats.loss(error)}")


def caption(rows: Sequence[Row]) -> str:
    """What the table shows."""
    said = (
        "The best configurations, trained again to the horizon on fresh seeds; each seed's best "
        "evaluation counts, and its adapter is scored on the test rows once."
    )
    if any(row.tie for row in rows):
        said += (
            f" Those that tie cannot be told apart from the best mean (Tukey's range test, "
            f"{LEVEL:.0%}); of them the one with the fewest trainable parameters comes first."
        )
    return said
