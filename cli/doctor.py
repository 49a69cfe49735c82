"""``tune-lora doctor``: whether this machine has what a search needs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_EPILOG = """\b
Examples:
  tune-lora doctor
  tune-lora doctor --skip ray --skip hub
  tune-lora doctor --json"""
_INDENT = 23


class Check(StrEnum):
    """What is looked at."""

    python = "python"
    libraries = "libraries"
    gpu = "gpu"
    bitsandbytes = "bitsandbytes"
    ray = "ray"
    wandb = "wandb"
    disk = "disk"
    hub = "hub"
    cpu = "cpu"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("doctor", epilog=_EPILOG)(doctor)


def doctor(
    skip: Annotated[list[Check] | None, typer.Option(help="Leave a check out.")] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders are made.")] = Path("runs"),
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Check Python, libraries, GPUs, bitsandbytes, Ray, wandb, disk, hub and limits.

    Exit code 1 if something failed; warnings alone are none.
    """
    import json
    from dataclasses import asdict

    from ..search.doctor import broken, diagnose

    found = diagnose(runs, [check.value for check in skip or ()])
    if json_:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2))
    else:
        for one in found:
            _show(f"{one.state:<8} {one.check:<13}", one.said)
            if one.remedy:
                _show("", one.remedy)
    if broken(found):
        raise typer.Exit(1)


def _show(head: str, text: str) -> None:
    """The text beside the head, as wide as the window allows."""
    import textwrap

    from ._console import make_console

    width = max(_INDENT + 20, make_console().width)
    wrapped = textwrap.wrap(text, width - _INDENT, break_on_hyphens=False) or [""]
    typer.echo(f"{head:<{_INDENT}}{wrapped[0]}")
    for line in wrapped[1:]:
        typer.echo(f"{'':<{_INDENT}}{line}")
