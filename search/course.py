"""A search's course: preflight, plan, trials, leaderboard."""

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
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from ..reports import leaderboard, render
from ..reports.leaderboard import Leaderboard
from ..spaces import Label, Space
from ..trainer.data import TokenizedData
from ..trainer.errors import TrialError
from ..trainer.folder import RunFolder, write_json, write_text
from ..trainer.redact import redact_command
from .bounds import MemoryBounds
from .importing import importing
from .kept import going_on, written
from .layout import Layout, settle_layout
from .ledger import Ledger
from .live import Display, make_display
from .local import fit_local
from .plan import Plan
from .plan_facts import Lengths, capacity
from .plan_text import checked_disk_line, plan_lines, say
from .preflight import Preflight, preflight
from .resources import Allocation, allocate
from .settle import settle_cluster, settle_unpacking, settle_workers
from .study import Study
from .tracking import Follower, make_trackers
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


@dataclass(frozen=True)
class Settled:
    """All that is known before the first trial.

    Attributes:
        ready: model and data.
        layout: the workers.
        plan: what trials will need.
        cores: of this machine.
        early: Ray on this machine, as it comes up; None for none.
        cluster: likewise.
    """

    ready: Preflight
    layout: Layout
    plan: Plan
    cores: int
    early: EarlyRay | None
    cluster: Cluster | None


def settle(
    space: Space,
    run: RunFolder,
    console: Console,
    cores: int,
    early: EarlyRay | None,
    cluster: Cluster | None,
) -> Settled:
    """Look at model, data and machine, and say what the search will need.

    Args:
        space: validated.
        run: its folder, locked.
        console: where that is said.
        cores: of this machine.
        early: Ray on this machine, if trials are to run there.
        cluster: the cluster, if they are to run on one. With neither they run in this process.

    Raises:
        SpaceError: the space does not fit the model, the data or the machine.
        TrialError: the model cannot be read, or a cluster's nodes lack what trials need.
    """
    if cluster is not None:
        ready, layout, unpacking, own = settle_cluster(space, run, cluster)
    else:
        allocation = Allocation(1, cores, 0)
        if early is not None:
            allocation = allocate(space, cores, torch.cuda.device_count())
        ready = preflight(space, run)
        if early is not None:
            allocation = settle_workers(space, ready.spec, ready.modules, allocation, cores)
        spec, unpacking = settle_unpacking(space, ready.spec, ready.modules, allocation, run)
        ready = replace(ready, spec=spec)
        layout = Layout(allocation)
        if early is not None:
            layout = settle_layout(space, ready, allocation, cores, run)
        own = capacity(torch.cuda.device_count(), layout.allocation.gpus)
    plan = Plan(space, ready.spec, ready.modules, Lengths.of(ready.data, ready.spec.task), own)
    say(plan_lines(plan, ready.data, layout, unpacking), console)
    if cluster is not None:
        say([f"ray:    {cluster.describe()}"], console)
    trials = layout.allocation.trials
    say([checked_disk_line(space, ready.largest_adapter, trials, run.root)], console)
    return Settled(ready, layout, plan, cores, early, cluster)


def fit(
    settled: Settled,
    space: Space,
    run: RunFolder,
    console: Console,
    *,
    audits: int = 0,
    first: Sequence[Mapping[str, Label]] = (),
) -> tuple[Leaderboard, str | None]:
    """Run the trials that are left, and rank all.

    Args:
        settled: by ``settle``.
        space: validated.
        run: its folder, locked.
        console: where the course is shown.
        audits: stopped trials to finish at the end, to see whether stopping them was right.
        first: parameters to begin with, before the priors.

    Returns:
        The leaderboard, and why the search ended before its trials were done, if it did.

    Raises:
        TrialError: the folder cannot be written, or Ray has died.
    """
    stop = StopSignal(space.search.time_limit_minutes)
    ready = settled.ready
    with written(run):
        if not ready.kept:
            ready.data.save(run.data)
            # From here on every process maps the files in the run folder.
            ready = replace(ready, data=TokenizedData.load(run.data))
        _write_about(space, run, settled)
        study = Study(space, run.study, run.name, first, settled.plan.refusal)
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
        if settled.early is None and settled.cluster is None:
            fit_local(ledger, ready.spec, ready.data, stop)
        else:
            _fit_with_ray(ledger, settled, stop, display)
    if ledger.halted is not None:
        raise TrialError(f"{ledger.halted}\n{going_on(run)}")
    with written(run):
        board = leaderboard.build(run)
        render.write(run, board)
        _write_report(run, board)
    number = None if board.best is None else board.best.trial
    best = None if number is None else ledger.results[number]
    follower.crown(best, over=stop.reason != "interrupted")
    return board, stop.reason


def _write_report(run: RunFolder, board: Leaderboard) -> None:
    # plotly and scikit-learn are imported when all else is done, and no sooner.
    from ..reports.html import to_html

    try:
        page = to_html(run, board)
    except Exception:
        # A figure that cannot be drawn is no reason for a search to fail that has come to its end.
        logger.exception("the report could not be made; try: tune-lora report %s", run.root)
        return
    write_text(run.report, page)


def _fit_with_ray(ledger: Ledger, settled: Settled, stop: StopSignal, display: Display) -> None:
    with importing():
        from . import ray_tune

    ray = settled.early or settled.cluster
    assert ray is not None
    ray_lives = ray.wait()

    def stopping() -> bool:
        # What ends once the search is being stopped is no outcome of the trial itself.
        if stop():
            ledger.closed = True
        if not ray_lives():
            died()
        return ledger.closed

    def died() -> None:
        ledger.halt(ray.death)

    def give_up() -> None:
        # The thread that runs the search is blocked within Ray and cannot be woken.
        display.__exit__(None, None, None)
        print(f"error: {ledger.halted}\n{going_on(ledger.run)}", file=sys.stderr, flush=True)
        ray.kill()
        os._exit(1)

    over = threading.Event()
    # In this order: Ray that is being stopped has not died.
    with watched(lambda: ray_lives() or over.is_set(), died, give_up):
        try:
            spec = settled.ready.spec.to_dict()
            ray_tune.fit(ledger, spec, settled.layout.allocation, stopping, settled.cluster)
        finally:
            over.set()
            ray.stop()


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a trial's numbers depend on."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in _VERSIONED
    }


def _write_about(space: Space, run: RunFolder, settled: Settled) -> None:
    ready, cluster = settled.ready, settled.cluster
    address = None if cluster is None else cluster.address
    about = {
        "space": space.name,
        "command": redact_command(shlex.join(["tune-lora", *sys.argv[1:]])),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "model": ready.spec.to_dict(),
        "layout": {**settled.layout.to_dict(settled.cores), "address": address},
        "data": {
            "source": space.data.train,
            "fingerprint": ready.data.fingerprint,
            "stats": ready.data.stats,
        },
        "versions": versions(),
    }
    write_json(run.about, about)
