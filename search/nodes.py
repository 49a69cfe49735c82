"""The nodes of a cluster, and how many trials each carries. Nothing here asks Ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..reports.formats import size
from ..spaces import Space, SpaceError
from .resources import Allocation, carried_by_gpus, check_share


@dataclass(frozen=True)
class Node:
    """One node, alive.

    Attributes:
        id: Ray's.
        name: what people call it: the name it was started with, or its host's.
        resources: all that it has, by Ray's names: CPU, GPU, memory in bytes, and so on.
    """

    id: str
    name: str
    resources: Mapping[str, float]

    def carries(self, asks: Mapping[str, float]) -> int:
        """How many trials that ask for so much fit onto it at a time."""
        counts = [
            carried_by_gpus(int(self.resources.get(name, 0)), ask)
            if name == "GPU"
            else int(self.resources.get(name, 0) / ask + 1e-9)
            for name, ask in asks.items()
        ]
        return min(counts)


def carried(nodes: Iterable[Node], asks: Mapping[str, float]) -> int:
    """How many trials fit onto all of them; none lies across two."""
    return sum(node.carries(asks) for node in nodes)


def allocate_nodes(space: Space, nodes: Sequence[Node], memory: int = 0) -> Allocation:
    """Workers and threads for this space on these nodes.

    As on one machine (``resources.allocate``), a worker has a GPU where there are any, else CPU
    threads, and threads that are ours to choose are as many as leave no worker out. A number of
    workers may be more than there is room for: nodes can join.

    Args:
        space: validated.
        nodes: alive, with all that they have.
        memory: bytes that a worker wants of a node without GPUs; 0 where that is not known yet.
            Where the space says how many workers there are, it is not asked for.

    Raises:
        SpaceError: no node has what a trial asks for.
    """
    asked = space.resources
    gpus = max((int(node.resources.get("GPU", 0)) for node in nodes), default=0)
    share = float(asked.gpus_per_trial) if gpus else 0.0
    if gpus:
        check_share(share, gpus, f"no node of the cluster has more than {gpus} GPU(s)")
    if gpus or asked.workers != "auto":
        memory = 0
    # One that no node has room for by this estimate is tried on the largest.
    memory = min(memory, max(int(node.resources.get("memory", 0)) for node in nodes))
    fixed = 1 if asked.threads == "auto" else asked.threads
    least = Allocation(1, fixed, share, memory=memory)
    most = carried(nodes, least.asks)
    if not most:
        rule = f"a trial asks for {worded(least.asks)}, and no node of the cluster has all of that"
        raise SpaceError.single("resources.threads", asked.threads, rule)
    wanted = most if asked.workers == "auto" else asked.workers
    workers = min(wanted, space.search.trials)
    if asked.threads != "auto":
        return Allocation(workers, fixed, share, memory=memory)
    threads = 1
    while carried(nodes, {**least.asks, "CPU": threads + 1}) >= min(workers, most):
        threads += 1
    return Allocation(workers, threads, share, memory=memory)


def worded(resources: Mapping[str, float]) -> str:
    """``{GPU: 1, CPU: 4}``; what Ray keeps for itself is left out."""
    shown = [f"{name}: {resources[name]:g}" for name in ("GPU", "CPU") if name in resources]
    if "memory" in resources:
        shown.append(f"memory: {size(int(resources['memory']))}")
    return f"{{{', '.join(shown)}}}"
