"""``tune-lora report``: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_EPILOG = """\b
Examples:
  tune-lora report runs/llama-20260101-120000
  tune-lora report runs/llama-20260101-120000 --out report.html"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("report", epilog=_EPILOG)(report)


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write it; by default RUN/report.html.")
    ] = None,
) -> None:
    """Write a run's report: verdict, leaderboard, figures, failures, in one file."""
    from ..reports import build
    from ..reports.html import to_html
    from ..trainer.folder import RunFolder, write_text

    folder = RunFolder.open(run)
    target = out or folder.report
    write_text(target, to_html(folder, build(folder)))
    typer.echo(f"Report: {target}")
