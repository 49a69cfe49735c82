"""The watchdog: when it speaks up, and when it holds its peace."""

from __future__ import annotations

import threading

from tune_lora.search.watchdog import watched


def test_a_block_that_ends_in_time_is_left_alone() -> None:
    died, gave_up = threading.Event(), threading.Event()
    with watched(lambda: False, died.set, gave_up.set, patience=60):
        assert died.wait(60)
    (thread,) = (t for t in threading.enumerate() if t.name == "watchdog")
    thread.join(60)
    assert not gave_up.is_set()


def test_a_block_that_does_not_end_is_given_up() -> None:
    died, gave_up = threading.Event(), threading.Event()
    with watched(lambda: False, died.set, gave_up.set, patience=0.1):
        assert gave_up.wait(60)
    assert died.is_set()


def test_nothing_is_said_of_what_lives() -> None:
    looks = threading.Semaphore(0)
    said = threading.Event()

    def alive() -> bool:
        looks.release()
        return True

    with watched(alive, said.set, said.set, patience=0):
        assert looks.acquire(timeout=60)
        assert looks.acquire(timeout=60)
    assert not said.is_set()
