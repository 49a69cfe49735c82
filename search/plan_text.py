"""A plan in words: lines for the start of a search, rows and JSON for ``tune-lora plan``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from ..reports.formats import brief, clock, count, size
from ..spaces import PbtScheduler, Space
from ..trainer.data import TokenizedData
from ..trainer.errors import TrialError
from ..trainer.footprint import Footprint
from .classes import size_fields
from .layout import Layout
from .measures import measures_said
from .plan import Class, Plan
from .plan_facts import length_lines
from .plan_time import search_seconds, trial_seconds
from .resources import disk_budget

_HEADS = {
    "lora.target_modules": "targets",
    "lora.lora_dropout": "dropout",
    "lora.use_dora": "DoRA",
    "lora.init_lora_weights": "init",
    "train.per_device_train_batch_size": "rows",
    "train.per_device_eval_batch_size": "eval rows",
    "train.gradient_accumulation_steps": "passes",
    "train.gradient_checkpointing": "checkpointing",
}
"""Short words for keys, above the table's columns."""


def say(lines: Sequence[str], console: Console) -> None:
    """Print lines as they are."""
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)


def plan_lines(
    plan: Plan, data: TokenizedData | None, layout: Layout, unpacking: str | None
) -> list[str]:
    """What a search will do and need, in short.

    Args:
        plan: of the search.
        data: its rows; None where they could not be read.
        layout: workers and so on.
        unpacking: how NF4 weights are computed with, and why.

    Raises:
        SpaceError: no configuration fits the machine.
    """
    space, search = plan.space, plan.space.search
    scheduler = "no early stopping" if search.scheduler is None else search.scheduler.title
    rungs = ", ".join(map(str, space.rungs()))
    taken = search_seconds(plan, layout)
    return [
        f"model:  {plan.spec.name} ({plan.spec.quantization}, {plan.spec.task})",
        *([f"nf4:    {unpacking}"] if unpacking else []),
        *length_lines(space.data, data, plan.lengths),
        f"search: {search.trials} trials of {space.rungs()[-1]} steps, {search.sampler} sampler, "
        f"{scheduler}, evaluated at {rungs}; {layout.allocation}",
        *([f"metric: {said}"] if (said := measures_said(space)) else []),
        *([f"layout: {layout.reason}"] if layout.reason else []),
        *memory_lines(plan, layout),
        *([f"time:   about {clock(taken)} if no trial is stopped early"] if taken else []),
    ]


def memory_lines(plan: Plan, layout: Layout) -> list[str]:
    """The most that a trial is predicted to need, and what is left out because it needs too much.

    Raises:
        SpaceError: no configuration fits the machine.
    """
    impossible = plan.check()
    heaviest, own = plan.heaviest(), plan.capacity
    found = heaviest.footprint
    if found is None:
        return [f"memory: not predicted: {heaviest.refused or heaviest.note}"]
    lora, pack, workers = heaviest.values["lora"], layout.allocation.pack, layout.allocation.workers
    worker = found.held + (pack - 1) * (found.held - found.process - found.weights)
    has = f"{own.what} has {size(own.size)}" if own.size else "what there is cannot be read"
    lines = [
        f"memory: about {size(found.total)} a trial at most "
        f"({brief(lora['target_modules'])}, r {lora['r']}); {has}"
    ]
    if not own.gpu and 0 < own.size < workers * worker:
        lines.append(f"        {workers} such worker(s) at once may need more than that together")
    if impossible:
        lines.append("        impossible configurations are left out (tune-lora plan shows them)")
    return lines


def checked_disk_line(space: Space, largest: int, running: int, root: Path) -> str:
    """``disk_line`` for a search that is about to begin.

    Args:
        space: validated.
        largest: trainable parameters of the largest adapter.
        running: trials at a time.
        root: where the run folder is.

    Raises:
        TrialError: less is free than it can come to hold.
    """
    needed, free = _disk(space, largest, running), shutil.disk_usage(root).free
    if free < needed:
        raise TrialError(
            f"{root}: needs up to {size(needed)}, and {size(free)} are free; free some space, "
            "or give --run a folder on another disk"
        )
    return disk_line(space, largest, running, free)


def disk_line(space: Space, largest: int, running: int, free: int | None) -> str:
    """The most that the run folder can come to hold, against what is free.

    Args:
        space: validated.
        largest: trainable parameters of the largest adapter.
        running: trials at a time.
        free: bytes on the disk; None where it is another machine's.
    """
    needed = _disk(space, largest, running)
    line = (
        f"disk:   at most {size(needed)} for the {space.search.keep_adapters} best adapters and "
        f"{_side_by_side(space, running)} running trial(s)"
    )
    if free is None:
        return line
    if free < needed:
        return f"{line}; only {size(free)} are free here, and a search would not begin"
    return f"{line}; {size(free)} are free"


def _disk(space: Space, largest: int, running: int) -> int:
    return disk_budget(largest, space.search.keep_adapters, _side_by_side(space, running))


def _side_by_side(space: Space, running: int) -> int:
    """Of a population, those that wait keep their checkpoints, too."""
    return space.search.trials if isinstance(space.search.scheduler, PbtScheduler) else running


def varying(classes: Sequence[Class]) -> list[str]:
    """Dotted keys in which the classes differ, targets and rank always among them."""
    all_fields = [size_fields(one.values) for one in classes]
    keys = dict.fromkeys(key for one in all_fields for key in one)
    always = ["lora.target_modules", "lora.r"]
    differ = [k for k in keys if len({brief(one.get(k)) for one in all_fields}) > 1]
    return [*always, *(key for key in differ if key not in always)]


def table(plan: Plan, layout: Layout) -> tuple[list[str], list[list[str]], list[str]]:
    """The classes as heads and rows of a table, and sentences below it.

    What all rows have alike is a sentence.
    """
    classes = plan.classes()
    keys = varying(classes)
    heads = [_HEADS.get(key, key.partition(".")[2]) for key in keys]
    rows = [[brief(size_fields(one.values).get(key)) for key in keys] for one in classes]
    columns = _columns(classes, plan, layout)
    below = [_common(classes)]
    for head, found in columns.items():
        if head == "tokens" and len(set(found)) == 1:
            below.append(f"A trial trains on {found[0]} tokens.")
            continue
        heads.append(head)
        for row, cell in zip(rows, found, strict=True):
            row.append(cell)
    return heads, rows, [*filter(None, below), *_reasons(plan, classes)]


def _columns(classes: Sequence[Class], plan: Plan, layout: Layout) -> Mapping[str, list[str]]:
    prints = [one.footprint for one in classes]
    found = {
        "trains": [count(p.trainable) if p else "-" for p in prints],
        "adapter": [size(p.adapter + p.gradients + p.optimizer) if p else "-" for p in prints],
        "a pass": [size(_pass(p)) if p else "-" for p in prints],
        "memory": [size(p.total) if p else "-" for p in prints],
        "disk": [size(one.adapter_bytes) if one.footprint else "-" for one in classes],
        "tokens": [count(one.tokens) for one in classes],
    }
    if layout.speed is not None:
        times = [trial_seconds(plan, one.values, layout) or 0.0 for one in classes]
        found["time"] = [clock(taken) for taken in times]
    if any(one.note for one in classes):
        found[""] = [_noted(one) for one in classes]
    return found


def _pass(found: Footprint) -> int:
    return found.activations + found.logits + found.allocator


def _noted(one: Class) -> str:
    if one.footprint is None and one.refused is None:
        return "not predicted"
    return one.note or ""


def _common(classes: Sequence[Class]) -> str:
    """What is in the memory of each, and what the columns hold."""
    found = next((one.footprint for one in classes if one.footprint), None)
    if found is None:
        return ""
    mapped = f"{size(found.mapped)} of their file still mapped, " if found.mapped else ""
    return (
        f"Memory is {size(found.process)} for libraries, {size(found.weights)} for the base's "
        f"weights, {mapped}the adapter with its gradients and optimizer, and a pass: "
        "activations, logits and, on a CPU, what the allocator holds. Disk is one adapter."
    )


def _reasons(plan: Plan, classes: Sequence[Class]) -> list[str]:
    """Why classes are impossible or have no prediction, each reason once."""
    found = dict.fromkeys(reason for one in classes if (reason := plan.refusal(one.values)))
    unknown = dict.fromkeys(
        one.note for one in classes if one.footprint is None and one.refused is None
    )
    lines = [f"Impossible, and never tried: {reason}." for reason in found]
    return [*lines, *(f"Not predicted: {note}." for note in unknown)]


def as_json(plan: Plan, layout: Layout, disk: int) -> dict[str, Any]:
    """The whole plan as plain data; sizes in bytes, times in seconds."""
    classes = []
    for one in plan.classes():
        own = one.footprint
        memory = {} if own is None else {**asdict(own), "total": own.total}
        entry = {
            "fields": size_fields(one.values),
            "trainable": memory.pop("trainable", None),
            "memory": memory,
            "tokens": one.tokens,
            "adapter_bytes": one.adapter_bytes,
            "seconds": trial_seconds(plan, one.values, layout),
            "note": one.note,
            "impossible": plan.refusal(one.values),
        }
        classes.append(entry)
    return {
        "model": plan.spec.name,
        "task": plan.spec.task,
        "quantization": plan.spec.quantization,
        "quantization_compute": plan.spec.quantization_compute,
        "lengths": asdict(plan.lengths),
        "capacity": {"bytes": plan.capacity.size, "of": plan.capacity.what},
        "workers": layout.allocation.workers,
        "pack": layout.allocation.pack,
        "trials": plan.space.search.trials,
        "disk_bytes": disk,
        "seconds": search_seconds(plan, layout),
        "classes": classes,
    }
