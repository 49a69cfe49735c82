"""What a process holds between trials, against what it held after its first one.

A library that forgets to let something go costs each trial a little, and a worker serves many: past
a bound the worker makes way for a fresh process (see ``search/ray_worker.py``).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc

import psutil
import torch

BOUND = 512 * 2**20
"""Bytes, in memory or on the GPU, by which a worker may outgrow its mark.

Measured on a CPU, each in one process, with freed memory given back first: sixteen trials of a
tiny Llama (DoRA, `modules_to_save`, trained biases, some stopped) ended within 1 MiB of each other;
fourteen of SmolLM2-135M (NF4 unpacked, ranks 8 to 64) within 59 MiB of the first, the last ten
within 5 MiB of each other. Not given back, SmolLM2's differ by 230 MiB from one trial to the next:
what the allocator keeps is no leak. A GPU was not at hand.
"""


class Growth:
    """Watches a process from trial to trial.

    Args:
        bound: bytes over the mark that are too much.
    """

    def __init__(self, bound: int = BOUND) -> None:
        self._bound = bound
        self._marks: dict[str, int] = {}

    def excess(self) -> str | None:
        """Called between trials: what has grown by more than the bound, in words.

        The first call sets the mark.
        """
        held = _held()
        for where, size in held.items():
            mark = self._marks.setdefault(where, size)
            if size - mark > self._bound:
                grown = f"{_mib(size)} {where} after a trial, and {_mib(mark)} after its first"
                return f"the worker held {grown}"
        return None


def _held() -> dict[str, int]:
    """Bytes that this process holds of its own, once it has let go of what is free."""
    gc.collect()
    # Freed pages that glibc keeps come and go with the sizes of trials.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    memory = psutil.Process().memory_info()
    # Mapped files (data, weights) are no growth: the kernel takes them back when it wants.
    held = {"in memory": memory.rss - getattr(memory, "shared", 0)}
    if torch.cuda.is_available():
        held["on the GPU"] = torch.cuda.memory_allocated()
    return held


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
