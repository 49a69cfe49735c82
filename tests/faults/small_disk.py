"""File systems of a few MiB, mounted for a test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, mib: int) -> Iterator[Path]:
    """``folder``, with a disk of its own of so many MiB; skips where nothing may be mounted."""
    folder.mkdir(exist_ok=True)
    done = _run("mount", "-t", "tmpfs", "-o", f"size={mib}m", "tune-lora-test", str(folder))
    if done.returncode:
        pytest.skip(f"this process may not mount a file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        if _run("umount", str(folder)).returncode:
            _run("umount", "--lazy", str(folder))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The file system mounted at ``folder`` refuses every write, root's too."""
    done = _run("mount", "-o", "remount,ro", str(folder))
    if done.returncode:
        pytest.skip(f"this process may not remount a file system: {done.stderr.strip()}")
    try:
        yield
    finally:
        _run("mount", "-o", "remount,rw", str(folder))


def fill(folder: Path) -> Path:
    """Write a file until not one byte more fits."""
    path = folder / "filler"
    with path.open("ab", buffering=0) as file:
        for size in (2**16, 1):
            try:
                while True:
                    file.write(os.urandom(1) * size)
            except OSError:
                continue
    return path


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
