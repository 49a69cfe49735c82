"""What a search came to, on the terminal."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from ..search.driver import SearchOutcome


def show_outcome(outcome: SearchOutcome, console: Console, again: list[str]) -> None:
    """Table, verdict and the commands that come next.

    Args:
        outcome: of the search.
        console: to print on.
        again: the command that goes on with it, should it have been interrupted.

    Raises:
        typer.Exit: the search was interrupted, or no trial has a score.
    """
    from ..reports import terminal_table, verdict
    from ..trainer.folder import as_typed

    console.print()
    console.print(terminal_table(outcome.board, console.width))
    console.print(verdict(outcome.board), markup=False, highlight=False)
    root = as_typed(outcome.run.root)
    if outcome.reason is not None:
        console.print(
            f"\nStopped: {outcome.reason}. What was won is kept in {root}\n"
            f"Go on with:  {shlex.join(again)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(130 if outcome.reason == "interrupted" else 0)
    if outcome.board.best is None:
        console.print(f"\nNo trial ended with a score; see {root}/trials", markup=False)
        raise typer.Exit(1)
    console.print(
        f"\nReport:      {root}/report.html\n"
        f"Leaderboard: {root}/leaderboard.md (.csv, .json)\n"
        f"Export it:   tune-lora export {root} --to best-adapter",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
