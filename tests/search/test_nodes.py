"""How many trials the nodes of a cluster carry, and what each trial gets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelless import bare_space
from tune_lora.search.nodes import Node, allocate_nodes, carried, worded
from tune_lora.search.resources import Allocation
from tune_lora.spaces import Space, SpaceError

GIB = 2**30


def space(trials: int = 100, **resources: Any) -> Space:
    return bare_space(trials, **resources)


def node(cpus: float, gpus: float = 0, memory: float = 64 * GIB) -> Node:
    return Node("id", "name", {"CPU": cpus, "GPU": gpus, "memory": memory})


def placed(nodes: list[Node], allocation: Allocation) -> int:
    """Trials that Ray could place, found by placing one after another."""
    count = 0
    for one in nodes:
        cpus, gpus = one.resources["CPU"], [1.0] * int(one.resources["GPU"])
        while cpus >= allocation.threads:
            if allocation.gpus >= 1:
                if len(gpus) < allocation.gpus:
                    break
                gpus = gpus[int(allocation.gpus) :]
            elif allocation.gpus:
                fitting = [i for i, free in enumerate(gpus) if free >= allocation.gpus - 1e-9]
                if not fitting:
                    break
                gpus[fitting[0]] -= allocation.gpus
            cpus -= allocation.threads
            count += 1
    return count


@given(
    st.lists(st.tuples(st.integers(1, 32), st.integers(0, 8)), min_size=1, max_size=5),
    st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    st.integers(1, 60),
)
def test_threads_leave_no_worker_out(
    sizes: list[tuple[int, int]], share: float, trials: int
) -> None:
    nodes = [node(*size) for size in sizes]
    gpus = max(gpus for _, gpus in sizes)
    wanted = space(trials, gpus_per_trial=share)
    if gpus and share > gpus:
        with pytest.raises(SpaceError, match="no node of the cluster has more than"):
            allocate_nodes(wanted, nodes)
        return
    made = allocate_nodes(wanted, nodes)
    narrow = Allocation(1, 1, share if gpus else 0.0)
    assert made.gpus == narrow.gpus
    assert made.workers == min(trials, placed(nodes, narrow))
    assert carried(nodes, made.asks) == placed(nodes, made) >= made.workers
    wider = Allocation(made.workers, made.threads + 1, made.gpus)
    assert placed(nodes, wider) < made.workers


@pytest.mark.parametrize(
    ("nodes", "asked", "made"),
    [
        ([node(0), node(16, 8), node(16, 8)], {}, Allocation(16, 2, 1.0)),
        ([node(16, 8), node(8, 8)], {}, Allocation(16, 1, 1.0)),
        ([node(4), node(4)], {}, Allocation(8, 1, 0.0)),
        ([node(16, 4)], {"gpus_per_trial": 0.5}, Allocation(8, 2, 0.5)),
        ([node(16, 4)], {"gpus_per_trial": 2.0}, Allocation(2, 8, 2.0)),
        ([node(16, 4)], {"threads": 8}, Allocation(2, 8, 1.0)),
        # More than there is room for: nodes may join.
        ([node(4, 2)], {"workers": 16}, Allocation(16, 2, 1.0)),
        ([node(8), node(2)], {"workers": 2}, Allocation(2, 4, 0.0)),
    ],
)
def test_examples(nodes: list[Node], asked: dict[str, Any], made: Allocation) -> None:
    assert allocate_nodes(space(**asked), nodes) == made


def test_without_gpus_memory_bounds_the_workers_of_a_node() -> None:
    nodes = [node(16, memory=8 * GIB), node(16, memory=32 * GIB)]
    made = allocate_nodes(space(), nodes, 3 * GIB)
    # Two and ten fit; with two threads it is two and eight, and one thread leaves none out.
    assert made == Allocation(12, 1, 0.0, memory=3 * GIB)
    assert allocate_nodes(space(workers=12), nodes, 3 * GIB).memory == 0
    assert allocate_nodes(space(), nodes, 999 * GIB) == Allocation(1, 16, 0.0, memory=32 * GIB)
    assert allocate_nodes(space(), [node(4, 1, 8 * GIB)], 3 * GIB).memory == 0


@pytest.mark.parametrize(
    ("asked", "key", "rule"),
    [
        ({"gpus_per_trial": 3.0}, "resources.gpus_per_trial", r"more than 2 GPU\(s\)"),
        ({"gpus_per_trial": 1.5}, "resources.gpus_per_trial", "whole"),
        ({"threads": 9}, "resources.threads", r"\{GPU: 1, CPU: 9\}, and no node"),
    ],
)
def test_what_no_node_has_is_named(asked: dict[str, Any], key: str, rule: str) -> None:
    with pytest.raises(SpaceError, match=rule) as caught:
        # Sixteen CPUs are there, but none beside a GPU.
        allocate_nodes(space(**asked), [node(8, 2), node(16)])
    assert [fault.path for fault in caught.value.faults] == [key]


def test_resources_in_words() -> None:
    has = {"CPU": 4.0, "memory": 2.0 * GIB, "GPU": 0.5, "node:10.0.0.1": 1.0}
    assert worded(has) == "{GPU: 0.5, CPU: 4, memory: 2 GiB}"
