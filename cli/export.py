"""``tune-lora export``: the best adapter of a run, checked, with tokenizer and model card."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ._options import TrustRemoteCode

if TYPE_CHECKING:
    from ..search.export import Exported

_EPILOG = """\b
Examples:
  tune-lora export runs/llama-20260101-120000 --to best-adapter
  tune-lora export runs/llama-20260101-120000 --to second --trial 7 --merge
  tune-lora export runs/llama-20260101-120000 --to best-adapter --quantize --gguf q8_0
  tune-lora export runs/llama-20260101-120000 --to best-adapter --push me/best-adapter --private"""


class GgufType(StrEnum):
    """How a GGUF file's matrices are written."""

    f16 = "f16"
    f32 = "f32"
    q8_0 = "q8_0"


class _GgufAlone(TyperCommand):
    """``--gguf`` without a type is ``--gguf f16``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for index in range(len(args) - 1, -1, -1):
            following = args[index + 1 : index + 2]
            if args[index] == "--gguf" and (not following or following[0].startswith("-")):
                args.insert(index + 1, GgufType.f16)
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("export", epilog=_EPILOG, cls=_GgufAlone)(export)


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
        typer.Option("--quantize", help="Write it in 4 bits (NF4) too, into TO/merged-nf4."),
    ] = False,
    gguf: Annotated[
        GgufType | None,
        typer.Option(help="Write it as TO/model-TYPE.gguf too; f16 if no type is given."),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="REPO_ID", help="Upload the folder to the Hugging Face hub."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the hub's repository a private one.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write a trial's adapter as a folder that plain peft loads, and score what was written."""
    if private and push is None:
        raise typer.BadParameter("goes with --push REPO_ID", param_hint="--private")
    from ..reports.model_card import is_hub_id
    from ..search.push import hub_target

    hub = None if push is None else hub_target(push, private=private)
    # What follows takes seconds to import and minutes to run: the hub was asked before.
    from ..search.export import export_trial
    from ..trainer.export import Forms
    from ..trainer.folder import RunFolder

    forms = Forms(merge, quantize, gguf)
    repo = None if hub is None else hub.repo
    exported = export_trial(RunFolder.open(run), to, trial, forms, repo, trusted=trust_remote_code)
    _show(exported, to, gguf)
    if hub is not None:
        if not is_hub_id(exported.base):
            typer.echo(f"The base model is at {exported.base}: others cannot load it from there.")
        typer.echo(f"Pushed to {hub.push(to)}")
    typer.echo(f'Try it:  tune-lora generate {to} "..." --compare')


def _show(exported: Exported, to: Path, gguf: str | None) -> None:
    from ..reports.differences import large_differences, not_what_was_ranked, rescored

    row, scores = exported.row, exported.scores
    places = {"merged": "merged", "merged-nf4": "merged-nf4", "gguf": f"model-{gguf}.gguf"}
    typer.echo(f"{row.name} (rank {row.rank}, step {row.best_step}) is in {to}")
    typer.echo(f"  in the search    eval_loss {scores.eval_loss:.4f}")
    for name, loss in rescored(scores).items():
        place = f"  ({to / places[name]})" if name in places else ""
        difference = f"difference {loss - scores.eval_loss:+z.5f}"
        typer.echo(f"  {name:<15}  eval_loss {loss:.4f}  {difference}{place}")
    for words in large_differences(scores, exported.quantization):
        typer.echo(words)
    other = not_what_was_ranked(scores)
    if other is not None:
        typer.secho(f"WARNING: {other}", fg=typer.colors.RED, bold=True, err=True)
