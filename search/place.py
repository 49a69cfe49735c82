"""A process in which trials run: one base, one view of the data, one trial after another.

With packing, several at a time: see ``trainer.pack``. Nothing here knows Ray.
"""

from __future__ import annotations

import json
import math
import threading
import traceback
from collections.abc import Callable
from typing import Any

from ..trainer.config import TrialConfig
from ..trainer.errors import DiskFullError
from ..trainer.folder import RunFolder, disk_full, is_confirmation
from ..trainer.result import TrialResult, TrialState
from .importing import importing
from .stepped import SteppedTrial


class OutgrownError(Exception):
    """The process holds more than it did; its trial had better go to a fresh one."""


class Place:
    """Loads the base once, at the first trial, and lends it to every one.

    Attributes:
        bound: bytes by which the process may outgrow what it held after its first trial; None for
            ``growth.BOUND``.

    Args:
        root: of the run folder.
        spec: of the base, ``BaseSpec.to_dict()``.
        threads: CPU threads.
        packed: whether trials may run side by side.
    """

    bound: int | None = None

    def __init__(
        self,
        root: str,
        spec: dict[str, Any],
        threads: int,
        *,
        packed: bool = False,
    ) -> None:
        self.root, self._spec = RunFolder.open(root), spec
        self._threads, self._packed = threads, packed
        self._loading = threading.Lock()
        self._base: Any = None
        self._data: Any = None
        self._pack: Any = None
        self._growth: Any = None

    def begin(self, config: dict[str, Any]) -> Visit:
        """A trial, ready to be advanced; nothing heavy happens before.

        Args:
            config: ``trial`` (a ``TrialConfig`` as JSON), ``score_base`` (whether to score the
                untouched base first) and, for a trial of before that is trained again, ``rerun``:
                its name (see ``TrialFolder.rerun``).
        """
        return Visit(self, config)

    def run(self, config: dict[str, Any], report: Callable[[TrialResult], bool]) -> TrialResult:
        """The whole trial, in this thread."""
        trial = TrialConfig.from_dict(json.loads(config["trial"]))
        try:
            with self._loading:
                self._load()
            if self._pack is None:
                return self._train(trial, config, report, self._base)
            with self._pack.member(trial) as base:
                return self._train(trial, config, report, base)
        except (DiskFullError, OutgrownError):
            raise
        except Exception as error:
            if disk_full(error, self.root.root):
                raise DiskFullError(f"{self.root.root}: the disk is full") from error
            # run_trial catches what a trial does; this is the base or the data failing to load.
            failed = TrialResult(trial.number, TrialState.RUNNING, trial.to_dict())
            return failed.ended(TrialState.FAILED, traceback.format_exc())

    def _load(self) -> None:
        # torch is first imported here, in the worker, after Ray has set CUDA_VISIBLE_DEVICES.
        with importing():
            import torch

            from ..trainer import base, data, growth, pack, run  # noqa: F401

        torch.set_num_threads(self._threads)
        self._check_growth()
        if self._base is None or self._base.spoiled:
            self._base = None
            # The GPUs that a worker sees are its trial's alone.
            self._base = base.load_base(base.BaseSpec.from_dict(self._spec), spread=True)
            self._pack = pack.Pack(self._base) if self._packed else None
        self._data = self._data or data.TokenizedData.load(self.root.data)

    def _check_growth(self) -> None:
        """Before every trial but the first, unless trials run side by side.

        Raises:
            OutgrownError: another process had better take the trial.
        """
        from ..trainer import growth

        if self._packed:
            return
        if self._growth is None:
            self._growth = growth.Growth(self.bound or growth.BOUND)
        elif said := self._growth.excess():
            raise OutgrownError(said)

    def _train(
        self,
        trial: TrialConfig,
        config: dict[str, Any],
        report: Callable[[TrialResult], bool],
        base: Any,
    ) -> TrialResult:
        from ..trainer import run

        # A trial that was paused begins anew, but the base has its score.
        if config["score_base"] and self.root.read_base() is None:
            self.root.write_base(run.score_base(base, self._data, trial))
        folder = self.root.trial(trial.number)
        rerun = config.get("rerun")
        if rerun:
            folder = folder.rerun(rerun)
        test = is_confirmation(rerun)
        return run.run_trial(trial, base, self._data, report, folder, resume=True, test=test)


class Visit:
    """One trial at a place, from evaluation to evaluation."""

    def __init__(self, place: Place, config: dict[str, Any]) -> None:
        self._rerun: str | None = config.get("rerun")
        self._trial = SteppedTrial(lambda report: place.run(config, report))

    def advance(self) -> dict[str, Any]:
        """Train to the next evaluation; what the driver is to know of it, as plain data.

        Raises:
            OutgrownError: see ``Place``.
        """
        try:
            result = self._trial.advance()
        except DiskFullError as error:
            return {"halt": str(error), "done": True}
        return as_told(result, rerun=self._rerun)

    def stop(self) -> None:
        """Let the trial clean up after itself."""
        self._trial.stop()


def as_told(result: TrialResult, *, rerun: str | None = None) -> dict[str, Any]:
    """What the driver is told of a trial at an evaluation, and at its end.

    ``cost`` is the metric's value, turned so that less is better. There is none where the step was
    not evaluated, because the trial failed there, say: at that rung it has none.
    """
    told: dict[str, Any] = {
        "number": result.number,
        "step": result.step,
        "baseline": result.baseline,
        "rerun": rerun,
        "result": json.dumps(result.to_dict()),
        "done": result.state.finished,
    }
    if result.evaluations and result.evaluations[-1].step == result.step:
        cost = result.evaluations[-1].cost(result.metric)
        if math.isfinite(cost):
            told["cost"] = cost
    return told


def from_told(told: dict[str, Any]) -> TrialResult:
    """The result in what ``as_told`` made."""
    return TrialResult.from_dict(json.loads(told["result"]))


def as_config(
    config: TrialConfig, *, score_base: bool = False, rerun: str | None = None
) -> dict[str, Any]:
    """Ray's configuration of a trial: what a worker is told.

    Args:
        config: what to train.
        score_base: whether to score the untouched base first.
        rerun: see ``Place.begin``.
    """
    return {
        "trial": json.dumps(config.to_dict()),
        "number": config.number,
        "score_base": score_base,
        "rerun": rerun,
    }
