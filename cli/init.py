"""``tune-lora init``: a first space file for a model and a data set."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_EPILOG = """\b
Examples:
  tune-lora init --model meta-llama/Llama-3.2-1B --data mine.jsonl
  tune-lora init --model ./bert --data reviews.csv --task SEQ_CLS --out reviews.yaml"""


class Task(StrEnum):
    """Kinds of model, in peft's words."""

    CAUSAL_LM = "CAUSAL_LM"
    SEQ_2_SEQ_LM = "SEQ_2_SEQ_LM"
    SEQ_CLS = "SEQ_CLS"
    TOKEN_CLS = "TOKEN_CLS"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("init", epilog=_EPILOG)(init)


def init(
    model: Annotated[str, typer.Option(help="Hub id, local folder or *.gguf file.")],
    data: Annotated[str, typer.Option(help="Hub id, or a jsonl, csv or parquet file.")],
    task: Annotated[
        Task | None, typer.Option(help="By default what columns and model speak for.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write; never one that exists.")] = Path(
        "space.yaml"
    ),
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the model's own code.")
    ] = False,
) -> None:
    """Write a commented space file with sizes that fit the data and this machine."""
    from ..trainer.errors import TrialError

    if out.exists():
        raise TrialError(f"{out}: exists already; give another --out, or remove it")

    from ..search.starter import start

    made = start(model, data, task.value if task else None, trusted=trust_remote_code)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(made.text)
    except OSError as error:
        raise TrialError(f"{out}: cannot be written: {error.strerror}") from error
    typer.echo("\n".join(made.said))
    typer.echo(f"wrote {out}; next: tune-lora plan {out}, tune-lora search {out}")
