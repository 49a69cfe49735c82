"""Ray on this machine, started while the driver is still importing and looking at model and data.

Nothing here takes long to import: Ray is to be on its way before anything else is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray prints these itself, through no logger.
os.environ.setdefault(
    "RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed|Raylet is terminated"
)

import psutil
import ray

from .watchdog import lives

_ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0",
}
"""For glibc in the workers: mallopt(3), and "Memory Allocation Tunables" in its manual.

Large blocks go back at once: left to itself glibc keeps what logits and activations of unequal
steps leave behind, hundreds of megabytes in a long trial. The heap is not cut after each step: the
next one would pay for its pages again. Small blocks are not set aside when they are freed: the
scraps that aligning a tensor leaves beside it would keep the free memory on both sides of them
apart, and the next tensor of its size would fit nowhere. Measured in docs/performance.md.
"""
SLOTS = "tune_lora_trials"
"""Ray resource of which there is one, shared by the trials that train at a time."""


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
            stop_ray()
        self._over.set()
        self._thread.join()

    def kill(self) -> None:
        """Kill it and its workers, where it can stop nothing any more."""
        kill_ray()

    def _main(self, cores: int) -> None:
        try:
            self._started.set_result(start_ray(cores))
        except BaseException as error:
            self._started.set_exception(error)
            return
        self._over.wait()


def worker_variables() -> dict[str, str]:
    """Environment variables for workers, as this process has them or as they had better be."""
    wanted = {"TOKENIZERS_PARALLELISM": "false", **_ALLOCATOR}
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def start_ray(cores: int, gpus: int | None = None) -> Callable[[], bool]:
    """Start Ray on this machine.

    Args:
        cores: that workers share.
        gpus: logical GPUs to announce in place of those that Ray finds.

    Returns:
        Whether Ray's own processes live, as a call. Some seconds after one of them has died, Ray
        ends this process too, without a word.
    """
    os.environ.update(worker_variables())
    # Ray's ports are open to the network, and whoever gets in can run code: Ray asks for a token.
    # Its own would lie in the user's home, where others may read it; this one dies with the search.
    if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray.init(
        # Not whichever cluster someone has started on this machine, nor the one that RAY_ADDRESS
        # names.
        address="local",
        num_cpus=cores,
        num_gpus=gpus,
        resources={SLOTS: 1},
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 * 2**20,
    )
    daemons = [c for c in psutil.Process().children() if c.name() in ("raylet", "gcs_server")]
    return lambda: all(map(lives, daemons))


def stop_ray() -> None:
    """Stop what ``start_ray`` started."""
    ray.shutdown()


def kill_ray() -> None:
    """Kill what ``start_ray`` started, and the workers; for when Ray can stop nothing any more."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
