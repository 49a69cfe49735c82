"""Workers, threads and GPUs of a search."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelless import bare_space
from tune_lora.search.resources import Allocation, allocate, visible_cores
from tune_lora.spaces import Space, SpaceError

COUNTS = st.one_of(st.just("auto"), st.integers(1, 40))


def space(trials: int = 16, **resources: Any) -> Space:
    return bare_space(trials, **resources)


def carried(gpus: int, each: float) -> int:
    """Trials that fit on so many GPUs, found by putting one after another onto the first free."""
    free, count = [1.0] * gpus, 0
    while True:
        if each < 1:
            fitting = [i for i, share in enumerate(free) if share >= each - 1e-9]
            if not fitting:
                return count
            free[fitting[0]] -= each
        else:
            if len(free) < each:
                return count
            free = free[int(each) :]
        count += 1


@given(COUNTS, COUNTS, st.integers(1, 64), st.integers(0, 8), st.integers(1, 40))
def test_workers_times_threads_never_exceeds_the_cores(
    workers: Any, threads: Any, cores: int, gpus: int, trials: int
) -> None:
    wanted = space(trials, workers=workers, threads=threads)
    try:
        made = allocate(wanted, cores, gpus)
    except SpaceError as error:
        (fault,) = error.faults
        assert fault.path in ("resources.workers", "resources.threads")
        assert getattr(wanted.resources, fault.path.partition(".")[2]) == fault.value
        return
    assert 1 <= made.workers * made.threads <= cores
    assert workers in ("auto", made.workers)
    assert threads in ("auto", made.threads)
    if workers == "auto":
        assert made.workers <= trials
    if gpus:
        assert made.workers <= gpus
    assert made.gpus == (1.0 if gpus else 0.0)


@given(st.integers(1, 64), st.integers(0, 8), st.integers(1, 40))
def test_auto_always_fits_and_leaves_no_worker_out(cores: int, gpus: int, trials: int) -> None:
    made = allocate(space(trials), cores, gpus)
    assert made.workers == min(cores, trials, gpus or cores)
    assert made.threads == cores // made.workers


@given(st.integers(1, 8), st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.5, 0.6, 1.0, 2.0, 3.0]))
def test_gpus_carry_as_many_workers_as_fit_whole(gpus: int, each: float) -> None:
    wanted = space(1000, gpus_per_trial=each)
    if each > gpus:
        with pytest.raises(SpaceError) as caught:
            allocate(wanted, 100, gpus)
        assert caught.value.faults[0].path == "resources.gpus_per_trial"
        return
    made = allocate(wanted, 100, gpus)
    assert (made.workers, made.gpus) == (carried(gpus, each), each)


@pytest.mark.parametrize(
    ("asked", "cores", "gpus", "made"),
    [
        ({}, 2, 0, Allocation(2, 1, 0.0)),
        ({"workers": 1}, 2, 0, Allocation(1, 2, 0.0)),
        ({"threads": 4}, 9, 0, Allocation(2, 4, 0.0)),
        ({"workers": 2, "threads": 3}, 8, 0, Allocation(2, 3, 0.0)),
        ({}, 16, 2, Allocation(2, 8, 1.0)),
        ({"gpus_per_trial": 0.5}, 16, 2, Allocation(4, 4, 0.5)),
        ({"gpus_per_trial": 2}, 16, 2, Allocation(1, 16, 2.0)),
        ({}, 2, 8, Allocation(2, 1, 1.0)),
        ({"threads": 2}, 4, 8, Allocation(2, 2, 1.0)),
    ],
)
def test_examples(asked: dict[str, Any], cores: int, gpus: int, made: Allocation) -> None:
    asked = {key: float(v) if key == "gpus_per_trial" else v for key, v in asked.items()}
    assert allocate(space(**asked), cores, gpus) == made


@pytest.mark.parametrize(
    ("asked", "gpus", "key", "value", "rule"),
    [
        ({"workers": 5}, 0, "resources.workers", 5, "and there are 4 cores"),
        ({"threads": 5}, 0, "resources.threads", 5, "and there are 4 cores"),
        ({"workers": 3, "threads": 2}, 0, "resources.workers", 3, "6, and there are 4 cores"),
        ({"workers": 3}, 2, "resources.workers", 3, r"2 GPU\(s\) at 1 a trial carry 2"),
        ({"gpus_per_trial": 3.0}, 2, "resources.gpus_per_trial", 3.0, r"has 2 GPU\(s\)"),
        ({"gpus_per_trial": 1.5}, 2, "resources.gpus_per_trial", 1.5, "whole"),
    ],
)
def test_what_is_asked_too_much_is_named(
    asked: dict[str, Any], gpus: int, key: str, value: float, rule: str
) -> None:
    with pytest.raises(SpaceError, match=rule) as caught:
        allocate(space(**asked), 4, gpus)
    assert [(fault.path, fault.value) for fault in caught.value.faults] == [(key, value)]


def test_visible_cores_are_those_of_the_affinity() -> None:
    import os

    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, itertools.islice(allowed, 1))
        assert visible_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert visible_cores() == len(allowed)
