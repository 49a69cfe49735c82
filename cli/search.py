"""``tune-lora search``: run a search."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

_EPILOG = """\b
Examples:
  tune-lora search llama
  tune-lora search spaces/llama.yaml search.trials=20 data.train=mine.jsonl
  tune-lora search llama --resume runs/llama-20260101-120000
  tune-lora search llama --address auto --run /shared/runs/llama"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("search", epilog=_EPILOG)(search)


def search(
    space: Annotated[str, typer.Argument(help="A space file, or the name of a packaged space.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="In place of the file's.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder for the run; by default runs/SPACE-DATE-TIME.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with an interrupted run.")
    ] = None,
    local: Annotated[
        bool,
        typer.Option(
            "--local",
            help="One trial after another in this process, without Ray and early stopping, "
            "for debugging.",
        ),
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on this Ray cluster: HOST:PORT of its head, or auto on one of its nodes. By "
            "default Ray is started on this machine.",
        ),
    ] = None,
    audit: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Finish N of the trials that were stopped early, to see whether that was right.",
        ),
    ] = 0,
    warm_start: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Begin with the best configurations of another run."),
    ] = None,
) -> None:
    """Search a space: train its trials, stop those that fall behind, rank the rest."""
    from ..spaces import load_space

    loaded = load_space(space, overrides or [])
    if run is not None and resume is not None:
        raise typer.BadParameter("give --run for a new run or --resume for an old one, not both")
    if local and address is not None:
        raise typer.BadParameter("--local runs without Ray, and --address names a Ray cluster")
    if local and audit:
        raise typer.BadParameter("--audit finishes what ASHA stopped, and --local stops nothing")

    from ..search import driver
    from ..search.warm_start import warm_params
    from ..trainer.folder import RunFolder, as_typed
    from ._console import make_console
    from ._outcome import show_outcome

    console = make_console()
    first = [] if warm_start is None else warm_params(RunFolder.open(warm_start), loaded)
    if resume is not None:
        folder = driver.resumed_run(loaded, resume)
    else:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        folder = driver.new_run(loaded, run or Path("runs") / f"{loaded.name}-{stamp}")
    outcome = driver.run_search(
        loaded, folder, console, local=local, audits=audit, first=first, address=address
    )
    again = ["tune-lora", "search", space, *(overrides or []), *(["--local"] if local else [])]
    again += ["--address", address] if address is not None else []
    show_outcome(outcome, console, [*again, "--resume", as_typed(folder.root)])
