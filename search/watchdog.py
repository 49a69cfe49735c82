"""Sees from a thread of its own that Ray's processes have died, where the search may be blocked.

A search notices the end of Ray's node manager by itself. Without Ray's control store, the next call
into Ray waits for a minute and then ends the process, without a word of what is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil

_PAUSE = 0.5
"""Seconds between two looks."""
_PATIENCE = 5.0
"""Seconds that a search gets to end by itself."""


@contextmanager
def watched(
    alive: Callable[[], bool],
    died: Callable[[], None],
    give_up: Callable[[], None],
    patience: float = _PATIENCE,
) -> Iterator[None]:
    """Watch while the block runs.

    Args:
        alive: asked twice a second.
        died: called once, when it is not.
        give_up: called when the block has not ended ``patience`` seconds after that.
        patience: in seconds.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_PAUSE):
            if not alive():
                died()
                if not ended.wait(patience):
                    give_up()
                return

    threading.Thread(target=watch, name="watchdog", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def lives(process: psutil.Process) -> bool:
    """Whether a process is there, and not only its entry in the table."""
    # The status of one that has just gone cannot be read.
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
