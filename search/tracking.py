"""Trackers: Weights & Biases, TensorBoard, MLflow. The driver shows them what its trials write.

A trial's metrics lie in its folder. Trackers read them there, in a thread of the driver: no worker
waits for a network, and a trial is one run of a tracker however many workers it went through. What
each tracker has to the end is kept in the run folder; what it has not, a resumed search makes good.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from ..spaces import Choice, Space
from ..spaces.metrics import FORGETTING, GENERAL
from ..trainer.errors import TrialError, reason
from ..trainer.folder import RunFolder, read_json, write_json
from ..trainer.result import TrialResult

logger = logging.getLogger(__name__)

_SECONDS = 5.0
"""Between two looks at what trials have written."""

Scalar = bool | int | float | str
Row = Mapping[str, Any]
"""A line of metrics.jsonl; ``step`` counts optimizer steps."""


class Reached(NamedTuple):
    """How far a course is known: up to the training log of a step, or its evaluation."""

    step: int = -1
    evaluated: bool = True

    @classmethod
    def of(cls, row: Row) -> Reached:
        """The place of a row."""
        return cls(int(row["step"]), "eval_loss" in row)


class TrialRun(Protocol):
    """One trial in a tracker.

    Attributes:
        reached: what an earlier part of the search has left there.
    """

    reached: Reached

    def log(self, rows: Sequence[Row]) -> None:
        """Training logs and evaluations, in order."""

    def close(self, result: TrialResult) -> None:
        """The trial has ended; or, RUNNING, the search ends before it."""


class Tracker(Protocol):
    """One of the services.

    Attributes:
        word: its name in a space file.
    """

    word: str

    def begin(self, result: TrialResult) -> TrialRun:
        """The trial's run: a new one, or that of an earlier part of the search."""

    def crown(self, result: TrialResult, adapter: Path) -> None:
        """The search has come to its end, and this is the best."""

    def close(self, *, over: bool) -> None:
        """No more trials now; ``over`` unless the search was interrupted."""


@dataclass(frozen=True)
class Searched:
    """The search as trackers see it.

    Attributes:
        run: its folder.
        name: what runs are grouped by.
        token: tells this search from others of that name, wherever they ran.
        keys: hyperparameters that the space varies, dotted.
    """

    run: RunFolder
    name: str
    token: str
    keys: tuple[str, ...]

    @property
    def whole(self) -> str:
        """The same for this search always, and for no other; in letters that all services take."""
        return re.sub(r"[^\w.-]", "-", f"{self.name}-{self.token}", flags=re.ASCII)

    def identity(self, result: TrialResult) -> str:
        """The same for one trial always, and for no other anywhere."""
        return f"{self.whole}-{result.name}"

    def varied(self, result: TrialResult) -> dict[str, Scalar]:
        """The trial's values of what the space varies, by field name, fit for a chart's axis."""
        found: dict[str, Scalar] = {}
        for key in self.keys:
            block, _, name = key.partition(".")
            if name in result.config[block]:
                found[name] = _scalar(result.config[block][name])
        return found


def searched_keys(space: Space) -> tuple[str, ...]:
    """The dotted keys that have a domain, or that an option of one sets."""
    keys = [parameter.name.partition("@")[0] for parameter in space.parameters()]
    found = dict.fromkeys(key.removesuffix(".ratio") for key in keys)
    for value in space.values().values():
        for option in value.options if isinstance(value, Choice) else ():
            found |= dict.fromkeys(option.given)
    return tuple(found)


def _scalar(value: object) -> Scalar:
    if isinstance(value, Scalar):
        return value
    return "none" if value is None else json.dumps(value, default=str)


def result_facts(result: TrialResult) -> dict[str, Any]:
    """What a tracker shows of a result beside its course: score, best step, tokens and so on."""
    facts = result.to_dict()
    for key in ("config", "evaluations", "error"):
        facts.pop(key)
    best = {} if result.best is None else result.best.metrics
    # Measured at the end, when no more rows of the course are written.
    late = {name: best[name] for name in (GENERAL, FORGETTING) if name in best}
    return {**facts, **late, "state": str(result.state)}


def require_trackers(space: Space) -> None:
    """Check that the trackers that a space wants can be imported, without importing them.

    Raises:
        TrialError: one is not installed.
    """
    for word in space.tracking.chosen():
        if find_spec(word) is None:
            raise TrialError(f"tracking: {word} is not installed; pip install 'tune-lora[{word}]'")


def make_trackers(space: Space, run: RunFolder) -> list[Tracker]:
    """The trackers that a space wants; each is imported when it is first needed.

    Raises:
        TrialError: the run's ``tracking.json`` is damaged.
    """
    wanted = space.tracking.chosen()
    if not wanted:
        return []
    from .track_mlflow import MlflowTracker
    from .track_tensorboard import TensorboardTracker
    from .track_wandb import WandbTracker

    kinds = {"wandb": WandbTracker, "tensorboard": TensorboardTracker, "mlflow": MlflowTracker}
    search = Searched(run, run.name, _Books.open(run).token, searched_keys(space))
    return [kinds[word](search, **settings) for word, settings in wanted.items()]


@dataclass
class _Books:
    """What trackers have to the end, in ``tracking.json``."""

    path: Path
    token: str
    ended: dict[str, list[int]] = field(default_factory=dict)
    best: dict[str, int] = field(default_factory=dict)

    @classmethod
    def open(cls, run: RunFolder) -> _Books:
        """Those of the run, or new ones."""
        if run.tracking.is_file():
            try:
                return cls(run.tracking, **read_json(run.tracking))
            except TypeError as error:
                raise TrialError(f"{run.tracking}: is damaged: {error}") from error
        made = cls(run.tracking, uuid.uuid4().hex[:8])
        made.keep()
        return made

    def keep(self) -> None:
        write_json(self.path, {"token": self.token, "ended": self.ended, "best": self.best})


class _Tail:
    """Reads what is added to a file of JSON lines; from the start again if it was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file, self._offset = -1, 0

    def rows(self) -> Iterable[Row]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            known = self._path.stat()
            if known.st_ino != self._file or known.st_size < self._offset:
                self._file, self._offset = known.st_ino, 0
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                row = json.loads(line)
                Reached.of(row)
            except (ValueError, TypeError, KeyError):
                continue
            yield row


class _Course:
    """A trial's metrics on their way into a tracker, each once, in order."""

    def __init__(self, run: TrialRun, metrics: Path) -> None:
        self.run, self._tail, self._reached = run, _Tail(metrics), run.reached

    def go_on(self) -> None:
        fresh = []
        # A trial that is taken up at an earlier checkpoint writes the same again; an heir under
        # population based training is followed from where it was.
        for row in self._tail.rows():
            if Reached.of(row) > self._reached:
                self._reached = Reached.of(row)
                fresh.append({key: value for key, value in row.items() if value is not None})
        if fresh:
            self.run.log(fresh)


def replay(run: TrialRun, metrics: Path) -> None:
    """Log what of a trial's course a run lacks."""
    _Course(run, metrics).go_on()


class Follower:
    """Shows trials to trackers while the search runs, as a context.

    On leaving it, everything is shown that is known. Whatever a tracker does wrong is logged, and
    the trial goes on untracked; once more is tried at the end.

    Args:
        run: the search's folder.
        trackers: from ``make_trackers``.
        known: results that an earlier part of the search has left.
        seconds: between two looks.
    """

    def __init__(
        self,
        run: RunFolder,
        trackers: Sequence[Tracker],
        known: Iterable[TrialResult] = (),
        seconds: float = _SECONDS,
    ) -> None:
        self._run, self._trackers, self._seconds = run, trackers, seconds
        self._latest = {result.number: result for result in known}
        self._courses: dict[tuple[str, int], _Course] = {}
        self._given_up: set[tuple[str, int]] = set()
        self._books = _Books.open(run) if trackers else None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._main, name="tracking", daemon=True)

    def __enter__(self) -> Follower:
        if self._trackers:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._trackers:
            self._over.set()
            self._thread.join()
            self._given_up.clear()
            for tracker in self._trackers:
                self._settle(tracker)

    def update(self, result: TrialResult) -> None:
        """A trial has moved."""
        self._latest[result.number] = result

    def crown(self, result: TrialResult | None, *, over: bool) -> None:
        """Let the trackers know the best, and that there is no more.

        Args:
            result: of the best trial, if there is one.
            over: whether the search has come to its end.
        """
        for tracker in self._trackers:
            try:
                if result is not None and over:
                    self._crown(tracker, result)
                tracker.close(over=over)
            except Exception as error:
                _complain(f"{tracker.word} does not know the best trial", error)

    def _crown(self, tracker: Tracker, result: TrialResult) -> None:
        assert self._books is not None
        adapter = self._run.trial(result.number).adapter
        if self._books.best.get(tracker.word) == result.number or not adapter.is_dir():
            return
        tracker.crown(result, adapter)
        self._books.best[tracker.word] = result.number
        self._books.keep()

    def _main(self) -> None:
        while not self._over.wait(self._seconds):
            self._look()

    def _look(self) -> None:
        for tracker in self._trackers:
            for result in list(self._latest.values()):
                at = (tracker.word, result.number)
                try:
                    if at not in self._given_up:
                        self._show(tracker, result)
                except Exception as error:
                    self._given_up.add(at)
                    self._courses.pop(at, None)
                    _complain(f"{tracker.word}: {result.name} goes on untracked", error)

    def _settle(self, tracker: Tracker) -> None:
        """Show all that is left; where one fails for want of a network, so would the others."""
        for result in self._latest.values():
            try:
                self._show(tracker, result)
                course = self._courses.pop((tracker.word, result.number), None)
                if course is not None:
                    course.run.close(result)
            except Exception as error:
                _complain(f"{tracker.word} lacks {result.name}, and maybe more", error)
                return

    def _show(self, tracker: Tracker, result: TrialResult) -> None:
        assert self._books is not None
        ended = self._books.ended.setdefault(tracker.word, [])
        if result.number in ended:
            return
        at = (tracker.word, result.number)
        if at not in self._courses:
            metrics = self._run.trial(result.number).metrics
            self._courses[at] = _Course(tracker.begin(result), metrics)
        self._courses[at].go_on()
        if result.state.finished:
            self._courses.pop(at).run.close(result)
            ended.append(result.number)
            self._books.keep()


def _complain(said: str, error: Exception) -> None:
    logger.warning("tracking: %s: %s", said, reason(error))
    logger.info("tracking", exc_info=error)
