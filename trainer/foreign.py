"""Run folders and adapters come from other people, too: what is in them is checked, never run."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..spaces.metrics import find_metric, find_objective
from .errors import TrialError
from .result import BaseScore, TrialResult

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "README.md", "step.json")
"""What the folder of an adapter holds."""

_RESULT: TypeAdapter[TrialResult] = TypeAdapter(TrialResult)
_BASE: TypeAdapter[BaseScore] = TypeAdapter(BaseScore)
_LARGEST = {int: 2**63, float: 1e100}
"""No number of a trial comes near; with larger ones, sums and squares would overflow."""
_LINKED = {"wandb", "ray"}
"""Folders of a run in which other libraries may link; nothing is read from them."""


def read_result(path: Path, number: int) -> TrialResult:
    """A trial's result, every field of its kind.

    Args:
        path: of the file.
        number: of the trial that it is to be of.

    Raises:
        TrialError: it is not.
    """
    try:
        result = _RESULT.validate_json(path.read_bytes(), strict=True)
        _check(result, number)
    except (OSError, ValueError, RecursionError) as error:
        raise TrialError(f"{path}: cannot be read: {_first(error)}") from error
    return result


def read_base_score(path: Path) -> BaseScore:
    """The base model's score.

    Raises:
        TrialError: the file holds something else.
    """
    try:
        base = _BASE.validate_json(path.read_bytes(), strict=True)
        _check_names(base.metrics)
    except (OSError, ValueError, RecursionError) as error:
        raise TrialError(f"{path}: cannot be read: {_first(error)}") from error
    return base


def _check_names(*metrics: Mapping[str, float]) -> None:
    """What is no metric might be the name of another column."""
    for name in (name for found in metrics for name in found):
        try:
            find_metric(name)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from error


def _check(result: TrialResult, number: int) -> None:
    if result.number != number:
        raise ValueError(f"is of trial {result.number}")
    metrics = [result.test, *(evaluation.metrics for evaluation in result.evaluations)]
    _check_names(*metrics)
    measured = [*(vars(evaluation) for evaluation in result.evaluations), *metrics]
    for name, value in (item for fields in (vars(result), *measured) for item in fields.items()):
        if type(value) in _LARGEST and math.inf > abs(value) >= _LARGEST[type(value)]:
            raise ValueError(f"{name} is too large")
    config = result.config
    find_metric(result.metric)
    objectives = config.get("objectives", [])
    if not isinstance(objectives, list) or not all(isinstance(name, str) for name in objectives):
        raise ValueError("config is none of a trial")
    for name in objectives:
        find_objective(name)
    parts = (config.get("lora", {}), config.get("train", {}))
    lineage = config.get("lineage", [])
    links = lineage if isinstance(lineage, list) else [None]
    if not all(isinstance(part, dict) for part in (*parts, *links)):
        raise ValueError("config is none of a trial")


def _first(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return "".join(c for c in said if c.isprintable())[:200]


def refuse_links(root: Path) -> None:
    """Check that a run folder is one: what lies in it lies nowhere else.

    Raises:
        TrialError: there is a symbolic link, through which others' files would be read, exported
            or written.
    """
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        if here == root:
            links = [name for name in folders if (here / name).is_symlink()]
            folders[:] = [*links, *(name for name in folders if name not in {*links, *_LINKED})]
        for name in (*folders, *files):
            if (here / name).is_symlink():
                raise TrialError(f"{here / name}: is a link, and in a run folder there are none")


def check_adapter(folder: Path, *, only: Collection[str] | None = None) -> None:
    """Check that a folder holds a LoRA adapter as data: safetensors, nothing pickled, no code.

    Args:
        folder: of the adapter.
        only: names of the files that may be there; None for any besides.

    Raises:
        TrialError: it does not.
    """
    from .folder import read_json

    refuse_links(folder)
    config: Any = read_json(folder / "adapter_config.json")
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise TrialError(f"{folder}: is no LoRA adapter: see peft_type in its adapter_config.json")
    if config.get("auto_mapping"):
        raise TrialError(f"{folder}: its adapter_config.json names code to import (auto_mapping)")
    if not (folder / "adapter_model.safetensors").is_file():
        raise TrialError(f"{folder}: has no adapter_model.safetensors, and pickles are not loaded")
    others = sorted({path.name for path in folder.iterdir()} - set(only or ())) if only else []
    if others:
        raise TrialError(f"{folder}: holds what no trial writes there: {', '.join(others)}")
