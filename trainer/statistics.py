"""What is said of the data before a search: how long rows are, and how much of them counts."""

from __future__ import annotations

from collections.abc import Mapping

from ..spaces import DataBlock


def data_lines(block: DataBlock, stats: Mapping[str, Mapping[str, int]]) -> list[str]:
    """One line of rows, and one of the training rows' lengths.

    Args:
        block: the space's data.
        stats: see ``TokenizedData.stats``.
    """
    train = stats["train"]
    rows = ", ".join(f"{counts['rows']} {split}" for split, counts in stats.items())
    said = [
        f"median {train['median']}, 95% have at most {train['p95']}, longest {train['longest']}",
        f"{share(train['truncated'], train['rows'])} are cut at max_length {block.max_length}",
    ]
    if train["repeated"]:
        said.append(f"{share(train['repeated'], train['rows'])} are copies of other rows")
    if common := stats["validation"]["shared"]:
        said.append(f"{common} validation rows are in another split too (duplicates: allow)")
    first = f"data:   {block.train}: {rows} rows"
    if block.format != "classification":
        supervised = share(train["supervised"], train["tokens"])
        first += f"; {supervised} of training tokens supervised"
    return [first, f"tokens: {'; '.join(said)}"]


def share(part: int, whole: int) -> str:
    """A share in percent, in words where a number would mislead."""
    percent = 100 * part / max(1, whole)
    return "none" if part == 0 else "below 1%" if percent < 1 else f"{percent:.0f}%"
