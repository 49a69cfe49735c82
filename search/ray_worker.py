"""The worker's side of Ray Tune: a process that serves one trial after another, or several at once.

Kept apart from the driver's side, because Ray imports this module in every worker: Optuna, the
reports and what else the driver needs would cost each worker memory and time.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import tune
from ray.exceptions import RayActorError

from .place import OutgrownError, Place, Visit
from .watchdog import lives

_RESTART_SECONDS = 60
"""How long to wait for an engine that has died to be there again."""
_PAUSE_SECONDS = 0.5


class WorkerOutgrownError(RayActorError):  # type: ignore[misc]
    """The worker holds more than it did, and asks for a fresh process to take its trial.

    Ray starts a fresh worker for a trial of a preempted one, and counts no failure. (Where
    ``reset_config`` returns False, Ray 2.60 gives the trial up instead.)
    """

    def __init__(self, said: str) -> None:
        super().__init__(error_msg=said, preempted=True)


class _Worker(tune.Trainable):  # type: ignore[misc]
    """Serves one trial after another, each where ``_place`` says."""

    _place: Place | _Engines
    _trial: Visit | Seat

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial, once the one before has taken its adapter off the base."""
        self._trial.stop()
        self._trial = self._place.begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next evaluation."""
        try:
            return self._trial.advance()
        except OutgrownError as error:
            raise WorkerOutgrownError(str(error)) from error

    def where(self) -> tuple[str, list[str]]:
        """Ray's id of the node that this process is on, and the ids of its GPUs there."""
        context = ray.get_runtime_context()
        return context.get_node_id(), list(context.get_accelerator_ids()["GPU"])

    def cleanup(self) -> None:
        """Let the running trial clean up after itself."""
        self._trial.stop()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Almost nothing: a trial's checkpoint lies in the run folder already."""
        # Of an empty folder Ray makes no checkpoint, and without one it pauses no trial.
        (Path(checkpoint_dir) / "step").touch()

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see ``save_checkpoint``."""


class TrialWorker(_Worker):
    """A worker process. It loads the base once and serves one trial after another.

    Attributes:
        kind: of place.
    """

    kind: type[Place] = Place

    def setup(self, config: dict[str, Any], **place: Any) -> None:
        """Take the first trial.

        Args:
            config: see ``Place.begin``.
            place: arguments of ``Place``.
        """
        self._place = self.kind(**place)
        self._trial = self._place.begin(config)


class SeatWorker(_Worker):
    """A process for one of several trials that train together in an engine."""

    def setup(self, config: dict[str, Any], *, engines: Sequence[str]) -> None:
        """Take the first trial.

        Args:
            config: see ``Place.begin``.
            engines: names of the actors.
        """
        self._place = _Engines(engines)
        self._trial = self._place.begin(config)


class Engine:
    """A Ray actor that holds a base and trains several trials on it at once.

    Args:
        seats: how many trials at a time.
        place: arguments of ``Place``.
    """

    def __init__(self, seats: int, **place: Any) -> None:
        self._place = Place(**place, packed=True)
        self._seats = seats
        self._lock = threading.Lock()
        self._taken: dict[int, _Taken] = {}

    def free(self, number: int) -> int:
        """How many trials could begin, asked by one that wants to.

        What a seat that has died left behind ends first, at its next evaluation; and so does
        whatever has become of trial ``number``, which begins again.
        """
        for pid, taken in list(self._taken.items()):
            if taken.number == number or not lives(taken.seat):
                self.end(pid)
        return self._seats - len(self._taken)

    def begin(self, config: dict[str, Any], pid: int) -> bool:
        """Take a trial for the seat in process ``pid``, unless others have come before."""
        with self._lock:
            if len(self._taken) >= self._seats:
                return False
            visit, seat = self._place.begin(config), psutil.Process(pid)
            self._taken[pid] = _Taken(config["number"], visit, seat)
            return True

    def advance(self, pid: int) -> dict[str, Any]:
        """See ``Visit.advance``."""
        return self._taken[pid].visit.advance()

    def end(self, pid: int) -> None:
        """The trial ends, if it has not."""
        taken = self._taken.get(pid)
        if taken is not None:
            taken.visit.stop()
            with self._lock:
                if self._taken.get(pid) is taken:
                    del self._taken[pid]


@dataclass(frozen=True)
class _Taken:
    """A seat's trial in an engine."""

    number: int
    visit: Visit
    seat: psutil.Process


class _Engines:
    """The engines of a search, as a ``Place``."""

    def __init__(self, names: Sequence[str]) -> None:
        self._actors = [ray.get_actor(name) for name in names]

    def begin(self, config: dict[str, Any]) -> Seat:
        """A trial that goes to an engine when it is first advanced.

        Not now: Tune starts an actor for a trial that, until it is there, may run in another.
        """
        return Seat(self, config)

    def take(self, config: dict[str, Any]) -> Any:
        """The engine that now has the trial: one with room, where there is most of it.

        Raises:
            RayActorError: an engine has died, and is not there again.
        """
        number, count = config["number"], len(self._actors)
        end = time.monotonic() + _RESTART_SECONDS
        while True:
            try:
                free = ray.get([actor.free.remote(number) for actor in self._actors])
                # Of seats that look at the same moment, not all are to go to the same one.
                for place in sorted(range(count), key=lambda i: (-free[i], (i - number) % count)):
                    actor = self._actors[place]
                    if ray.get(actor.begin.remote(config, os.getpid())):
                        return actor
            except RayActorError:
                # One has died, and Ray is starting it anew.
                if time.monotonic() > end:
                    raise
            time.sleep(_PAUSE_SECONDS)


class Seat:
    """A ``Visit`` that takes place in an engine."""

    def __init__(self, engines: _Engines, config: dict[str, Any]) -> None:
        self._engines, self._config = engines, config
        self._actor: Any = None

    def advance(self) -> dict[str, Any]:
        """See ``Visit.advance``."""
        if self._actor is None:
            self._actor = self._engines.take(self._config)
        found: dict[str, Any] = ray.get(self._actor.advance.remote(os.getpid()))
        return found

    def stop(self) -> None:
        """See ``Visit.stop``."""
        # With its engine, the trial has ended too.
        with contextlib.suppress(RayActorError):
            if self._actor is not None:
                ray.get(self._actor.end.remote(os.getpid()))
