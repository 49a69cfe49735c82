"""What memory settles, once for all workers: their number, and how they compute with NF4."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..spaces import Space, SpaceError
from ..trainer.adapter import rewrites_base
from ..trainer.base import BaseSpec
from ..trainer.folder import RunFolder
from ..trainer.footprint import weight_bytes
from ..trainer.precision import compute_dtype
from ..trainer.unpacking import PROCESS, Unpacking, choose_unpacking, free_here, free_on_gpus
from .layout import Layout
from .plan_facts import Capacity
from .preflight import Preflight, lora_choices, preflight
from .resources import Allocation

if TYPE_CHECKING:
    from .ray_cluster import Cluster

_KEY = "model.quantization_compute"


def settle_workers(
    space: Space, spec: BaseSpec, model: nn.Module, allocation: Allocation, cores: int
) -> Allocation:
    """No more workers than memory is enough for, where their number is ours to choose.

    On GPUs there are as many as there are GPUs, and memory is theirs. Elsewhere each has a base of
    its own: as in ``choose_unpacking``, it wants twice the weights and 1 GiB.

    Args:
        space: validated.
        spec: of its model.
        model: its modules, without weights.
        allocation: the most that the machine's cores allow.
        cores: of the machine.
    """
    if allocation.gpus or space.resources.workers != "auto":
        return allocation
    most = int(free_here(torch.device("cpu")) / wanted_memory(spec, model))
    workers = max(1, min(allocation.workers, most))
    asked = space.resources.threads
    return replace(
        allocation, workers=workers, threads=cores // workers if asked == "auto" else asked
    )


def wanted_memory(spec: BaseSpec, model: nn.Module) -> int:
    """Bytes that a worker without a GPU wants: twice the weights and 1 GiB."""
    return int(2 * weight_bytes(model, spec, _width(spec, 0)) + PROCESS)


def settle_cluster(
    space: Space, run: RunFolder, cluster: Cluster
) -> tuple[Preflight, Layout, str | None, Capacity]:
    """All that is settled before a search on a cluster, by what its nodes say.

    Returns:
        Model and data with ``quantization_compute`` decided, the workers, a sentence about the
        former (see ``settle_unpacking``), and the memory of a worker, unknown without GPUs.

    Raises:
        SpaceError: the space does not fit the model, the data or the cluster.
        TrialError: a node does not see run folder or model, or has other versions.
    """
    allocation = cluster.allocate(space)
    ready = preflight(space, run)
    if not allocation.gpus:
        allocation = cluster.allocate(space, wanted_memory(ready.spec, ready.modules))
    found = cluster.check(run, ready.spec, allocation)
    if allocation.gpus:
        free = _part(min((min(f.gpus, default=0) for f in found), default=0), allocation)
    else:
        most = max(node.carries(allocation.asks) for node in cluster.nodes)
        free = min((f.memory for f in found), default=0) // max(1, most)
    spec, unpacking = settle_unpacking(space, ready.spec, ready.modules, allocation, run, free)
    reason = None
    if "auto" in (space.resources.workers, space.resources.threads, space.search.pack):
        reason = "not measured, as it is on a single machine: nodes of a cluster may differ"
    own = Capacity(free if allocation.gpus else 0, "a worker of the cluster", bool(allocation.gpus))
    return replace(ready, spec=spec), Layout(allocation, reason), unpacking, own


def settle_unpacking(
    space: Space,
    spec: BaseSpec,
    model: nn.Module,
    allocation: Allocation,
    run: RunFolder | None,
    free: int | None = None,
) -> tuple[BaseSpec, str | None]:
    """The spec with ``quantization_compute`` decided, and a sentence that says why.

    Args:
        space: validated.
        spec: of its model.
        model: its modules, without weights.
        allocation: how many workers share the memory.
        run: a run that was begun goes on as it began; None where there is none.
        free: bytes that each worker has for itself, where it runs elsewhere; None looks here.

    Returns:
        The spec as it is, and no sentence, where nothing is quantized.

    Raises:
        SpaceError: the space wants weights dequantized that some of its trials rewrite.
        TrialError: what the run was begun with cannot be read.
    """
    if spec.quantization == "none":
        return spec, None
    settled = _settle(space, spec, model, allocation, run, free)
    return replace(spec, quantization_compute=settled.compute), settled.reason


def _settle(
    space: Space,
    spec: BaseSpec,
    model: nn.Module,
    allocation: Allocation,
    run: RunFolder | None,
    free: int | None,
) -> Unpacking:
    asked = spec.quantization_compute
    rewriting = [i for i in lora_choices(space, "init_lora_weights") if rewrites_base(i)]
    if rewriting and asked == "dequantized":
        rule = (
            f"lora.init_lora_weights {rewriting[0]!r} rewrites the base, which would then not be "
            "the 4-bit one that the adapter is used with; write auto or bitsandbytes"
        )
        raise SpaceError.single(_KEY, asked, rule)
    if asked != "auto":
        return Unpacking.because(asked, f"as {_KEY} says")
    if run is not None and run.about.is_file():
        begun = str(run.read_about()["model"]["quantization_compute"])
        return Unpacking.because(begun, "as the run was begun")
    if rewriting:
        return Unpacking.because("bitsandbytes", f"as init_lora_weights {rewriting[0]!r} needs")
    gpus = torch.cuda.device_count() if free is None else math.ceil(allocation.gpus)
    if free is None:
        free = _part(free_on_gpus(gpus), allocation) if gpus else _free_on_cpu(allocation)
    return choose_unpacking(model, _width(spec, gpus), free)


def _width(spec: BaseSpec, gpus: int) -> int:
    """Bytes of a number of the compute dtype; a GPU is not asked, which would take its memory."""
    if gpus:
        return 4 if spec.dtype == "fp32" else 2
    return compute_dtype(spec.dtype, torch.device("cpu")).itemsize


def _part(free: int, allocation: Allocation) -> int:
    """A trial's share of what is free on the fullest GPU, or its several GPUs together."""
    if 0 < allocation.gpus < 1:
        return free // int(1 / allocation.gpus + 1e-9)
    return free * max(1, int(allocation.gpus))


def _free_on_cpu(allocation: Allocation) -> int:
    return free_here(torch.device("cpu")) // allocation.workers
