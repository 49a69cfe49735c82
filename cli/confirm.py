"""``tune-lora confirm``: the best configurations of a run, trained again on fresh seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import TrustRemoteCode

_EPILOG = """\b
Examples:
  tune-lora confirm runs/llama-20260101-120000
  tune-lora confirm runs/llama-20260101-120000 --top 2 --seeds 5"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("confirm", epilog=_EPILOG)(confirm)


def confirm(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a search that ended.")],
    top: Annotated[
        int | None, typer.Option(min=1, help="Configurations; by default the space's, or 3.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=2, help="Seeds of each; by default the space's, or 3.")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="One run after another in this process, without Ray.")
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on this Ray cluster; see tune-lora search."),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Train the best configurations again, to the horizon, on fresh seeds.

    Each is scored on the validation rows and, once, on the test rows; the leaderboard then ranks
    them by their means and says which tie.
    """
    if local and address is not None:
        raise typer.BadParameter("--local runs without Ray, and --address names a Ray cluster")
    from ..search.confirm import confirmed_space
    from ..search.driver import resumed_run, run_search
    from ..trainer.folder import RunFolder
    from ._console import make_console
    from ._outcome import show_outcome

    space = confirmed_space(RunFolder.open(run), top, seeds, trusted=trust_remote_code)
    console = make_console()
    outcome = run_search(space, resumed_run(space, run), console, local=local, address=address)
    again = ["tune-lora", "confirm", str(run), *(["--local"] if local else [])]
    again += ["--address", address] if address is not None else []
    show_outcome(outcome, console, again)
