"""A trial as trackers meet it: what it has written into its folder, and its result so far."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tune_lora.search.tracking import Follower, Tracker, make_trackers
from tune_lora.spaces import load_space
from tune_lora.trainer.folder import RunFolder, write_text
from tune_lora.trainer.result import Evaluation, TrialResult, TrialState

SPACE = """\
model: {name: m}
data: {train: d.jsonl}
lora: {r: {choice: [4, 8]}, lora_alpha: {ratio_of: r, choice: [1, 2]},
       target_modules: {choice: [qv, [q_proj, v_proj]]}}
train: {learning_rate: {log_uniform: [1.0e-4, 1.0e-1]}, max_steps: 8}
"""
RUNGS = (2, 4, 8)
LORA: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
VARIED = {
    "r": 8,
    "lora_alpha": 16,
    "target_modules": '["q_proj", "v_proj"]',
    "learning_rate": 0.01,
}


def new_run(root: Path, tracking: str) -> RunFolder:
    """A run folder that holds a space with these trackers."""
    run = RunFolder(root)
    write_text(run.space, f"{SPACE}tracking: {tracking}\n")
    return run


def trackers(run: RunFolder) -> list[Tracker]:
    return make_trackers(load_space(run.space), run)


def follow(run: RunFolder, *results: TrialResult, best: TrialResult | None = None) -> None:
    """A part of the search, in which the trials came to these results; with its best, the last."""
    follower = Follower(run, trackers(run), results, seconds=60.0)
    with follower:
        pass
    follower.crown(best, over=best is not None)


def loss(number: int, step: int) -> float:
    return 3.0 + number - step / 10


def rows(number: int, steps: Sequence[int]) -> list[dict[str, Any]]:
    """What a trial writes at these steps."""
    made: list[dict[str, Any]] = []
    for step in steps:
        made.append({"step": step, "loss": loss(number, step), "learning_rate": 0.01})
        if step in RUNGS:
            made.append({"step": step, "eval_loss": loss(number, step) + 1, "seconds": 1.5 * step})
    return made


def course(number: int, key: str, last: int) -> dict[int, float]:
    """Those values by step, up to the last one."""
    return {row["step"]: row[key] for row in rows(number, range(1, last + 1)) if key in row}


def reached(
    run: RunFolder, number: int, step: int, state: TrialState = TrialState.RUNNING, **fields: Any
) -> TrialResult:
    """The trial at a step: its metrics are written, up to there and no further."""
    folder = run.trial(number)
    lines = "".join(json.dumps(row) + "\n" for row in rows(number, range(1, step + 1)))
    write_text(folder.metrics, lines)
    found = course(number, "eval_loss", step)
    best = min(found, key=lambda s: found[s], default=None)
    result = TrialResult(
        number,
        state,
        {"lora": LORA, "train": {"learning_rate": 0.01, "max_steps": 8}, "lineage": []},
        score=None if best is None else found[best],
        best_step=best,
        step=step,
        evaluations=tuple(Evaluation(s, value, 1.5 * s) for s, value in found.items()),
        tokens=100 * step,
    )
    return replace(result, **fields)


def with_adapter(run: RunFolder, number: int) -> Path:
    """Weights for the trial, as peft would name them."""
    folder = run.trial(number).adapter
    write_text(folder / "adapter_config.json", "{}")
    write_text(folder / "adapter_model.safetensors", "weights")
    return folder
