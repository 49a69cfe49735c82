"""``tune-lora schema``: the JSON Schema of space files, for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

_EPILOG = """\b
Example:
  tune-lora schema --to space.schema.json

\b
At the top of a space file, for editors with yaml-language-server:
  # yaml-language-server: $schema=space.schema.json"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("schema", epilog=_EPILOG)(schema)


def schema(
    to: Annotated[Path | None, typer.Option(help="Write it there; else it is printed.")] = None,
) -> None:
    """Write the JSON Schema that lets editors complete and check space files."""
    from ..spaces import json_schema

    text = json.dumps(json_schema(), indent=2) + "\n"
    if to is None:
        typer.echo(text, nl=False)
        return
    from ..trainer.folder import write_text

    write_text(to, text)
    typer.echo(f"wrote {to}")
