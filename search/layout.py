"""How many workers, of how many threads, with how many trials in a pass: settled by measurement.

Once, before the search, where its arithmetic is worth the half minute that measuring takes.
"""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..spaces import Space, SpaceError
from ..trainer.adapter import rewrites_base
from ..trainer.base import pick_device
from ..trainer.config import TrialConfig
from ..trainer.folder import RunFolder
from ..trainer.packable import can_pack
from ..trainer.precision import compute_dtype
from .perturb import drawn
from .preflight import Preflight, lora_choices
from .resources import Allocation

logger = logging.getLogger(__name__)

_PACKS = (2, 4)
"""Trials that are tried together: each row more gains less, and costs the memory of its pass."""
_PACK_GAIN, _LAYOUT_GAIN = 1.2, 1.05
"""Passes a second, against those without, from which packing, which costs processes, is worth it,
and fewer workers of more threads, which need less memory."""
_PATIENCE = 300
"""Seconds for the measurement."""
_DRAWS = 32
_LEAST = 900.0
"""Seconds of arithmetic in a search from which it is worth measuring: of those, it takes 3%."""
_CORE, _GPU = 4e10, 2e13
"""Operations a second, for that estimate: of a core, what SmolLM2-135M was seen to get in fp32."""


@dataclass(frozen=True)
class Speed:
    """What was measured of the layout that was chosen.

    Attributes:
        trial: that was measured, on rows of mean length.
        rate: its passes, forward and backward, a second, of all workers together.
    """

    trial: TrialConfig
    rate: float


@dataclass(frozen=True)
class Layout:
    """What was settled.

    Attributes:
        allocation: with its workers, threads and pack.
        reason: in words; None where nothing was in question.
        speed: None where nothing was measured.
    """

    allocation: Allocation
    reason: str | None = None
    speed: Speed | None = None

    def to_dict(self, cores: int) -> dict[str, Any]:
        """For ``run.json``."""
        taken = self.allocation
        return {
            "cores": cores,
            "gpus": taken.gpus,
            "workers": taken.workers,
            "threads": taken.threads,
            "pack": taken.pack,
        }


def settle_layout(
    space: Space,
    ready: Preflight,
    allocation: Allocation,
    cores: int,
    run: RunFolder | None,
    *,
    measure: bool = False,
) -> Layout:
    """Settle what of ``resources.workers``, ``resources.threads`` and ``search.pack`` is ``auto``.

    Args:
        space: validated.
        ready: its model and data.
        allocation: the most workers that there can be.
        cores: of this machine.
        run: a run that was begun goes on as it began, on a machine like the one it was begun on.
        measure: however short the search is, and however little is in question.

    Raises:
        SpaceError: ``search.pack`` is a number, and the space's trials forbid it.
    """
    asked = space.search.pack
    changing = _changing(space)
    if changing and asked not in (1, "auto"):
        rule = f"{changing} changes the base that packed trials share; write 1 or auto"
        raise SpaceError.single("search.pack", asked, rule)
    if allocation.gpus > 1 and asked not in (1, "auto"):
        rule = f"trials of {allocation.gpus:g} GPUs each share no passes; write 1 or auto"
        raise SpaceError.single("search.pack", asked, rule)
    if asked != "auto":
        allocation = replace(allocation, pack=asked)
    layouts = _layouts(space, allocation, cores)
    begun = None if run is None else _begun(run, allocation, cores)
    if begun is not None:
        open_ = ["workers", "threads"] if len(layouts) > 1 else []
        open_ += ["pack"] if asked == "auto" else []
        return Layout(replace(allocation, **{key: begun[key] for key in open_}))
    trials = some_trials(space, ready)
    if not measure and _arithmetic(space, ready, trials) < _LEAST * rough_speed(allocation):
        return Layout(allocation)
    packs: list[int] = []
    if asked == "auto" and not changing and allocation.gpus <= 1 and _can_share(trials, ready):
        packs = [n for n in _PACKS if n * allocation.workers <= space.search.trials]
    if len(layouts) < 2 and not packs and not measure:
        return Layout(allocation)
    return _measured(trials[0], ready, allocation, layouts, packs)


def _layouts(space: Space, allocation: Allocation, cores: int) -> list[tuple[int, int]]:
    """Workers and threads to try, most workers first."""
    found = [(allocation.workers, allocation.threads)]
    if allocation.gpus or space.resources.workers != "auto" or space.resources.threads != "auto":
        return found
    while found[-1][0] > 1:
        workers = found[-1][0] // 2
        found.append((workers, cores // workers))
    return found


def _begun(run: RunFolder, allocation: Allocation, cores: int) -> Mapping[str, Any] | None:
    """The layout that the run was begun with, where this machine is like that one."""
    if not run.about.is_file():
        return None
    begun: Mapping[str, Any] = run.read_about()["layout"]
    here = begun.get("address") is None
    same = here and (begun["cores"], begun["gpus"]) == (cores, allocation.gpus)
    return begun if same else None


def _changing(space: Space) -> str | None:
    """The key whose choices rewrite or train base weights."""
    if any(rewrites_base(init) for init in lora_choices(space, "init_lora_weights")):
        return "lora.init_lora_weights"
    if any(bias not in (None, "none") for bias in lora_choices(space, "bias")):
        return "lora.bias"
    if any(lora_choices(space, "layer_replication")):
        return "lora.layer_replication"
    return None


def some_trials(space: Space, ready: Preflight) -> list[TrialConfig]:
    """Trials drawn at random."""
    task, rungs = ready.spec.task, space.rungs()
    return [TrialConfig(0, task, v["lora"], v["train"], rungs) for v in some_values(space)]


def some_values(space: Space) -> list[dict[str, dict[str, Any]]]:
    """Configurations drawn at random, by the search's seed."""
    dice = random.Random(space.search.seed)
    return [space.sample(lambda name, domain: drawn(domain, dice)) for _ in range(_DRAWS)]


def _can_share(trials: Sequence[TrialConfig], ready: Preflight) -> bool:
    """Whether every one of them can be packed."""
    dtype = compute_dtype(ready.spec.dtype, pick_device())
    return all(can_pack(trial, ready.modules, dtype) for trial in trials)


def _arithmetic(space: Space, ready: Preflight, trials: Sequence[TrialConfig]) -> float:
    """About how many operations the search takes: two a weight and token, forward and backward."""
    rows = sum(trial.effective_batch * trial.max_steps for trial in trials) / len(trials)
    weights = int(ready.modules.num_parameters())
    return 4.0 * weights * row_tokens(ready) * rows * space.search.trials


def row_tokens(ready: Preflight) -> int:
    """Tokens of a row."""
    stats = ready.data.stats["train"]
    return max(8, round(stats["tokens"] / max(1, stats["rows"])))


def rough_speed(allocation: Allocation) -> float:
    """Operations a second of the whole machine, give or take a factor of a few."""
    if allocation.gpus:
        return _GPU * allocation.workers * allocation.gpus
    return _CORE * allocation.workers * allocation.threads


def _measured(
    trial: TrialConfig,
    ready: Preflight,
    allocation: Allocation,
    layouts: Sequence[tuple[int, int]],
    packs: Sequence[int],
) -> Layout:
    question = {
        "spec": ready.spec.to_dict(),
        "trial": trial.to_dict(),
        "tokens": row_tokens(ready),
        "layouts": layouts,
        "packs": packs,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tune_lora.trainer.probe"],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return _chosen(found, allocation, trial)
    except (subprocess.SubprocessError, ValueError, LookupError) as error:
        said = getattr(error, "stderr", None) or str(error)
        logger.warning("how trials train fastest could not be measured: %s", said.strip()[-500:])
        return Layout(allocation, "could not be measured")


def _chosen(
    found: Sequence[Mapping[str, Any]], allocation: Allocation, trial: TrialConfig
) -> Layout:
    """The fastest, of like ones the one of the most workers without packing."""
    best = found[0]
    for one in found[1:]:
        gain = _PACK_GAIN if one["pack"] > best["pack"] == 1 else _LAYOUT_GAIN
        if one["rate"] > gain * best["rate"]:
            best = one
    taken = replace(allocation, workers=best["workers"], threads=best["threads"], pack=best["pack"])
    shown = ", ".join(f"{one['rate']:.2f} by {_words(one)}" for one in found)
    speed = Speed(trial, best["rate"]) if best["rate"] else None
    return Layout(taken, f"measured passes a second: {shown}", speed)


def _words(one: Mapping[str, Any]) -> str:
    said = f"{one['workers']} x {one['threads']} thread(s)"
    return f"{said} with {one['pack']} trials in each" if one["pack"] > 1 else said
