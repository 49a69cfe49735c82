"""A Ray cluster that others have started: the search is one job of it and stops nothing there."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError

from ..spaces import PbtScheduler, Space, SpaceError
from ..trainer.base import BaseSpec
from ..trainer.errors import TrialError
from ..trainer.folder import RunFolder
from . import ray_early
from .nodes import Node, allocate_nodes, carried, worded
from .ray_nodes import Finding, NodeChecks
from .resources import Allocation

logger = logging.getLogger(__name__)

_TOLD = ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Variables of the driver that local workers inherit, and that hold for a cluster's too."""
_CONNECT_SECONDS = 10.0
_LOOK_SECONDS = 2.0
"""Between two looks at the cluster: its nodes, and whether it is there."""
_GONE_SECONDS = 45.0
"""Without an answer, the cluster is given up; Ray itself ends this process after a minute."""


class Cluster:
    """The driver's place in a cluster.

    Attributes:
        death: what to say where it can be reached no more.

    Args:
        address: ``host:port`` of its head, or ``auto`` on one of its nodes.

    Raises:
        TrialError: there is none, or it cannot be joined in this way.
    """

    death = f"the cluster's head has not answered for {_GONE_SECONDS:.0f} s"

    def __init__(self, address: str) -> None:
        self.address = address
        _join(address)
        self._checks: NodeChecks | None = None
        self._asks: Mapping[str, float] = {}
        self._known, self._looked = _nodes(), time.monotonic()

    def wait(self) -> Callable[[], bool]:
        """Whether the cluster is there, as a call (see ``EarlyRay.wait``)."""
        return Pulse(ray.get_runtime_context().gcs_address)

    def stop(self) -> None:
        """Leave it. What the search still has there ends; the cluster goes on."""
        if self._checks is not None:
            self._checks.close()
        ray_early.stop_ray()

    def kill(self) -> None:
        """Nothing: its processes are not ours."""

    @property
    def nodes(self) -> list[Node]:
        """Those alive, as of a moment ago."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._known, self._looked = _nodes(), time.monotonic()
        return self._known

    def name(self, node: str) -> str:
        """The name of the node that Ray knows by this id."""
        known = {found.id: found.name for found in self.nodes}
        if node not in known:
            # It has joined a moment ago.
            known = {found.id: found.name for found in _nodes()}
        return known.get(node, node[:8])

    def allocate(self, space: Space, memory: int = 0) -> Allocation:
        """See ``allocate_nodes``.

        Raises:
            SpaceError: no node has what a trial asks for, or trials of a pack are asked for.
        """
        if space.search.pack not in (1, "auto"):
            rule = "packed trials share one machine's memory; on a cluster, write 1 or auto"
            raise SpaceError.single("search.pack", space.search.pack, rule)
        return allocate_nodes(space, self.nodes, memory)

    def check(self, run: RunFolder, spec: BaseSpec, allocation: Allocation) -> list[Finding]:
        """What the nodes that trials can run on see of run folder and model.

        Raises:
            TrialError: one lacks a file, or has other versions than this process.
        """
        self._checks, self._asks = NodeChecks(run, spec), allocation.asks
        return self._checks.of(self._usable())

    def check_joined(self) -> str | None:
        """What is wrong with a node that has joined since, once it is known."""
        return None if self._checks is None else self._checks.later(self._usable())

    def _usable(self) -> list[Node]:
        return [node for node in self.nodes if node.carries(self._asks)]

    def room(self, space: Space, allocation: Allocation) -> int:
        """Trials that there is room for now; at least one, which waits."""
        if isinstance(space.search.scheduler, PbtScheduler):
            return space.search.trials
        if space.resources.workers != "auto":
            return allocation.workers
        return max(1, carried(self.nodes, allocation.asks))

    def describe(self) -> str:
        """``3 node(s) with {GPU: 16, CPU: 128}``."""
        return f"{len(self.nodes)} node(s) with {worded(self.total())}"

    def total(self) -> dict[str, float]:
        """All that its nodes have together."""
        found: dict[str, float] = {}
        for node in self.nodes:
            for name, value in node.resources.items():
                found[name] = found.get(name, 0) + value
        return found

    def waiting(self, allocation: Allocation) -> str:
        """What a trial waits for that has no place yet."""
        free: Mapping[str, float] = ray.available_resources()
        kept = {name: free.get(name, 0.0) for name in allocation.asks}
        return (
            f"waits for {worded(allocation.asks)}: the cluster has {worded(self.total())} in all, "
            f"{worded(kept)} free now"
        )


class Pulse:
    """Whether a server can be reached, asked seldom and given up slowly.

    Args:
        address: ``host:port``.
        patience: seconds without an answer.
    """

    def __init__(self, address: str, patience: float = _GONE_SECONDS) -> None:
        self._address, self._patience = address, patience
        self._asked = self._heard = time.monotonic()

    def __call__(self) -> bool:
        """False once it has not answered for so long."""
        now = time.monotonic()
        if now - self._asked >= min(_LOOK_SECONDS, self._patience):
            self._asked = now
            if reachable(self._address, _LOOK_SECONDS):
                self._heard = now
        return now - self._heard <= self._patience


def reachable(address: str, patience: float) -> bool:
    """Whether something takes connections at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=patience).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _join(address: str) -> None:
    if address.startswith("ray://"):
        raise TrialError(
            f"--address {address}: Ray Client is not for Ray Tune: the search must run on a node "
            "of the cluster. Submit it as a job (ray job submit -- tune-lora search ... --address "
            "auto), or run it on a node"
        )
    # Where nothing listens, Ray would try for minutes.
    if address != "auto" and not reachable(address, _CONNECT_SECONDS):
        raise TrialError(
            f"--address {address}: nothing answers there; give HOST:PORT of the cluster's head "
            "(its port is 6379 unless ray start was told otherwise), or auto on one of its nodes"
        )
    told = {name: os.environ[name] for name in _TOLD if name in os.environ}
    # A job that was submitted with variables of its own keeps them beside these.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    try:
        if address != "auto":
            # With a wrong token, ray.init would try for half a minute.
            GcsClient(address=address).check_alive([], timeout=_CONNECT_SECONDS)
        ray.init(
            address=address,
            runtime_env={"env_vars": {**ray_early.worker_variables(), **told}},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (RayError, RuntimeError, ValueError, OSError) as error:
        if _of_token(error):
            raise TrialError(
                f"--address {address}: the cluster asks for a token: set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on its nodes"
            ) from error
        raise TrialError(
            f"--address {address}: the cluster cannot be joined: {error}. The search must run on "
            "a node of it (ray start --address=HOST:PORT makes this machine one), with its "
            "versions of Python and Ray"
        ) from error


def _of_token(error: BaseException | None) -> bool:
    """Whether it came of a missing or wrong token; Ray keeps some causes as text."""
    while error is not None:
        if isinstance(error, AuthenticationError) or "AuthenticationError" in str(error):
            return True
        error = error.__cause__
    return False


def _nodes() -> list[Node]:
    """The nodes that are alive."""
    return [
        Node(found["NodeID"], _name(found), found["Resources"])
        for found in ray.nodes()
        if found["Alive"]
    ]


def _name(found: Mapping[str, str]) -> str:
    """The name that the node was given, else its host's."""
    given = found["NodeName"]
    return found["NodeManagerHostname"] if given == found["NodeManagerAddress"] else given
