"""``tune-lora export``: the best adapter of a run, checked, with tokenizer and model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_EPILOG = """\b
Examples:
  tune-lora export runs/llama-20260101-120000 --to best-adapter
  tune-lora export runs/llama-20260101-120000 --to second --trial 7 --merge"""


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
) -> None:
    """Write a trial's adapter as a folder that plain peft loads, and score what was written."""
    from ..search.export import export_trial
    from ..trainer.folder import RunFolder

    exported = export_trial(RunFolder.open(run), to, trial, merge=merge)
    row, rescore = exported.row, exported.rescore
    assert row.eval_loss is not None
    typer.echo(f"{row.name} (rank {row.rank}, step {row.best_step}) is in {to}")
    typer.echo(f"  in the search    eval_loss {row.eval_loss:.4f}")
    typer.echo(_line("loaded again", rescore.adapter, row.eval_loss))
    if rescore.merged is not None:
        typer.echo(_line("merged", rescore.merged, row.eval_loss) + f"  ({to / 'merged'})")
    typer.echo(f'Try it:  tune-lora generate {to} "..."')


def _line(name: str, loss: float, before: float) -> str:
    return f"  {name:<15}  eval_loss {loss:.4f}  difference {loss - before:+.5f}"
