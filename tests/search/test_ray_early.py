"""Ray is started while the search is prepared, and gone when that comes to nothing."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from tune_lora.search import driver, ray_early
from tune_lora.search.ray_early import EarlyRay
from tune_lora.spaces import Space, SpaceError

_PROGRAM = """
import psutil, time
from tune_lora.search.ray_early import EarlyRay

early = EarlyRay(1)
assert early.wait()()
print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
time.sleep(600)
"""


class Stub:
    """In place of Ray: notes what is done to it, and by which thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.done: list[str] = []
        self.error = error
        monkeypatch.setattr(ray_early, "start_ray", self.start)
        monkeypatch.setattr(ray_early, "stop_ray", lambda: self.done.append("stopped"))

    def start(self, cores: int) -> Callable[[], bool]:
        time.sleep(0.2)
        self.done.append(f"started by {threading.current_thread().name}")
        if self.error is not None:
            raise self.error
        return lambda: True


def test_it_is_stopped_once_however_early(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(monkeypatch)
    early = EarlyRay(1)
    early.stop()
    early.stop()
    assert stub.done == ["started by ray", "stopped"]


def test_what_start_raises_is_raised_where_it_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub = Stub(monkeypatch, ConnectionError("no port is free"))
    early = EarlyRay(1)
    with pytest.raises(ConnectionError, match="no port"):
        early.wait()
    early.stop()
    assert stub.done == ["started by ray"]


def test_a_space_that_is_refused_leaves_nothing(
    space_of: Callable[..., Space], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = Stub(monkeypatch)
    space = space_of(lora={"target_modules": ["q_prj"]})
    run = driver.new_run(space, tmp_path / "run")
    with pytest.raises(SpaceError, match="q_prj"):
        driver.run_search(space, run, Console(file=io.StringIO()), local=False)
    assert stub.done == ["started by ray", "stopped"]
    assert not run.root.exists()


def test_rays_processes_die_with_a_driver_that_is_killed() -> None:
    driving = subprocess.Popen([sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, text=True)
    try:
        assert driving.stdout is not None
        begun = [psutil.Process(int(pid)) for pid in driving.stdout.readline().split()]
        daemons = [process for process in begun if process.name() in ("raylet", "gcs_server")]
        assert len(daemons) == 2
    finally:
        driving.send_signal(signal.SIGKILL)
        driving.wait()
    # The others look now and then whether these still live.
    _, alive = psutil.wait_procs(daemons, timeout=60)
    assert alive == []
