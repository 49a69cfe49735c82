"""How many trials a worker trains together: settled once, by measurement, before the search."""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from ..spaces import Space, SpaceError
from ..trainer.adapter import rewrites_base
from ..trainer.base import BaseSpec, meta_model, pick_device
from ..trainer.config import TrialConfig
from ..trainer.folder import RunFolder
from ..trainer.packable import can_pack
from ..trainer.precision import compute_dtype
from .perturb import drawn
from .preflight import Preflight, lora_choices
from .resources import Allocation

logger = logging.getLogger(__name__)

_MOST = 4
"""Trials that are tried together: each row more gains less, and costs the memory of its pass."""
_WORTH = 1.1
"""Passes a second, against one trial after another, from which packing is worth its processes."""
_SECONDS = 300
_DRAWS = 32


@dataclass(frozen=True)
class Packing:
    """What was settled.

    Attributes:
        pack: trials that a worker trains together; 1 for one at a time.
        reason: in words; None where packing was never in question.
    """

    pack: int
    reason: str | None


def settle_packing(
    space: Space, ready: Preflight, allocation: Allocation, run: RunFolder
) -> Packing:
    """Settle ``search.pack``.

    Args:
        space: validated.
        ready: its model and data.
        allocation: workers and threads.
        run: a run that was begun goes on as it began, unless the space now names a number.

    Raises:
        SpaceError: a number is asked for that the space's trials forbid.
    """
    asked = space.search.pack
    if asked == 1:
        return Packing(1, None)
    if changing := _changing(space):
        if asked == "auto":
            return Packing(1, f"{changing} changes the base that packed trials share")
        rule = f"{changing} changes the base that packed trials share; write 1"
        raise SpaceError.single("search.pack", asked, rule)
    if asked != "auto":
        return Packing(asked, "as search.pack says")
    if run.about.is_file():
        return Packing(int(run.read_about().get("pack", 1)), "as the run was begun")
    most = min(_MOST, space.search.trials // allocation.workers)
    if most < 2:
        return Packing(1, None)
    trial = _likely(space, ready.spec)
    if trial is None:
        return Packing(1, "its trials cannot share a pass")
    return _measured(trial, ready, allocation, most)


def _changing(space: Space) -> str | None:
    """The key whose choices rewrite or train base weights."""
    if any(rewrites_base(init) for init in lora_choices(space, "init_lora_weights")):
        return "lora.init_lora_weights"
    if any(bias not in (None, "none") for bias in lora_choices(space, "bias")):
        return "lora.bias"
    if any(lora_choices(space, "layer_replication")):
        return "lora.layer_replication"
    return None


def _likely(space: Space, spec: BaseSpec) -> TrialConfig | None:
    """One of some trials drawn at random, if all of them can be packed."""
    model, dtype = meta_model(spec), compute_dtype(spec.dtype, pick_device())
    dice, trial = random.Random(space.search.seed), None
    for _ in range(_DRAWS):
        values = space.sample(lambda name, domain: drawn(domain, dice))
        trial = TrialConfig(0, spec.task, values["lora"], values["train"], space.rungs())
        if not can_pack(trial, model, dtype):
            return None
    return trial


def _measured(trial: TrialConfig, ready: Preflight, allocation: Allocation, most: int) -> Packing:
    stats = ready.data.stats["train"]
    question = {
        "spec": ready.spec.to_dict(),
        "trial": trial.to_dict(),
        "tokens": max(8, round(stats["tokens"] / max(1, stats["rows"]))),
        "threads": allocation.threads,
        "most": most,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tune_lora.trainer.pack_probe"],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
        gains: Mapping[str, float] = json.loads(done.stdout.splitlines()[-1])
        if not gains:
            return Packing(1, "memory is enough for one trial at a time")
        pack, gain = max(((int(n), g) for n, g in gains.items()), key=lambda pair: pair[1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        logger.warning("packing could not be measured, and is left out: %s", error)
        return Packing(1, "it could not be measured")
    shown = ", ".join(f"{n} together {g:.2f} times" for n, g in gains.items())
    said = f"measured: {shown} the passes of one at a time"
    return Packing(pack, said) if gain >= _WORTH else Packing(1, said)
