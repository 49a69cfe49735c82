"""A whole search: preflight, run folder, engine, leaderboard."""

from __future__ import annotations

import logging
import os
import platform
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.exceptions import StorageInternalError
from rich.console import Console

from ..reports import leaderboard, render
from ..spaces import Fault, Label, Space, SpaceError, dump_space, load_space
from ..trainer.data import TokenizedData
from ..trainer.errors import TrialError, reason
from ..trainer.folder import RunFolder, as_typed, refuse_uri, write_json, write_text
from ..trainer.redact import redact_command, secrets
from .bounds import MemoryBounds
from .layout import Layout, settle_layout
from .ledger import Ledger
from .live import Display, make_display
from .plan import Plan
from .plan_facts import Lengths, capacity
from .plan_text import disk_line, plan_lines, say
from .preflight import Preflight, preflight
from .resources import Allocation, allocate, visible_cores
from .settle import settle_cluster, settle_unpacking, settle_workers
from .study import Study
from .tracking import Follower, make_trackers, require_trackers
from .watchdog import watched

if TYPE_CHECKING:
    from .ray_cluster import Cluster
    from .ray_early import EarlyRay

logger = logging.getLogger(__name__)

_VERSIONED = (
    "tune-lora",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "optuna",
    "ray",
)


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
    board: leaderboard.Leaderboard
    reason: str | None


class StopSignal:
    """Why the search should stop, if it should: Ctrl-C or the time limit."""

    def __init__(self, minutes: float | None) -> None:
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.reason: str | None = None

    def __call__(self) -> bool:
        """Whether to stop."""
        if self.reason is None and self._deadline is not None and time.monotonic() > self._deadline:
            self.reason = "the time limit (search.time_limit_minutes) is reached"
        return self.reason is not None

    @contextmanager
    def catching_interrupts(self, closing: Callable[[], None]) -> Iterator[None]:
        """The first Ctrl-C stops the search cleanly, a second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def interrupt(*_: Any) -> None:
            self.reason = "interrupted"
            closing()
            signal.signal(signal.SIGINT, signal.default_int_handler)

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


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
    with _written(run):
        write_text(run.space, dump_space(space))
    return run


@contextmanager
def _written(run: RunFolder) -> Iterator[None]:
    """Outside the ledger, too, a folder that cannot be written is said to be so."""
    try:
        yield
    except (OSError, StorageInternalError) as error:
        said = f"{run.root}: cannot be written: {reason(error)}"
        raise TrialError(f"{said}\n{_going_on(run)}") from error


def _going_on(run: RunFolder) -> str:
    return f"What was won is kept; go on with --resume {run.root}"


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
        return _run_locked(
            space, run, console, closing, local=local, audits=audits, first=first, address=address
        )


def _run_locked(
    space: Space,
    run: RunFolder,
    console: Console,
    closing: ExitStack,
    *,
    local: bool,
    audits: int,
    first: Sequence[Mapping[str, Label]],
    address: str | None,
) -> SearchOutcome:
    console.print(f"run folder: {as_typed(run.root)}", highlight=False, soft_wrap=True)
    if space.model.trust_remote_code:
        said = f"CAUTION: runs Python code that comes with {space.model.name} (trust_remote_code)"
        console.print(said, style="bold red", highlight=False, soft_wrap=True, markup=False)
    try:
        require_trackers(space)
        cores = visible_cores()
        starting: EarlyRay | Cluster | None = None
        cluster = None if address is None else _join(address, closing)
        if cluster is not None:
            starting = cluster
            ready, layout, unpacking, own = settle_cluster(space, run, cluster)
        else:
            allocation = Allocation(1, cores, 0) if local else allocate(space, cores, _count_gpus())
            starting = None if local else _start_ray(cores, closing)
            ready = preflight(space, run)
            if not local:
                allocation = settle_workers(space, ready.spec, ready.modules, allocation, cores)
            spec, unpacking = settle_unpacking(space, ready.spec, ready.modules, allocation, run)
            ready = replace(ready, spec=spec)
            layout = Layout(allocation)
            if not local:
                layout = settle_layout(space, ready, allocation, cores, run)
            own = capacity(_count_gpus(), layout.allocation.gpus)
        allocation = layout.allocation
        plan = Plan(space, ready.spec, ready.modules, Lengths.of(ready.data, ready.spec.task), own)
        say(plan_lines(plan, ready.data, layout, unpacking), console)
        if cluster is not None:
            say([f"ray:    {cluster.describe()}"], console)
        say([disk_line(space, ready.largest_adapter, allocation.trials, run.root)], console)
    except (SpaceError, TrialError):
        run.discard_bare()
        raise
    stop = StopSignal(space.search.time_limit_minutes)
    with _written(run):
        if not ready.kept:
            ready.data.save(run.data)
            # From here on every process maps the files in the run folder.
            ready = replace(ready, data=TokenizedData.load(run.data))
        _write_about(space, run, ready, {**layout.to_dict(cores), "address": address})
        study = Study(space, run.study, run.name, first, plan.refusal)
        memory = MemoryBounds(ready.adapter_size)
        ledger = Ledger(space, run, study, audits=audits, memory=memory)
        ledger.restore()
        follower = Follower(run, make_trackers(space, run), ledger.results.values())

    def close() -> None:
        ledger.closed = True

    display = make_display(space, ledger.results, console)
    ledger.watchers.append(display.update)
    ledger.note = display.note
    ledger.watchers.append(follower.update)
    with follower, stop.catching_interrupts(close), display:
        _fit(ledger, ready, allocation, stop, display, starting, cluster)
    if ledger.halted is not None:
        raise TrialError(f"{ledger.halted}\n{_going_on(run)}")
    with _written(run):
        board = leaderboard.build(run)
        render.write(run, board)
        _write_report(run, board)
    number = None if board.best is None else board.best.trial
    best = None if number is None else ledger.results[number]
    follower.crown(best, over=stop.reason != "interrupted")
    return SearchOutcome(run, board, stop.reason)


def _write_report(run: RunFolder, board: leaderboard.Leaderboard) -> None:
    # plotly and scikit-learn are imported when all else is done, and no sooner.
    from ..reports.html import to_html

    try:
        page = to_html(run, board)
    except Exception:
        # A figure that cannot be drawn is no reason for a search to fail that has come to its end.
        logger.exception("the report could not be made; try: tune-lora report %s", run.root)
        return
    write_text(run.report, page)


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


def _fit(
    ledger: Ledger,
    ready: Preflight,
    allocation: Allocation,
    stop: StopSignal,
    display: Display,
    starting: EarlyRay | Cluster | None,
    cluster: Cluster | None,
) -> None:
    if starting is None:
        from .local import fit_local

        fit_local(ledger, ready.spec, ready.data, stop)
        return
    from . import ray_tune

    ray_lives = starting.wait()

    def stopping() -> bool:
        # What ends once the search is being stopped is no outcome of the trial itself.
        if stop():
            ledger.closed = True
        if not ray_lives():
            died()
        return ledger.closed

    def died() -> None:
        ledger.halt(starting.death)

    def give_up() -> None:
        # The thread that runs the search is blocked within Ray and cannot be woken.
        display.__exit__(None, None, None)
        print(f"error: {ledger.halted}\n{_going_on(ledger.run)}", file=sys.stderr, flush=True)
        starting.kill()
        os._exit(1)

    over = threading.Event()
    # In this order: Ray that is being stopped has not died.
    with watched(lambda: ray_lives() or over.is_set(), died, give_up):
        try:
            spec = ready.spec.to_dict()
            ray_tune.fit(ledger, spec, allocation, stopping, cluster)
        finally:
            over.set()
            starting.stop()


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a trial's numbers depend on."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in _VERSIONED
    }


def _write_about(space: Space, run: RunFolder, ready: Preflight, layout: dict[str, Any]) -> None:
    about = {
        "space": space.name,
        "command": redact_command(shlex.join(["tune-lora", *sys.argv[1:]])),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "model": ready.spec.to_dict(),
        "layout": layout,
        "data": {
            "source": space.data.train,
            "fingerprint": ready.data.fingerprint,
            "stats": ready.data.stats,
        },
        "versions": versions(),
    }
    write_json(run.about, about)
