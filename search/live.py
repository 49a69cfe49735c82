"""What is shown while a search runs: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from ..reports.formats import brief, clock, plain, printable
from ..reports.terminal import state_color
from ..spaces import Space
from ..spaces.metrics import LOSS
from ..trainer.result import TrialResult, TrialState, trial_name

_VISIBLE_ROWS = 24


class Display(Protocol):
    """Shows a search's course."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def update(self, result: TrialResult) -> None:
        """A trial has moved."""

    def note(self, number: int, text: str) -> None:
        """Something has happened to trial ``number`` that its result does not tell."""


class Progress:
    """The numbers behind both displays.

    Args:
        trials: planned.
        horizon: optimizer steps of a whole trial.
        known: what an earlier part of this search has ended.
        metric: that trials are judged by.
    """

    def __init__(
        self,
        trials: int,
        horizon: int,
        known: Mapping[int, TrialResult] | None = None,
        metric: str = LOSS,
    ) -> None:
        self.trials, self.horizon, self.metric = trials, horizon, metric
        self.results: dict[int, TrialResult] = dict(known or {})
        self._earlier = len(self.results)
        self._start = time.monotonic()

    def update(self, result: TrialResult) -> bool:
        """Take in a trial's latest result; whether nothing is new but where it runs."""
        known = self.results.get(result.number)
        self.results[result.number] = result
        if known is None or known.place == result.place:
            return False
        return replace(known, place=result.place) == result

    @property
    def best(self) -> TrialResult | None:
        """The trial with the best score so far; one that broke is in no ranking."""
        scored = [
            result
            for result in self.results.values()
            if result.score is not None and (result.state.ranked or not result.state.finished)
        ]
        return min(scored, key=lambda r: r.merit, default=None)

    @property
    def ended(self) -> int:
        """Trials that are over."""
        return sum(result.state.finished for result in self.results.values())

    @property
    def elapsed(self) -> float:
        """Seconds since the display was made."""
        return time.monotonic() - self._start

    def eta(self) -> float | None:
        """Seconds to the end: the pace of ended trials, and the part that running ones have done.

        Returns:
            None before a trial has ended: there is no pace yet.
        """
        if self.ended == self._earlier:
            return None
        done = sum(
            1.0 if result.state.finished else result.step / self.horizon
            for result in self.results.values()
        )
        return self.elapsed * max(0.0, self.trials - done) / (done - self._earlier)


def describe(config: Mapping[str, object]) -> str:
    """The four hyperparameters of a trial, short: ``r=16 alpha=32 attention lr=3.1e-04``."""
    lora, train = config.get("lora"), config.get("train")
    assert isinstance(lora, Mapping)
    assert isinstance(train, Mapping)
    rate = train.get("learning_rate")
    shown = (
        f"r={brief(lora.get('r'))}",
        f"alpha={plain(lora.get('lora_alpha'))}",
        plain(lora.get("target_modules")),
        f"lr={rate:.1e}" if isinstance(rate, float) else f"lr={brief(rate)}",
    )
    return printable(" ".join(shown))


class LiveTable:
    """A table that redraws itself on a terminal."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=2)

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def update(self, result: TrialResult) -> None:
        """A trial has moved."""
        self._progress.update(result)

    def note(self, number: int, text: str) -> None:
        """Say it above the table."""
        line = _note(self._progress, number, text)
        self._live.console.print(line, markup=False, highlight=False)

    def _table(self) -> Table:
        progress = self._progress
        table = Table(title=self._title(), title_justify="left", box=None, pad_edge=False)
        places = any(result.place for result in progress.results.values())
        for heading in ("trial", "state", *(["place"] if places else []), "configuration"):
            table.add_column(heading)
        for heading in ("step", progress.metric.replace("_", " "), "best"):
            table.add_column(heading, justify="right")
        best = progress.best
        shown = sorted(progress.results.values(), key=lambda r: r.number)[-_VISIBLE_ROWS:]
        for result in shown:
            style = "bold" if best is not None and result.number == best.number else None
            table.add_row(*self._cells(result, places=places), style=style)
        return table

    def _cells(self, result: TrialResult, *, places: bool) -> list[str]:
        color = state_color(result.state)
        last = _value(result) if result.evaluations else "-"
        score = f"{result.score:.4f}" if result.score is not None else "-"
        name = "default" if result.baseline else str(result.number)
        state = f"[{color}]{result.state}[/{color}]"
        step = f"{result.step}/{self._progress.horizon}"
        nowhere = "-" if result.state.finished else "waiting"
        place = [escape(printable(result.place or nowhere))] if places else []
        return [name, state, *place, escape(describe(result.config)), step, last, score]

    def _title(self) -> str:
        progress = self._progress
        eta = progress.eta()
        left = clock(eta) if eta is not None else "-"
        best = f"{progress.best.score:.4f}" if progress.best else "-"
        return (
            f"{progress.ended} of {progress.trials} trials ended · best {progress.metric} {best} · "
            f"{clock(progress.elapsed)} elapsed · {left} to go"
        )


class PlainLines:
    """One line an event, for logs and pipes."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress, self._console = progress, console

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    def update(self, result: TrialResult) -> None:
        """A trial has moved: say how."""
        head = f"{clock(self._progress.elapsed):>6}  {result.name}"
        moved = self._progress.update(result)
        line = (
            f"{head}  runs on   {printable(result.place or '-')}"
            if moved
            else self._line(head, result)
        )
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def note(self, number: int, text: str) -> None:
        """Say it."""
        line = _note(self._progress, number, text)
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _line(self, head: str, result: TrialResult) -> str:
        progress = self._progress
        if result.state is TrialState.RUNNING and not result.evaluations:
            kind = "  (the default configuration)" if result.baseline else ""
            return f"{head}  started   {describe(result.config)}{kind}"
        step = f"step {result.step:>3}/{progress.horizon}"
        if result.state is TrialState.RUNNING:
            loss = f"  {LOSS} {result.evaluations[-1].eval_loss:.4f}"
            besides = "" if result.metric == LOSS else loss
            return f"{head}  {step}  {result.metric} {_value(result)}{besides}"
        score = f"  {result.metric} {result.score:.4f}" if result.score is not None else ""
        best = f"  best so far {progress.best.score:.4f}" if progress.best else ""
        eta = progress.eta()
        left = f"  {clock(eta)} to go" if eta else ""
        ended = f"  {progress.ended}/{progress.trials} ended"
        return f"{head}  {step}{score}  {result.state}{best}{ended}{left}"


def _value(result: TrialResult) -> str:
    """The metric at the latest evaluation."""
    value = result.evaluations[-1].value(result.metric)
    return "-" if value is None else f"{value:.4f}"


def _note(progress: Progress, number: int, text: str) -> str:
    return f"{clock(progress.elapsed):>6}  {trial_name(number)}  {text}"


def make_display(
    space: Space, known: Mapping[int, TrialResult], console: Console
) -> LiveTable | PlainLines:
    """A live table on a terminal, plain lines otherwise; ``known`` trials have ended before."""
    progress = Progress(space.search.trials, space.rungs()[-1], known, space.search.objectives[0])
    return LiveTable(progress, console) if console.is_terminal else PlainLines(progress, console)
