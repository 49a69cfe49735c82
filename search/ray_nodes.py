"""What a node must have before a trial may run on it, asked by a task on each."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..trainer.errors import TrialError
from ..trainer.folder import RunFolder, write_text
from .nodes import Node

if TYPE_CHECKING:
    # A node's task imports this module, and would import torch with that one.
    from ..trainer.base import BaseSpec

_SECONDS = 120.0
"""For the answers of all nodes; a process has to be started on each."""
_VERSIONED = ("tune-lora", "torch", "transformers", "peft", "bitsandbytes", "ray")


@dataclass(frozen=True)
class Finding:
    """What a node sees.

    Attributes:
        token: what it reads at the run folder's ``token``; None if it cannot.
        writes: whether it may write in the run folder.
        files: names and bytes of the model's files.
        versions: of what trials depend on; None for a distribution that is not there.
        memory: bytes free.
        gpus: bytes free on each GPU; empty where NVML finds none.
    """

    token: str | None
    writes: bool
    files: dict[str, int]
    versions: dict[str, str | None]
    memory: int
    gpus: tuple[int, ...]


def look(token: str, source: str) -> Finding:
    """What this process sees, on whatever node it is.

    Args:
        token: path of the run folder's token.
        source: folder of the model.
    """
    path, model = Path(token), Path(source)
    files: dict[str, int] = {}
    if model.is_dir():
        files = {p.name: p.stat().st_size for p in sorted(model.iterdir()) if p.is_file()}
    return Finding(
        token=path.read_text(encoding="utf-8") if path.is_file() else None,
        writes=os.access(path.parent, os.W_OK),
        files=files,
        versions={name: _version(name) for name in _VERSIONED},
        memory=int(psutil.virtual_memory().available),
        gpus=_free_on_gpus(),
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _free_on_gpus() -> tuple[int, ...]:
    """Through NVML, which takes no memory of them and heeds no CUDA_VISIBLE_DEVICES."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
    return tuple(int(pynvml.nvmlDeviceGetMemoryInfo(handle).free) for handle in handles)


def fault(node: str, found: Finding, here: Finding, run: Path, source: str) -> str | None:
    """What keeps trials from running on a node, and the remedy; None if nothing does.

    Args:
        node: its name.
        found: what it sees.
        here: what the driver sees.
        run: the run folder.
        source: folder of the model.
    """
    if found.token != here.token:
        return (
            f"node {node}: does not see the run folder {run}; give --run a folder on storage that "
            "every node mounts at the same path (NFS, Lustre, a shared volume)"
        )
    if not found.writes:
        return f"node {node}: may not write in the run folder {run}; mount it writable there"
    lacking = [name for name, size in here.files.items() if found.files.get(name) != size]
    if lacking:
        shown = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
        return (
            f"node {node}: does not see the model's files in {source} ({shown}); put HF_HOME on "
            "storage that every node mounts at the same path, or the model into a folder there"
        )
    for name, version in here.versions.items():
        if found.versions[name] != version:
            other = found.versions[name] or "not installed"
            return f"node {node}: {name} is {other}, and {version} here; install the same there"
    return None


class NodeChecks:
    """The checks of one search.

    Args:
        run: its folder, which gets a token to be seen.
        spec: of its model.
    """

    def __init__(self, run: RunFolder, spec: BaseSpec) -> None:
        self._run, self._source = run.root, spec.source
        self._token = run.token
        write_text(self._token, secrets.token_hex(16))
        self._here = look(str(self._token), self._source)
        self._done: set[str] = set()
        self._asked: dict[Any, Node] = {}

    def close(self) -> None:
        """Take the token away."""
        self._token.unlink(missing_ok=True)

    def of(self, nodes: Sequence[Node]) -> list[Finding]:
        """What each sees.

        Raises:
            TrialError: of one that lacks something, or that does not answer.
        """
        asked = {self._ask(node): node for node in nodes}
        if asked:
            ray.wait(list(asked), num_returns=len(asked), timeout=_SECONDS)
        found = []
        for reference, node in asked.items():
            answer = self._answer(reference, node)
            if not isinstance(answer, Finding):
                raise TrialError(answer)
            found.append(answer)
        return found

    def later(self, nodes: Sequence[Node]) -> str | None:
        """Look at those that have joined, without waiting: the fault of one, once it is known."""
        for node in nodes:
            if node.id not in self._done:
                self._asked[self._ask(node)] = node
        if not self._asked:
            return None
        for reference in ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)[0]:
            node = self._asked.pop(reference)
            answer = self._answer(reference, node)
            # One that has gone again is in nobody's way.
            if isinstance(answer, str) and node.id in {n.id for n in nodes}:
                return answer
        return None

    def _ask(self, node: Node) -> Any:
        self._done.add(node.id)
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        task = ray.remote(look).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        return task.remote(str(self._token), self._source)

    def _answer(self, reference: Any, node: Node) -> Finding | str:
        """What it sees, or its fault."""
        try:
            found: Finding = ray.get(reference, timeout=0)
        except GetTimeoutError:
            return f"node {node.name}: does not answer within {_SECONDS:.0f} s"
        except RayError as error:
            return (
                f"node {node.name}: tune-lora cannot run there: {_last(error)}; install the same "
                "versions on every node"
            )
        return fault(node.name, found, self._here, self._run, self._source) or found


def _last(error: RayError) -> str:
    return str(error).strip().rpartition("\n")[2][:300]
