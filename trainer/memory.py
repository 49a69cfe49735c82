"""Peak memory and GPU utilization of one trial in this process, and the want of memory."""

from __future__ import annotations

import resource
from pathlib import Path

import torch


def out_of_memory(error: BaseException) -> bool:
    """Whether this is what torch or Python raises when memory runs out."""
    # torch's CPU allocator has no exception of its own.
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return memory or "DefaultCPUAllocator" in str(error)


class Meter:
    """Watches one trial: created at its start, read at any time.

    Resident memory is the kernel's own high-water mark (``VmHWM``, reset at the start through
    ``/proc/self/clear_refs``; see proc(5)). Where that is not to be had, it is the process's
    lifetime peak.
    """

    def __init__(self) -> None:
        self._samples: list[int] = []
        self._status = Path("/proc/self/status")
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self._status = Path("/nonexistent")
        for gpu in _gpus():
            torch.cuda.reset_peak_memory_stats(gpu)

    def peak_bytes(self) -> int:
        """Peak resident memory of the process, in bytes."""
        try:
            for line in self._status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def gpu_bytes(self) -> int | None:
        """Peak memory that torch reserved on the trial's GPU, or GPUs together, in bytes."""
        peaks = [torch.cuda.max_memory_reserved(gpu) for gpu in _gpus()]
        return sum(peaks) if peaks else None

    def sample_gpu(self) -> None:
        """Take one reading of each GPU's utilization (NVML, through torch)."""
        for gpu in filter(torch.cuda.memory_reserved, _gpus()):
            try:
                self._samples.append(torch.cuda.utilization(gpu))
            except (RuntimeError, ModuleNotFoundError):
                return

    def gpu_utilization(self) -> float | None:
        """Mean of the readings, in percent."""
        return sum(self._samples) / len(self._samples) if self._samples else None


def _gpus() -> range:
    """The GPUs that this process was given."""
    return range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
