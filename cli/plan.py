"""``tune-lora plan``: what a search would need, before any of it is spent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..search.planning import Outlook

_EPILOG = """\b
Examples:
  tune-lora plan llama
  tune-lora plan mine.yaml model.name=/models/Llama-3.1-70B train.per_device_train_batch_size=1
  tune-lora plan mine.yaml --gpu-memory 80 --gpus 8
  tune-lora plan mine.yaml --measure
  tune-lora plan mine.yaml --json"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("plan", epilog=_EPILOG)(plan)


def plan(
    space: Annotated[str, typer.Argument(help="A space file, or the name of a packaged space.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="In place of the file's.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Load the model and measure how fast it trains, for times too."
        ),
    ] = False,
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIB",
            min=1,
            help="Plan for a machine whose GPUs have so many GiB each, and not for this one.",
        ),
    ] = None,
    gpus: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many GPUs that machine has.")
    ] = 1,
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show what a search would need: memory, tokens, disk and, measured, time.

    The model's config.json is enough. Exit code 2 if no configuration fits the machine.
    """
    from ..spaces import load_space

    loaded = load_space(space, overrides or [])
    if gpu_memory is None and gpus != 1:
        raise typer.BadParameter("--gpus says how many GPUs of --gpu-memory there are; give both")
    if gpu_memory is not None and measure:
        raise typer.BadParameter("--measure is for this machine, and --gpu-memory for another")

    from ..search.planning import Gpus, existing, look_ahead

    other = None if gpu_memory is None else Gpus(gpus, int(gpu_memory * 2**30))
    found = look_ahead(loaded, measure=measure, gpus=other)
    if json_:
        _print_json(found)
    else:
        free = shutil.disk_usage(existing(Path("runs"))).free if other is None else None
        _print_table(found, free)


def _print_json(found: Outlook) -> None:
    import json

    from ..search.plan_text import as_json
    from ..search.resources import disk_budget

    keep = found.plan.space.search.keep_adapters
    disk = disk_budget(found.largest_adapter, keep, found.layout.allocation.trials)
    typer.echo(json.dumps(as_json(found.plan, found.layout, disk), indent=2, default=str))


def _print_table(found: Outlook, free: int | None) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ..search import plan_text
    from ._console import make_console

    console, trials = make_console(), found.layout.allocation.trials
    lines = plan_text.plan_lines(found.plan, found.data, found.layout, found.unpacking)
    if found.layout.speed is None and free is not None:
        lines.append("time:   not measured; --measure loads the model and does")
    lines.append(plan_text.disk_line(found.plan.space, found.largest_adapter, trials, free))
    plan_text.say([*lines, ""], console)
    heads, rows, below = plan_text.table(found.plan, found.layout)
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        words = head in ("targets", "")
        made.add_column(
            head, justify="left" if words else "right", no_wrap=not words, overflow="fold"
        )
    for row in rows:
        made.add_row(*map(escape, row))
    console.print(made, highlight=False)
    for sentence in below:
        console.print(sentence, markup=False, highlight=False)
