"""``tune-lora leaderboard``: rank the trials of one run or of several."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_EPILOG = """\b
Examples:
  tune-lora leaderboard runs/llama-20260101-120000
  tune-lora leaderboard runs/llama-* --format csv > all.csv"""


class Format(StrEnum):
    """How to print."""

    table = "table"
    csv = "csv"
    json = "json"
    md = "md"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("leaderboard", epilog=_EPILOG)(leaderboard)


def leaderboard(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
    top: Annotated[
        int | None, typer.Option(min=1, help="Rows of the table at most; by default all.")
    ] = None,
) -> None:
    """Show the ranked trials of a run; of several runs, ranked together."""
    from ..reports import build, merge, terminal_table, to_csv, to_json, to_markdown, verdict
    from ..trainer.folder import RunFolder

    boards = [build(RunFolder.open(run)) for run in runs]
    board = merge(boards) if len(boards) > 1 else boards[0]
    if form is not Format.table:
        written = {Format.csv: to_csv, Format.json: to_json, Format.md: to_markdown}[form]
        typer.echo(written(board), nl=False)
        return
    from ._console import make_console

    console = make_console()
    console.print(terminal_table(board, console.width, top))
    console.print()
    console.print(verdict(board), markup=False, highlight=False)
