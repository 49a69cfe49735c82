"""Where trials run, and what those wait for that run nowhere, as Ray's callbacks see it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError
from ray.tune import Callback
from ray.tune.experiment import Trial

from .ledger import Ledger
from .resources import Allocation

if TYPE_CHECKING:
    from .ray_cluster import Cluster

_ANSWER_SECONDS = 10.0
_LOOK_SECONDS = 1.0
_WAIT_SECONDS = 30.0
"""After so long without a trial being placed, it is said what one waits for."""


class Whereabouts(Callback):  # type: ignore[misc]
    """Tells the ledger where each trial has come to run; says what one waits for.

    On this machine without GPUs there is nothing to tell.

    Args:
        ledger: the books.
        allocation: what a trial asks for.
        cluster: None on this machine.

    Attributes:
        places: of trials, by Ray's ids.
    """

    def __init__(
        self, ledger: Ledger, allocation: Allocation, cluster: Cluster | None = None
    ) -> None:
        self.places: dict[str, str] = {}
        self._ledger, self._allocation, self._cluster = ledger, allocation, cluster
        self._of_actor: dict[str, str] = {}
        self._looked = self._placed = time.monotonic()
        self._said = False

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's actor is there, new or taken over from another trial."""
        self._placed, self._said = time.monotonic(), False
        if self._cluster is None and (not self._allocation.gpus or self._allocation.pack > 1):
            return
        place = self._place(trial.temporary_state.ray_actor)
        if place is not None:
            self.places[trial.trial_id] = place
            if not trial.config.get("rerun"):
                self._ledger.placed(trial.config["number"], place)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Ten times a second, or more often."""
        now = time.monotonic()
        if self._cluster is None or now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        wrong = self._cluster.check_joined()
        if wrong is not None:
            self._ledger.halt(wrong)
            return
        waiting = [trial for trial in trials if trial.status == Trial.PENDING]
        if not waiting:
            self._placed = now
        elif now - self._placed > _WAIT_SECONDS and not self._said:
            self._said = True
            self._ledger.note(waiting[0].config["number"], self._cluster.waiting(self._allocation))

    def _place(self, actor: Any) -> str | None:
        """``node-3 GPU 0,1``; of each actor once, for it never moves."""
        # Not the handle itself: while one is kept, so is its process.
        key = actor._actor_id.hex()
        if key not in self._of_actor:
            try:
                node, gpus = ray.get(actor.where.remote(), timeout=_ANSWER_SECONDS)
            except RayError:
                # It has died, or hardly gets to run: its next result, or its error, will tell.
                return None
            words = [] if self._cluster is None else [self._cluster.name(node)]
            words += [f"GPU {','.join(gpus)}"] if gpus else []
            self._of_actor[key] = " ".join(words)
        return self._of_actor[key]

    def __getstate__(self) -> dict[str, Any]:
        return {}
