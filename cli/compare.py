"""``tune-lora compare``: several searches side by side."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_EPILOG = """\b
Examples:
  tune-lora compare runs/llama-20260101-120000 runs/llama-20260102-090000
  tune-lora compare runs/llama-* --html comparison.html"""


class Format(StrEnum):
    """How to print."""

    table = "table"
    json = "json"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("compare", epilog=_EPILOG)(compare)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders.")],
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
    html: Annotated[Path | None, typer.Option(help="Write a page with curves there too.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows of the joint ranking at most.")] = 10,
) -> None:
    """Show what several searches came to, how their spaces differ, and a joint ranking."""
    from ..reports import compare as comparisons
    from ..trainer.folder import RunFolder, write_text

    if len(runs) < 2:
        raise typer.BadParameter("name two runs or more", param_hint="RUN")
    found = comparisons.compare([RunFolder.open(run) for run in runs])
    if html is not None:
        from ..reports import compare_html

        write_text(html, compare_html.to_html(found))
    if form is Format.json:
        typer.echo(comparisons.comparison_json(found), nl=False)
        return
    _show(found, top)
    if html is not None:
        typer.echo(f"\nPage: {html}")


def _show(found: object, top: int) -> None:
    from rich.table import Table

    from ..reports import compare as comparisons
    from ..reports import terminal_table, verdict
    from ._console import make_console

    assert isinstance(found, comparisons.Comparison)
    console = make_console()
    for warning in found.board.warnings:
        console.print(f"CAUTION: {warning}", style="bold red", markup=False, highlight=False)
    heads = ("space: key", *found.board.runs)
    rows = [comparisons.difference_cells(*item) for item in found.differences.items()]
    for names, cells in (
        (comparisons.HEADS, [comparisons.standing_cells(s) for s in found.standings]),
        (heads, rows),
    ):
        table = Table(*names, box=None, pad_edge=False, header_style="bold")
        for line in cells:
            table.add_row(*line)
        if cells:
            console.print(table, markup=False, highlight=False)
            console.print()
    if not rows:
        console.print("The spaces are the same.\n", highlight=False)
    console.print(terminal_table(found.board, console.width, top))
    console.print()
    console.print(verdict(found.board), markup=False, highlight=False)
