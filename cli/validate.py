"""``tune-lora validate``: check a space file without loading anything heavy."""

from __future__ import annotations

from typing import Annotated

import typer

_EPILOG = """\b
Examples:
  tune-lora validate llama
  tune-lora validate mine.yaml search.trials=20
  tune-lora validate mine.yaml --resolved > whole.yaml"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("validate", epilog=_EPILOG)(validate)


def validate(
    space: Annotated[str, typer.Argument(help="A space file, or the name of a packaged space.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="In place of the file's.")
    ] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the space with every default written out.")
    ] = False,
) -> None:
    """Check a space; all faults at once, each with its place and the remedy."""
    from ..spaces import dump_space, load_space

    loaded = load_space(space, overrides or [])
    if resolved:
        typer.echo(dump_space(loaded), nl=False)
        return
    names = ", ".join(parameter.name for parameter in loaded.parameters())
    rungs = ", ".join(map(str, loaded.rungs()))
    typer.echo(f"{space}: valid")
    typer.echo(f"  {loaded.search.trials} trials, evaluated at steps {rungs}")
    typer.echo(f"  searches {names or 'nothing: every value is a constant'}")
