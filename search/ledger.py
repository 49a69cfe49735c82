"""What the driver does whenever a trial moves: study, result files, disk, leaderboard, watchers.

Both drivers, Ray's and the in-process one, write through this class, so that a trial is kept in
the same way whoever ran it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..reports import leaderboard, render
from ..spaces import Space
from ..trainer.config import TrialConfig
from ..trainer.folder import RunFolder
from ..trainer.result import TrialResult, TrialState
from .study import Study

Watcher = Callable[[TrialResult], None]


@dataclass
class Ledger:
    """The books of one search.

    Attributes:
        results: the latest of every trial, by number.
        closed: set when the search is being stopped: what ends after that is not an outcome of
            the trial, so it stays RUNNING in the study and a resumed search takes it up.
    """

    space: Space
    run: RunFolder
    study: Study
    watchers: list[Watcher] = field(default_factory=list)
    results: dict[int, TrialResult] = field(default_factory=dict)
    closed: bool = False

    def next_config(self) -> TrialConfig | None:
        """The next trial to run, entered as RUNNING; None when there are no more."""
        config = self.study.next_config()
        if config is not None:
            self.run.trial(config.number).clear()
            self._enter(TrialResult(config.number, TrialState.RUNNING, config.to_dict()))
        return config

    def progress(self, result: TrialResult) -> None:
        """A trial has been evaluated and goes on."""
        if not self.closed:
            self.study.report(result)
            self._enter(result)

    def ended(self, result: TrialResult) -> None:
        """A trial has come to an end; ``result.state`` says which."""
        if self.closed:
            return
        self._enter(result)
        self.study.tell(result)
        self._free_disk()
        render.write(self.run, leaderboard.build(self.run))

    def lost(self, number: int, error: str) -> None:
        """A trial's worker has died."""
        self.ended(self.results[number].ended(TrialState.LOST, error))

    def _enter(self, result: TrialResult) -> None:
        self.results[result.number] = result
        self.run.trial(result.number).write_result(result)
        for watch in self.watchers:
            watch(result)

    def _free_disk(self) -> None:
        """Drop the weights of every ended trial that is not among the best."""
        ended = [result for result in self.results.values() if result.state.finished]
        scored = [r for r in ended if r.state.ranked and r.score is not None]
        scored.sort(key=lambda result: (result.score, result.trainable_parameters, result.number))
        kept = {result.number for result in scored[: self.space.search.keep_adapters]}
        for result in ended:
            if result.number not in kept:
                self.run.trial(result.number).drop_adapter()
