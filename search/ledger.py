"""What the driver does whenever a trial moves: study, result files, disk, leaderboard, watchers.

Both drivers, Ray's and the in-process one, write through this class, so that a trial is kept in
the same way whoever ran it.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product

from optuna.exceptions import StorageInternalError

from ..reports import leaderboard, render
from ..reports.pareto import fronts_of
from ..spaces import Space
from ..trainer.config import TrialConfig
from ..trainer.errors import TrialError, reason
from ..trainer.folder import AUDIT, RunFolder, TrialFolder, confirmation, read_json
from ..trainer.inherit import bequeath
from ..trainer.result import TrialResult, TrialState
from .bounds import MemoryBounds
from .confirm import finalists, fresh_seeds, on_seed
from .study import Study

_PAUSE = 20
"""Times as long as the leaderboard took to write does it stay as it is."""

Watcher = Callable[[TrialResult], None]


@dataclass
class Ledger:
    """The books of one search.

    Attributes:
        results: the latest of every trial, by number.
        closed: set when the search is being stopped: what ends after that is not an outcome of
            the trial, so it stays RUNNING in the study and a resumed search takes it up.
        audits: how many stopped trials to finish once all others have ended.
        memory: knows which configurations need no less memory than one that had too little.
        note: told of a trial (its number) what its result does not say.
        halted: why the books can no longer be kept (a full disk, say); it closes them too.
    """

    space: Space
    run: RunFolder
    study: Study
    watchers: list[Watcher] = field(default_factory=list)
    results: dict[int, TrialResult] = field(default_factory=dict)
    closed: bool = False
    audits: int = 0
    memory: MemoryBounds = field(default_factory=MemoryBounds)
    note: Callable[[int, str], None] = lambda number, text: None
    halted: str | None = None
    _rerunning: set[tuple[int, str]] = field(default_factory=set)
    _finalists: tuple[int, ...] | None = None
    _next_board: float = 0.0
    _weighty: dict[int, TrialResult] = field(default_factory=dict)

    def restore(self) -> None:
        """Take in what an earlier part of this search has left.

        The study is the truth about which trials exist. A trial whose end reached its folder but
        not the study is told now; one whose folder was damaged is written again from the study.
        """
        for number in self.study.numbers():
            told, kept = self.study.result(number), _read(self.run.trial(number))
            if told is None and kept is not None and kept.state.finished:
                self.study.tell(kept)
                told = kept
            config = self.study.config(number)
            running = kept or TrialResult(number, TrialState.RUNNING, config.to_dict())
            self._enter(told or running)
        self._free_disk(*(result for result in self.results.values() if result.state.finished))

    def next_config(self) -> TrialConfig | None:
        """The next trial to run, entered as RUNNING; None when there are no more.

        One that needs more memory than there was for a trial before it begins with that trial's
        micro-batch; where even a single row was too much, it has come to its end already.
        """
        with self.keeping():
            while not self.closed and (config := self.study.next_config()) is not None:
                if config.number not in self.results:
                    self.run.trial(config.number).clear()
                    self._enter(TrialResult(config.number, TrialState.RUNNING, config.to_dict()))
                bound = self.memory.bound(config, self.results.values())
                if bound is None:
                    return config
                if bound.micro_batch is not None:
                    return replace(config, micro_batch=bound.micro_batch)
                known = self.results[config.number]
                self.ended(known.ended(TrialState.OUT_OF_MEMORY, bound.reason))
        return None

    @property
    def reruns(self) -> bool:
        """Whether trials are to be trained again once all have ended."""
        return self.audits > 0 or self.space.search.confirm is not None

    def next_rerun(self) -> tuple[TrialConfig, str] | None:
        """A trial to train again, and the rerun's name; None when there are no more.

        First stopped trials that are to be finished, then the best on fresh seeds.
        """
        if self.closed:
            return None
        config = self._next_audit()
        return (config, AUDIT) if config is not None else self._next_confirmation()

    def reran(self, result: TrialResult, rerun: str) -> None:
        """A trial has been trained again; its own result stays what it was."""
        if self.closed:
            return
        with self.keeping():
            folder = self.run.trial(result.number).rerun(rerun)
            folder.write_result(result)
            folder.drop_adapter()
            folder.drop_checkpoint()
            self.note(result.number, _said(result, rerun))

    def _next_confirmation(self) -> tuple[TrialConfig, str] | None:
        wanted = self.space.search.confirm
        if wanted is None:
            return None
        if self._finalists is None:
            rows = leaderboard.build(self.run).rows
            self._finalists = finalists(rows, wanted.top)
        seeds = fresh_seeds(self.results.values(), wanted.seeds)
        for seed, number in product(seeds, self._finalists):
            name = confirmation(seed)
            at = (number, name)
            if at in self._rerunning or _read(self.run.trial(number).rerun(name)) is not None:
                continue
            self._rerunning.add(at)
            self.note(number, f"is trained again on seed {seed}")
            return on_seed(self.results[number], seed), name
        return None

    def _next_audit(self) -> TrialConfig | None:
        """A stopped trial to finish, chosen at random by the search's seed; None when done."""
        done = self.run.audits()
        stopped = [n for n, r in sorted(self.results.items()) if r.state is TrialState.PRUNED]
        wanted = min(self.audits, len(stopped))
        chosen = random.Random(self.space.search.seed).sample(stopped, wanted)
        for number in chosen:
            if number not in done and (number, AUDIT) not in self._rerunning:
                self._rerunning.add((number, AUDIT))
                return self.study.config(number)
        return None

    @property
    def running(self) -> bool:
        """Whether some trial has not ended."""
        return any(not result.state.finished for result in self.results.values())

    def inherit(
        self, heir: int, parent: int, make: Callable[[TrialResult], TrialConfig]
    ) -> TrialConfig | None:
        """A trial takes over what another has; see ``trainer.inherit``.

        Args:
            heir: its number; it does not run on until this is done.
            parent: number of the other.
            make: the heir's new configuration, given the parent's result at that moment.

        Returns:
            The new configuration; None where there is nothing to be taken over just now.
        """
        if self.closed:
            return None
        with self.keeping():
            result = bequeath(self.run.trial(parent), self.run.trial(heir), make)
            if result is None:
                return None
            config = TrialConfig.from_dict(result.config)
            self.study.replace(config)
            self._enter(result)
            return config
        return None

    def placed(self, number: int, place: str) -> None:
        """A trial has come to run at ``place``, for the first time or anew."""
        if not self.closed:
            with self.keeping():
                self._enter(replace(self.results[number], place=place))

    def progress(self, result: TrialResult) -> None:
        """A trial has been evaluated and goes on."""
        known = self.results.get(result.number)
        if known == result:
            return
        if known is not None and len(known.config["lineage"]) > len(result.config["lineage"]):
            # It has taken over another's state since.
            return
        if not self.closed:
            with self.keeping():
                self.study.report(result)
                self._enter(result)

    def ended(self, result: TrialResult) -> None:
        """A trial has come to an end; ``result.state`` says which."""
        if self.closed:
            return
        with self.keeping():
            self._enter(result)
            self.study.tell(result)
            self._free_disk(result)
            self._publish()

    def _publish(self) -> None:
        """Write the leaderboard, unless that would come to take a large part of the time.

        It takes longer the more trials there are. The search writes it once more at its end.
        """
        start = time.monotonic()
        if start < self._next_board:
            return
        render.write(self.run, leaderboard.build(self.run))
        self._next_board = time.monotonic() + _PAUSE * (time.monotonic() - start)

    def lost(self, number: int, error: str) -> None:
        """A trial's worker has died, once more than is forgiven."""
        self.ended(self.results[number].ended(TrialState.LOST, error))

    def halt(self, reason: str) -> None:
        """Close the books: nothing that happens from now on counts."""
        self.halted = self.halted or reason
        self.closed = True

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Writing that fails halts the search; what was written before stays good."""
        try:
            yield
        except (OSError, StorageInternalError) as error:
            self.halt(f"the run folder cannot be written: {reason(error)}")

    def _enter(self, result: TrialResult) -> None:
        self.results[result.number] = result
        self.run.trial(result.number).write_result(result)
        for watch in self.watchers:
            watch(result)

    def _free_disk(self, *ended: TrialResult) -> None:
        """Drop the weights of ended trials that are not among the best."""
        self._weighty |= {result.number: result for result in ended}
        scored = [r for r in self._weighty.values() if r.state.ranked and r.score is not None]
        tiers = fronts_of(self.results.values())
        scored.sort(
            key=lambda r: (tiers.get(r.number, math.inf), r.merit, r.trainable_parameters, r.number)
        )
        kept = {result.number for result in scored[: self.space.search.keep_adapters]}
        for result in ended:
            self.run.trial(result.number).drop_checkpoint()
        for number in self._weighty.keys() - kept:
            self.run.trial(number).drop_adapter()
            del self._weighty[number]


def _said(result: TrialResult, rerun: str) -> str:
    score = "" if result.score is None else f"  {result.metric} {result.score:.4f}"
    test = "" if result.test_score is None else f"  test {result.test_score:.4f}"
    return f"{rerun.replace('/', ' on seed ')}: {result.state}{score}{test}"


def _read(folder: TrialFolder) -> TrialResult | None:
    try:
        return TrialResult.from_dict(read_json(folder.result))
    except (TrialError, KeyError, TypeError, ValueError, AttributeError):
        return None
