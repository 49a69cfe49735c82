"""TensorBoard: a folder of event files a trial, with its hyperparameters.

https://pytorch.org/docs/stable/tensorboard.html; ``tensorboard --logdir RUN/tensorboard`` shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..trainer.result import TrialResult
from .tracking import Reached, Row, Scalar, Searched


class TensorboardTracker:
    """Writes below the run folder.

    Args:
        search: whose trials.
    """

    word = "tensorboard"

    def __init__(self, search: Searched) -> None:
        self._search = search

    def begin(self, result: TrialResult) -> TensorboardRun:
        """Go on in the trial's folder."""
        return TensorboardRun(self._search.run.tensorboard / result.name, self._search)

    def crown(self, result: TrialResult, adapter: Path) -> None:
        """Nothing: there is no place for a best trial, and its files are in the run folder."""

    def close(self, *, over: bool) -> None:
        """Nothing is open."""


class TensorboardRun:
    """One trial's event file.

    A trial that is taken up again gets a new one with all of its course in place of the old: what a
    kill left of that, and in which order TensorBoard reads several, need then not matter.
    """

    reached = Reached()

    def __init__(self, folder: Path, search: Searched) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._search = search
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        # A TensorBoard that looks on forgets what it had read.
        self._writer: Any = SummaryWriter(str(folder), purge_step=0)

    def log(self, rows: Sequence[Row]) -> None:
        """Every number of a row is a curve."""
        for row in rows:
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float):
                    self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()

    def close(self, result: TrialResult) -> None:
        """Hyperparameters and score of a trial that has ended, for TensorBoard's HParams page."""
        if result.state.finished:
            self._describe(result)
        self._writer.close()

    def _describe(self, result: TrialResult) -> None:
        from torch.utils.tensorboard.summary import hparams

        varied: dict[str, Scalar] = {**self._search.varied(result), "state": str(result.state)}
        score = {} if result.score is None else {"hparam/score": result.score}
        # SummaryWriter.add_hparams does this in a file of its own.
        for summary in hparams(varied, score):  # type: ignore[no-untyped-call]
            self._writer.file_writer.add_summary(summary)
        for name, value in score.items():
            self._writer.add_scalar(name, value, result.best_step)
