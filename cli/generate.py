"""``tune-lora generate``: ask an exported adapter something."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._options import TrustRemoteCode

if TYPE_CHECKING:
    from rich.console import RenderableType

_EPILOG = """\b
Examples:
  tune-lora generate best-adapter "Turn this order into JSON." --input "Two lamps to Oslo."
  tune-lora generate best-adapter/merged "Define the noun bank." --temperature 0.7
  tune-lora generate best-adapter "Define the noun bank." --compare"""

_COLUMNS_FROM = 100
"""Character cells from which two columns read better than one answer after the other."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("generate", epilog=_EPILOG)(generate)


def generate(
    adapter: Annotated[
        Path, typer.Argument(help="An exported adapter or merged model, or any LoRA adapter.")
    ],
    prompt: Annotated[str, typer.Argument(help="The instruction; for a classifier, the text.")],
    context: Annotated[
        str, typer.Option("--input", help="What the instruction is about, if it is apart.")
    ] = "",
    raw: Annotated[
        bool, typer.Option("--raw", help="Take the prompt as it is, without the template.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens at most.")] = 256,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Draw from the likeliest tokens only.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show what the base model answers beside it.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Answer a prompt with an exported adapter, in the template that it was trained with."""
    from ..trainer.generate import Decoding, answer_both, load_answerer

    decoding = Decoding(max_new_tokens, temperature, top_p, seed)
    row = {"instruction": prompt, "input": context}
    if not compare:
        typer.echo(load_answerer(adapter, trusted=trust_remote_code).answer(row, decoding, raw=raw))
        return
    from ._console import make_console

    console = make_console()
    both = answer_both(adapter, row, decoding, raw=raw, trusted=trust_remote_code)
    answers = {str(adapter): both.adapter, f"base model ({both.base_name})": both.base}
    console.print(side_by_side(answers, console.width))


def side_by_side(answers: Mapping[str, str], width: int) -> RenderableType:
    """Texts under their headings: in columns where the terminal is wide enough, else stacked.

    Args:
        answers: texts by heading.
        width: of the terminal, in character cells.
    """
    from rich.console import Group
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    if width < _COLUMNS_FROM:
        parts = [(Rule(Text(name), align="left"), Text(text)) for name, text in answers.items()]
        return Group(*(part for pair in parts for part in pair))
    table = Table(width=width)
    for name in answers:
        table.add_column(Text(name), ratio=1, overflow="fold")
    table.add_row(*(Text(text) for text in answers.values()))
    return table
