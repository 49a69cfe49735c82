"""How many workers, and what each one gets.

With GPUs, one worker a GPU: Ray sets CUDA_VISIBLE_DEVICES before the worker imports torch.
Without, workers times threads never exceeds the cores, and many workers of one thread are
preferred: on two cores, two workers of one thread did about 1.6 times the work of one worker of
two (SmolLM2-135M, NF4), because much of a small model's step does not run in parallel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..spaces import Space, SpaceError


@dataclass(frozen=True)
class Allocation:
    """What the search takes of the machine.

    Attributes:
        workers: trials at a time.
        threads: CPU threads of each worker.
        gpus: GPUs of each worker; 0 on a machine without.
        pack: trials that each worker trains together.
        memory: bytes that a cluster is asked for each worker; 0 asks for none.
    """

    workers: int
    threads: int
    gpus: float
    pack: int = 1
    memory: int = 0

    @property
    def trials(self) -> int:
        """Trials at a time."""
        return self.workers * self.pack

    @property
    def asks(self) -> dict[str, float]:
        """What Ray is asked for each worker, by its own names."""
        wanted = {"GPU": self.gpus, "CPU": self.threads, "memory": self.memory}
        return {name: value for name, value in wanted.items() if value}

    def __str__(self) -> str:
        thing = f"{self.gpus:g} GPU" if self.gpus else f"{self.threads} CPU thread(s)"
        packed = f", {self.pack} trials in each" if self.pack > 1 else ""
        return f"{self.workers} worker(s) of {thing}{packed}"


def visible_cores() -> int:
    """The cores that this process may run on (affinity, as taskset and Slurm set it)."""
    return len(os.sched_getaffinity(0))


def allocate(space: Space, cores: int, gpus: int) -> Allocation:
    """Workers and threads for this space on a machine with so many cores and GPUs.

    Raises:
        SpaceError: the space asks for more than there is.
    """
    asked = space.resources
    per_trial = float(asked.gpus_per_trial) if gpus else 0.0
    if gpus:
        check_share(per_trial, gpus, f"this machine has {gpus} GPU(s)")
    carried = carried_by_gpus(gpus, per_trial) if gpus else cores
    if asked.workers == "auto":
        least = 1 if asked.threads == "auto" else asked.threads
        workers = max(1, min(carried, cores // least, space.search.trials))
    else:
        workers = asked.workers
    threads = max(1, cores // workers) if asked.threads == "auto" else asked.threads
    if workers * threads > cores:
        rule = f"workers x threads = {workers * threads}, and there are {cores} cores"
        key = "resources.threads" if asked.workers == "auto" else "resources.workers"
        raise SpaceError.single(key, threads if asked.workers == "auto" else workers, rule)
    if gpus and workers > carried:
        rule = f"{gpus} GPU(s) at {per_trial:g} a trial carry {carried} worker(s)"
        raise SpaceError.single("resources.workers", workers, rule)
    return Allocation(workers, threads, per_trial)


def check_share(asked: float, most: int, rule: str) -> None:
    """Check ``resources.gpus_per_trial`` against the most GPUs that a trial can have.

    Args:
        asked: its value.
        most: GPUs of the machine, or of the largest node.
        rule: what to say where that is less.

    Raises:
        SpaceError: it is less, or Ray shares out no such part.
    """
    if asked > most:
        raise SpaceError.single("resources.gpus_per_trial", asked, rule)
    if asked > 1 and asked != int(asked):
        rule = "a part of one GPU (0.5) or whole ones (1, 2): Ray shares out nothing between"
        raise SpaceError.single("resources.gpus_per_trial", asked, rule)


def carried_by_gpus(gpus: int, per_trial: float) -> int:
    """Workers that so many GPUs carry; a part of a GPU lies on one, never across two."""
    if per_trial < 1:
        return gpus * int(1 / per_trial + 1e-9)
    return int(gpus / per_trial)


def disk_budget(parameters: int, adapters: int, running: int) -> int:
    """The most that adapters and checkpoints of a search take, in bytes.

    A kept adapter is 4 bytes a parameter. A running trial has its best adapter, which may be
    written anew beside the old one, and a checkpoint likewise: adapter and at most two fp32 moments
    of the optimizer.

    Args:
        parameters: trainable ones of the largest adapter in the space.
        adapters: that are kept (``search.keep_adapters``).
        running: trials under way at a time.
    """
    adapter = 4 * parameters
    checkpoint = adapter + 2 * 4 * parameters
    return adapter * adapters + running * 2 * (adapter + checkpoint)
