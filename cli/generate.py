"""``tune-lora generate``: ask an exported adapter something."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_EPILOG = """\b
Examples:
  tune-lora generate best-adapter "Turn this order into JSON." --input "Two lamps to Oslo."
  tune-lora generate best-adapter "Turn this order into JSON." --compare
  tune-lora generate best-adapter/merged "Define the noun bank." --temperature 0.7"""


_NARROW = 70
"""Character cells of a terminal, below which two columns are too many."""


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
        bool, typer.Option("--compare", help="Show what the base model answers, side by side.")
    ] = False,
) -> None:
    """Answer a prompt with an exported adapter, in the template that it was trained with."""
    from ..trainer.generate import Decoding, load_answerer

    decoding = Decoding(max_new_tokens, temperature, top_p, seed)
    answerer = load_answerer(adapter)
    row = {"instruction": prompt, "input": context}
    answer = answerer.answer(row, decoding, raw=raw)
    if not compare:
        typer.echo(answer)
        return
    _show(answerer.without_adapter().answer(row, decoding, raw=raw), answer)


def _show(base: str, adapter: str) -> None:
    """In two columns, or below each other where the terminal is narrow."""
    from rich.table import Table
    from rich.text import Text

    from ._console import make_console

    console = make_console()
    named = {"base model": Text(base), "with the adapter": Text(adapter)}
    if console.width < _NARROW:
        for name, text in named.items():
            console.print(Text(f"{name}:", "bold"), text, "", sep="\n")
        return
    table = Table(box=None, padding=(0, 4, 0, 0), expand=True)
    for name in named:
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(*named.values())
    console.print(table)
