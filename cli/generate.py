"""``tune-lora generate``: ask an exported adapter something."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_EPILOG = """\b
Examples:
  tune-lora generate best-adapter "Turn this order into JSON." --input "Two lamps to Oslo."
  tune-lora generate best-adapter/merged "Define the noun bank." --temperature 0.7"""


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
) -> None:
    """Answer a prompt with an exported adapter, in the template that it was trained with."""
    from ..trainer.generate import Decoding, load_answerer

    decoding = Decoding(max_new_tokens, temperature, top_p, seed)
    answerer = load_answerer(adapter)
    typer.echo(answerer.answer({"instruction": prompt, "input": context}, decoding, raw=raw))
