"""Kills a search's processes one after another, and starts the search again where it must."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from tune_lora.trainer.folder import RunFolder

_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""They outlive a killed driver by a minute, and do nothing meanwhile."""


class Chaos:
    """One search in processes of its own.

    Args:
        space: a space file with two workers; its search takes many retries.
        run: the run folder.
        log: receives what the search says.

    Attributes:
        killed: what has been killed so far: ``driver``, ``worker`` or ``raylet``.
        trials: how many the search is to have by now.
    """

    def __init__(self, space: Path, run: RunFolder, log: Path, trials: int) -> None:
        self._space, self._run, self._log = space, run, log
        self.trials = trials
        self.killed: list[str] = []
        self._process: psutil.Popen | None = None
        self._family: dict[int, psutil.Process] = {}

    def kill(self, kind: str, patience: float) -> None:
        """Kill one process of this kind, ``patience`` seconds after there is one."""
        self._wait_for(lambda: self._victims(kind), f"a {kind}")
        time.sleep(patience)
        self._wait_for(lambda: self._victims(kind), f"a {kind} that lives on")
        self._victims(kind)[0].kill()
        self.killed.append(kind)
        if kind == "worker":
            return
        assert self._process is not None
        code = self._process.wait(timeout=60)
        assert code == (-9 if kind == "driver" else 1), self.said()
        if kind == "raylet":
            assert "Ray has died" in self.said()
            assert f"--resume {self._run.root}" in self.said()
        self._end_agents()

    def finish(self) -> None:
        """Let the search come to its end."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        assert self._process.wait(timeout=240) == 0, self.said()

    def leftovers(self) -> list[psutil.Process]:
        """Processes of the search that live, once they have had time to notice its end."""
        return psutil.wait_procs(list(self._family.values()), timeout=20)[1]

    def end(self) -> None:
        """Leave nothing behind, whatever has happened."""
        self._members()
        for process in self._family.values():
            if process.is_running():
                process.kill()

    def said(self) -> str:
        """The end of what the search has said."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-4000:]

    def _wait_for(self, there: Callable[[], object], what: str) -> None:
        end = time.monotonic() + 120
        while not there():
            if time.monotonic() > end:
                raise AssertionError(f"no {what} after two minutes: {self.said()}")
            if self._process is None or self._process.poll() is not None:
                self._start()
            time.sleep(0.05)

    def _start(self) -> None:
        """Begin, or go on; a search that has ended is given more to do."""
        if self._process is not None and self._process.returncode == 0:
            self.trials += 4
        how = "--resume" if self._run.space.is_file() else "--run"
        command = [sys.executable, "-m", "tune_lora.cli", "search", str(self._space)]
        with self._log.open("a", encoding="utf-8") as log:
            self._process = psutil.Popen(
                [*command, f"search.trials={self.trials}", how, str(self._run.root)],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._log.parent,
            )

    def _victims(self, kind: str) -> list[psutil.Process]:
        members = self._members()
        workers = [p for p in members if _title(p).startswith("ray::") and not _agent(p)]
        if kind == "driver":
            return [self._process] if members else []
        if kind == "worker":
            # The youngest last: the one that has come furthest is killed.
            return [p for p in workers if "IDLE" not in _title(p)]
        return [p for p in members if p.name() == "raylet"] if workers else []

    def _members(self) -> list[psutil.Process]:
        """The driver's living descendants."""
        if self._process is None or self._process.poll() is not None:
            return []
        try:
            found = self._process.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._family |= {process.pid: process for process in found}
        return found

    def _end_agents(self) -> None:
        for process in self._family.values():
            if process.is_running() and _agent(process):
                process.kill()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _agent(process: psutil.Process) -> bool:
    return _title(process).startswith(_AGENTS)


def schedule(seed: int, **counts: int) -> list[tuple[str, float]]:
    """So many kills of each kind in random order, each with the seconds to wait before it."""
    dice = random.Random(seed)
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    dice.shuffle(kinds)
    return [(kind, dice.uniform(0.0, 3.0)) for kind in kinds]
