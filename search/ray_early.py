"""Ray, started while the driver is still looking at model and data."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from . import ray_tune


class EarlyRay:
    """Starts Ray in a thread of its own, at once.

    The thread lives until ``stop``: Linux ends Ray's processes with the thread that began them
    (``PR_SET_PDEATHSIG``), so that none outlives a driver that is killed.

    Attributes:
        death: what to say where it has died.

    Args:
        cores: of the machine.
    """

    death = "Ray has died; its own processes were killed, perhaps for lack of memory"

    def __init__(self, cores: int) -> None:
        self._started: Future[Callable[[], bool]] = Future()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._main, args=(cores,), name="ray", daemon=True)
        self._thread.start()

    def wait(self) -> Callable[[], bool]:
        """Ray is up when this returns, with what ``start_ray`` returns; or raises what it did."""
        return self._started.result()

    def stop(self) -> None:
        """Stop it, however far it has come; the second time there is nothing left to stop."""
        if self._started.exception() is None and not self._over.is_set():
            ray_tune.stop_ray()
        self._over.set()
        self._thread.join()

    def kill(self) -> None:
        """Kill it and its workers, where it can stop nothing any more."""
        ray_tune.kill_ray()

    def _main(self, cores: int) -> None:
        try:
            self._started.set_result(ray_tune.start_ray(cores))
        except BaseException as error:
            self._started.set_exception(error)
            return
        self._over.wait()
