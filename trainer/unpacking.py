"""Whether NF4 weights are dequantized once or at each use: a matter of memory alone.

A search settles it once, before its workers start, so that all of its trials compute alike.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import dataclass

import psutil
import torch
from torch import nn

from .nf4 import unpacked_bytes

logger = logging.getLogger(__name__)

PROCESS = 2**30
"""Bytes that a worker takes before it has a model: libraries (0.8 GiB), or a CUDA context."""

_ASK_GPUS = "import torch as t; print(min(t.cuda.mem_get_info(i)[{}] for i in range({})))"


@dataclass(frozen=True)
class Unpacking:
    """How NF4 weights are computed with.

    Attributes:
        compute: ``dequantized`` or ``bitsandbytes``.
        reason: a sentence that says so, and why.
    """

    compute: str
    reason: str

    @classmethod
    def because(cls, compute: str, why: str) -> Unpacking:
        """One whose reason does not lie in memory."""
        return cls(compute, f"{_WORDS[compute]}, {why}")


_WORDS = {
    "dequantized": "weights dequantized once",
    "bitsandbytes": "weights dequantized at each use",
}


def choose_unpacking(model: nn.Module, width: int, free: int) -> Unpacking:
    """``dequantized`` where memory allows it.

    Half of the memory is for the weights, the other half for activations, adapter and optimizer,
    which only a run can measure.

    Args:
        model: its modules; weights may be on the meta device.
        width: bytes of a number of the compute dtype.
        free: bytes that one worker has for itself.
    """
    needed = 2 * unpacked_bytes(model, width) + PROCESS
    compute = "dequantized" if needed <= free else "bitsandbytes"
    reason = (
        f"{_WORDS[compute]}: unpacked, a worker wants {_gib(needed)} (twice the weights, and "
        f"{_gib(PROCESS)}); {_gib(free)} are free for each"
    )
    return Unpacking(compute, reason)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def free_here(device: torch.device) -> int:
    """Bytes that are free on a device of this process, which is or will be using it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def free_on_gpus(count: int) -> int:
    """Bytes that are free on the fullest of ``count`` visible GPUs; 0 if that cannot be read."""
    return _least_on_gpus(0, count)


def size_of_gpus(count: int) -> int:
    """Bytes that the smallest of ``count`` visible GPUs has; 0 if that cannot be read."""
    return _least_on_gpus(1, count)


def _least_on_gpus(which: int, count: int) -> int:
    """Asked for in a process of its own, which gives back what a CUDA context takes on each."""
    command = [sys.executable, "-c", _ASK_GPUS.format(which, count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        logger.warning("the GPUs' memory cannot be read: %s", done.stderr.strip()[-200:])
        return 0
    return int(done.stdout)
