"""The way in: a run folder, Ray beside the imports, and the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ..spaces import Fault, Label, Space, SpaceError, dump_space, load_space
from ..trainer.errors import TrialError
from ..trainer.folder import RunFolder, as_typed, refuse_uri, write_text
from ..trainer.redact import secrets
from .importing import importing
from .kept import written
from .resources import visible_cores
from .tracking import require_trackers

if TYPE_CHECKING:
    from ..reports.leaderboard import Leaderboard
    from .ray_cluster import Cluster
    from .ray_early import EarlyRay

_BUDGET = {
    "search.trials",
    "search.time_limit_minutes",
    "search.keep_adapters",
    "search.checkpoint_minutes",
    "search.retries",
    "search.confirm",
    "search.confirm.top",
    "search.confirm.seeds",
    "search.pack",
    "resources.workers",
    "resources.threads",
    "resources.gpus_per_trial",
}
"""What may differ when a search is resumed: nothing that a trial's losses depend on."""


@dataclass(frozen=True)
class SearchOutcome:
    """How a search ended.

    Attributes:
        run: its folder.
        board: the leaderboard as it stands.
        reason: why it ended before its trials were done; None if they are done.
    """

    run: RunFolder
    board: Leaderboard
    reason: str | None


def new_run(space: Space, root: Path) -> RunFolder:
    """A fresh run folder at ``root``.

    Raises:
        TrialError: there is something already, or it cannot be made, or is no path; or the space,
            which it keeps, holds a secret.
    """
    refuse_uri(root)
    run = RunFolder(root.resolve())
    _refuse_secrets(space)
    # What write_text leaves when it is killed; an editor's swap file has a shorter name.
    unfinished = set(root.glob(f".{run.space.name}.????????"))
    if root.is_dir() and set(root.iterdir()) - unfinished:
        raise TrialError(f"{root}: is not empty; give another --run, or --resume it")
    try:
        for path in unfinished:
            path.unlink(missing_ok=True)
        write_text(run.space, dump_space(space))
    except OSError as error:
        raise TrialError(f"{root}: cannot be made: {error}") from error
    return run


def _refuse_secrets(space: Space) -> None:
    text = str(space.resolved())
    for name, value in secrets().items():
        if value in text:
            raise TrialError(f"the space holds the value of ${name}, and run folders are shared")


def resumed_run(space: Space, root: Path) -> RunFolder:
    """The run folder of an interrupted search of the same space.

    Raises:
        TrialError: there is none.
        SpaceError: it was made from another space.
    """
    run = RunFolder.open(root)
    before = load_space(run.space)
    changed = _differences(before.resolved(), space.resolved())
    faults = [
        Fault(
            key,
            new,
            f"the run was begun with {old!r}; only the budget may change on --resume",
        )
        for key, (old, new) in changed.items()
        if key not in _BUDGET
    ]
    if faults:
        raise SpaceError(faults)
    with written(run):
        write_text(run.space, dump_space(space))
    return run


def _differences(old: Any, new: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in sorted({*old, *new}):
            below = f"{path}.{key}" if path else str(key)
            found |= _differences(old.get(key), new.get(key), below)
        return found
    return {} if old == new or path == "name" else {path: (old, new)}


def run_search(
    space: Space,
    run: RunFolder,
    console: Console,
    *,
    local: bool,
    audits: int = 0,
    first: Sequence[Mapping[str, Label]] = (),
    address: str | None = None,
) -> SearchOutcome:
    """Run ``space``'s trials, or those that are left, and rank them.

    Args:
        space: validated.
        run: from ``new_run`` or ``resumed_run``.
        console: where the course is shown.
        local: one trial after another in this process, instead of Ray.
        audits: stopped trials to finish at the end, to see whether stopping them was right.
        first: parameters to begin with, before the priors.
        address: of a Ray cluster to run on, as ``ray.init`` takes it; None starts Ray here.

    Raises:
        SpaceError: the space does not fit the model, the data or the machine.
        TrialError: the model cannot be read, another search runs in the folder, it cannot be
            written, or a cluster's nodes lack what trials need.
    """
    with run.locked(), ExitStack() as closing:
        console.print(f"run folder: {as_typed(run.root)}", highlight=False, soft_wrap=True)
        if space.model.trust_remote_code:
            said = f"runs Python code that comes with {space.model.name} (trust_remote_code)"
            line = f"CAUTION: {said}"
            console.print(line, style="bold red", highlight=False, soft_wrap=True, markup=False)
        cores = visible_cores()
        try:
            require_trackers(space)
            early = None if local or address is not None else _start_ray(cores, closing)
            cluster = None if address is None else _join(address, closing)
            # Here torch and transformers are imported, while Ray comes up.
            with importing():
                from . import course

            settled = course.settle(space, run, console, cores, early, cluster)
        except (SpaceError, TrialError):
            run.discard_bare()
            raise
        board, reason = course.fit(settled, space, run, console, audits=audits, first=first)
        return SearchOutcome(run, board, reason)


def _start_ray(cores: int, closing: ExitStack) -> EarlyRay:
    from .ray_early import EarlyRay

    starting = EarlyRay(cores)
    closing.callback(starting.stop)
    return starting


def _join(address: str, closing: ExitStack) -> Cluster:
    from .ray_cluster import Cluster

    cluster = Cluster(address)
    closing.callback(cluster.stop)
    return cluster
