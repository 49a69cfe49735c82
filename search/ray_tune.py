"""The driver's side of Ray Tune: the searcher and the call.

Everything of substance is elsewhere (``run_trial``, ``Study``, ``Ledger``); these classes only
fit it to Ray's interfaces, so that a change of Ray's stays in the modules of that name.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Ray asks for the metric in every result; a trial that failed has none.
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
# Our run folder is the record; Ray's own CSV, JSON and TensorBoard copies would double it.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
# SIGINT is the driver's (see course.py): Ray's handler would stop trials as if ASHA had.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_FORCE_TRIAL_CLEANUP_S", "3")
# What has become of a trial whose worker died, the display says, and the leaderboard.
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")

import ray
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, Stopper, TuneConfig
from ray.tune.execution import class_cache
from ray.tune.search import Searcher

from ..spaces import PbtScheduler
from ..trainer.result import TrialResult, TrialState
from .ledger import Ledger
from .place import as_config, from_told
from .ray_early import SLOTS
from .ray_places import Whereabouts
from .ray_schedulers import make_scheduler
from .ray_worker import Engine, SeatWorker, TrialWorker, WorkerOutgrownError
from .resources import Allocation

if TYPE_CHECKING:
    from .ray_cluster import Cluster

logger = logging.getLogger(__name__)
# That Ray's own state could not be saved is not worth a traceback: the study is the truth.
logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)
# "Trials did not complete": the leaderboard says which, and why.
logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)

# For another library's sake Tune sets an environment variable in workers, which makes Ray start a
# new process for each; without it they are those that Ray has ready when it comes up.
class_cache.DEFAULT_ENV_VARS.pop("PL_DISABLE_FORK", None)


class StudySearcher(Searcher):  # type: ignore[misc]
    """Ray's view of the study. It tells Optuna each trial's true state, through the ledger.

    Ray's own OptunaSearch tells COMPLETE for every trial that ends, also for one that the
    scheduler stopped, so the sampler takes a loss at step 3 for one at the horizon.

    Args:
        ledger: the books.
        room: for how many trials there is room now, those included that run. (Ray's
            ``ConcurrencyLimiter`` has a number that stays, and nodes come and go.)
        places: where trials are, by Ray's ids.
    """

    def __init__(
        self, ledger: Ledger, room: Callable[[], int], places: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(metric="cost", mode="min")
        self._ledger, self._room = ledger, room
        self._places = {} if places is None else places
        self._numbers: dict[str, int] = {}
        self._reruns: dict[str, str] = {}
        self._base_scorer: str | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next configuration; None while there is no room, FINISHED when there are no more."""
        if len(self._numbers) + len(self._reruns) >= self._room():
            return None
        config = self._ledger.next_config()
        if config is None:
            return self._suggest_rerun(trial_id)
        self._numbers[trial_id] = config.number
        # One trial scores the base before it trains; if its worker dies first, the next one does.
        score_base = self._base_scorer is None and self._ledger.run.read_base() is None
        if score_base:
            self._base_scorer = trial_id
        return as_config(config, score_base=score_base)

    def _suggest_rerun(self, trial_id: str) -> dict[str, Any] | str | None:
        """A trial to train again; None, Ray's word for later, while others still run."""
        if self._ledger.reruns and self._ledger.running and not self._ledger.closed:
            return None
        found = self._ledger.next_rerun()
        if found is None:
            return str(Searcher.FINISHED)
        config, name = found
        self._reruns[trial_id] = name
        return as_config(config, rerun=name)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A trial has been evaluated."""
        if "result" in result and trial_id not in self._reruns:
            self._ledger.progress(self._told(trial_id, result))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial has ended: by itself, by the scheduler, or with its worker."""
        rerun = self._reruns.pop(trial_id, None)
        if rerun is not None:
            if not error and result and "result" in result:
                self._ledger.reran(self._told(trial_id, result), rerun)
            return
        number = self._numbers.pop(trial_id, None)
        if trial_id == self._base_scorer:
            self._base_scorer = None
        if number is None:
            return
        if error:
            self._ledger.lost(number, "the worker process died")
            return
        if result and "halt" in result:
            self._ledger.halt(str(result["halt"]))
            return
        # A trial's last result comes only here: Ray does not pass it to on_trial_result before.
        known = self._ledger.results[number]
        last = self._told(trial_id, result) if result and "result" in result else known
        self._ledger.ended(last if last.state.finished else last.ended(TrialState.PRUNED))

    def _told(self, trial_id: str, result: dict[str, Any]) -> TrialResult:
        return replace(from_told(result), place=self._places.get(trial_id))

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles its searcher for ``Tuner.restore``; here the study is the truth."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study on disk is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see ``save``."""


class _Until(Stopper):  # type: ignore[misc]
    """Stops the whole search when asked to."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop()

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Recovery(Callback):  # type: ignore[misc]
    """Says why a trial is taken up by another worker."""

    def __init__(self, note: Callable[[int, str], None]) -> None:
        self._note = note

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called before the trial gets another worker."""
        said = f"its worker died; it is taken up again (retry {trial.num_failures} of "
        said += f"{trial.max_failures})"
        if trial.error_file:
            # Its text: the pickle beside it would be the one that this process reads.
            text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
            last = text.rpartition("Failure # ")[2]
            if WorkerOutgrownError.__name__ in last:
                reason = last.rpartition(WorkerOutgrownError.__name__)[2].strip(": \n")
                said = f"goes to a fresh worker: {reason}"
        self._note(trial.config["number"], said)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def fit(
    ledger: Ledger,
    spec: dict[str, Any],
    allocation: Allocation,
    stop: Callable[[], bool],
    cluster: Cluster | None = None,
) -> None:
    """Run the search until its trials are done or ``stop()`` is true. Ray must be up.

    On a ``cluster`` there is room for as many trials as its nodes carry at the time.
    """
    _forget(ledger.run.ray)
    context = {
        "root": str(ledger.run.root),
        "spec": spec,
        "threads": allocation.threads,
    }
    engines: list[Any] = []
    takes = {"cpu": allocation.threads, "gpu": allocation.gpus}
    if allocation.memory:
        takes["memory"] = allocation.memory
    if allocation.pack > 1:
        names = [f"engine-{number}" for number in range(allocation.workers)]
        engines = [_engine(name, allocation, takes, context) for name in names]
        trainable = tune.with_parameters(SeatWorker, engines=names)
        takes = {"cpu": 0, "gpu": 0}
    else:
        trainable = tune.with_parameters(TrialWorker, **context)
    # The nodes of a cluster have no such slots.
    slots = {} if cluster is not None else {SLOTS: _part(allocation.trials)}
    worker = tune.with_resources(trainable, {**takes, **slots})
    # A trial that population based training lets wait counts as running for Ray's limit: there
    # all trials are under way, and the slots alone limit how many of them train.
    population = isinstance(ledger.space.search.scheduler, PbtScheduler)
    # How many trials are asked for is the searcher's to say. Of a population, those that wait for
    # a slot are drawn one at a time.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1" if population else str(10**6)
    places = Whereabouts(ledger, allocation, cluster)
    tuner = tune.Tuner(
        worker,
        tune_config=TuneConfig(
            metric="cost",
            mode="min",
            search_alg=StudySearcher(ledger, _room(ledger, allocation, cluster), places.places),
            scheduler=make_scheduler(ledger),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"trial_{trial.trial_id}",
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(ledger.run.root),
            stop=_Until(stop),
            callbacks=[_Recovery(ledger.note), places],
            failure_config=FailureConfig(max_failures=ledger.space.search.retries),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        for engine in engines:
            ray.kill(engine)


def _forget(folder: Path) -> None:
    """Ray would keep its pickles of an earlier part of the search; nobody reads them."""
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _room(ledger: Ledger, allocation: Allocation, cluster: Cluster | None) -> Callable[[], int]:
    """For how many trials there is room, as a call."""
    space = ledger.space
    if cluster is not None:
        return lambda: cluster.room(space, allocation)
    population = isinstance(space.search.scheduler, PbtScheduler)
    room = space.search.trials if population else allocation.trials
    return lambda: room


def _part(trials: int) -> float:
    """The share of each of so many trials; Ray counts in 1/10000."""
    return 10000 // trials / 10000


def _engine(
    name: str, allocation: Allocation, takes: dict[str, float], context: dict[str, Any]
) -> Any:
    """An actor for several trials, which Ray starts anew if it dies."""
    return (
        ray.remote(Engine)
        .options(
            name=name,
            num_cpus=takes["cpu"],
            num_gpus=takes["gpu"],
            max_restarts=-1,
            # Each of its trials may be in advance() and in end(), while all seats ask for room.
            max_concurrency=2 * allocation.pack + allocation.trials,
        )
        .remote(seats=allocation.pack, **context)
    )
