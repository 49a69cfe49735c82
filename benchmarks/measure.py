"""Wall clock, CPU time and peak memory of a process with all its descendants."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL = 0.5
"""Seconds from one look at the processes to the next."""


@dataclass(frozen=True)
class Measurement:
    """What a command took.

    Attributes:
        seconds: from its start to its exit.
        cpu_seconds: user and system time of every process that lived to be seen; of each, what
            came after the last look (at most ``INTERVAL``) is missing.
        peak_bytes: largest sum of resident memory. Pages that processes share count in each.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def measure(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Measurement:
    """Run ``command`` to its end, its output going to ``log``.

    Raises:
        RuntimeError: it failed.
    """
    times: dict[tuple[int, float], float] = {}
    peak = 0
    with log.open("w", encoding="utf-8") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while True:
                try:
                    process.wait(INTERVAL)
                    break
                except subprocess.TimeoutExpired:
                    peak = max(peak, _look(process.pid, times))
        finally:
            process.kill()
        seconds = time.perf_counter() - began
    if process.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}\n{tail}")
    return Measurement(seconds, sum(times.values()), peak)


def _look(root: int, times: dict[tuple[int, float], float]) -> int:
    """Note the CPU time of each process; their resident memory in bytes."""
    resident = 0
    try:
        first = psutil.Process(root)
        family = [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in family:
        try:
            with process.oneshot():
                spent = process.cpu_times()
                times[process.pid, process.create_time()] = spent.user + spent.system
                resident += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return resident
