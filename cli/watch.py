"""``tune-lora watch``: follow a search that another process runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("watch")(watch)


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
) -> None:
    """Follow a search that runs elsewhere, in another terminal or job, to its end."""
    from ..reports import build, terminal_table, verdict
    from ..search.watch import watch as follow
    from ..trainer.folder import RunFolder
    from ._console import make_console

    folder, console = RunFolder.open(run), make_console()
    follow(folder, console)
    board = build(folder)
    console.print()
    console.print(terminal_table(board, console.width))
    console.print(verdict(board), markup=False, highlight=False)
