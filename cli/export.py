"""``tune-lora export``: the best adapter of a run, checked, with tokenizer and model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_EPILOG = """\b
Examples:
  tune-lora export runs/llama-20260101-120000 --to best-adapter
  tune-lora export runs/llama-20260101-120000 --to second --trial 7 --merge --quantize
  tune-lora export runs/llama-20260101-120000 --to best --push me/orders-to-json --private"""


_MUCH, _OFF = 0.05, 0.01
"""Nats: a loss of quality to be told of in words, and a difference that rounding does not make."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("export", epilog=_EPILOG)(export)


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    to: Annotated[Path, typer.Option(help="Folder to write; it must not hold anything yet.")],
    trial: Annotated[
        int | None, typer.Option(min=0, help="Number of the trial; by default the best one.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the merged model too, into TO/merged.")
    ] = False,
    quantize: Annotated[
        bool,
        typer.Option(
            "--quantize", help="Write the merged model in 4 bits (NF4), into TO/merged-nf4."
        ),
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(metavar="REPO", help="Upload the folder to this model repository of the hub."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make that repository a private one.")
    ] = False,
) -> None:
    """Write a trial's adapter as a folder that plain peft loads, and score what was written."""
    from ..search.export import export_trial
    from ..search.push import Push
    from ..trainer.folder import RunFolder

    if private and push is None:
        raise typer.BadParameter("--private is for a repository that --push names")
    where = None if push is None else Push(push, private)
    exported = export_trial(
        RunFolder.open(run), to, trial, merge=merge, quantize=quantize, push=where
    )
    row, rescore = exported.row, exported.rescore
    assert row.eval_loss is not None
    typer.echo(f"{row.name} (rank {row.rank}, step {row.best_step}) is in {to}")
    typer.echo(f"  in the search    eval_loss {row.eval_loss:.4f}")
    typer.echo(_line("loaded again", rescore.adapter, row.eval_loss))
    for name, loss in (("merged", rescore.merged), ("merged-nf4", rescore.quantized)):
        if loss is not None:
            typer.echo(_line(name, loss, row.eval_loss) + f"  ({to / name})")
            if loss - row.eval_loss > _MUCH:
                typer.echo(f"    {name} is worse by more than {_MUCH}: prefer the adapter itself")
    if abs(rescore.adapter - row.eval_loss) > _OFF:
        typer.echo(
            "warning: loaded again, it is not what the search ranked; do not use it", err=True
        )
    if push is not None:
        typer.echo(f"Uploaded to https://huggingface.co/{push}")
    typer.echo(f'Try it:  tune-lora generate {to} "..."')


def _line(name: str, loss: float, before: float) -> str:
    return f"  {name:<15}  eval_loss {loss:.4f}  difference {loss - before:+.5f}"
