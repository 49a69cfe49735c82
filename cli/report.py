"""``tune-lora report``: a run as one HTML file, and its figures as files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_EPILOG = """\b
Examples:
  tune-lora report runs/llama-20260101-120000
  tune-lora report runs/llama-20260101-120000 --out report.html
  tune-lora report runs/llama-20260101-120000 --figures figures --format png"""


class Format(StrEnum):
    """Of a figure's file."""

    svg = "svg"
    png = "png"
    pdf = "pdf"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("report", epilog=_EPILOG)(report)


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write it; by default RUN/report.html.")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write every figure to a file there too; needs 'tune-lora[figures]' and Chromium.",
        ),
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="Of the figures' files; by default svg.")
    ] = None,
) -> None:
    """Write a run's report: verdict, leaderboard, figures, failures, in one file."""
    from ..reports import build, static
    from ..reports.html import run_figures, to_html
    from ..trainer.folder import RunFolder, write_text

    if form is not None and figures is None:
        raise typer.BadParameter("give --figures DIR with it", param_hint="--format")
    folder = RunFolder.open(run)
    if figures is not None:
        static.need_browser()
    board = build(folder)
    drawn = run_figures(folder, board)
    target = out or folder.report
    write_text(target, to_html(folder, board, drawn))
    typer.echo(f"Report: {target}")
    if figures is not None:
        written = static.write_figures(drawn, figures, (form or Format.svg).value)
        names = ", ".join(path.name for path in written) or "the run has nothing to draw yet"
        typer.echo(f"Figures: {figures} ({names})")
