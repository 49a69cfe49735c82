"""The worker's side of Ray Tune: a process that serves one trial after another.

Kept apart from the driver's side, because Ray imports this module in every worker: Optuna, the
reports and what else the driver needs would cost each worker memory and time.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayActorError

from ..trainer.config import TrialConfig
from ..trainer.errors import DiskFullError
from ..trainer.folder import RunFolder, disk_full
from ..trainer.result import TrialResult, TrialState
from .stepped import SteppedTrial


class WorkerOutgrownError(RayActorError):  # type: ignore[misc]
    """The worker holds more than it did, and asks for a fresh process to take its trial.

    Ray starts a fresh worker for a trial of a preempted one, and counts no failure. (Where
    ``reset_config`` returns False, Ray 2.60 gives the trial up instead.)
    """

    def __init__(self, said: str) -> None:
        super().__init__(error_msg=said, preempted=True)


class TrialWorker(tune.Trainable):  # type: ignore[misc]
    """A worker process. It loads the base once and serves one trial after another.

    Attributes:
        bound: bytes by which it may outgrow what it held after its first trial; None for
            ``growth.BOUND``.
    """

    bound: int | None = None

    def setup(
        self,
        config: dict[str, Any],
        *,
        root: str,
        spec: dict[str, Any],
        tracking: dict[str, Any] | None,
        threads: int,
    ) -> None:
        """Take the first trial; nothing heavy happens before its first ``step``."""
        self._root, self._spec, self._tracking = RunFolder.open(root), spec, tracking
        self._threads = threads
        self._base: Any = None
        self._data: Any = None
        self._growth: Any = None
        self._trial = self._prepare(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial, once the one before has taken its adapter off the base."""
        self._trial.stop()
        self._trial = self._prepare(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next evaluation."""
        try:
            result = self._trial.advance()
        except DiskFullError as error:
            return {"halt": str(error), "done": True}
        return as_told(result, audit=self._audit)

    def cleanup(self) -> None:
        """Let the running trial clean up after itself."""
        self._trial.stop()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Almost nothing: a trial's checkpoint lies in the run folder already."""
        # Of an empty folder Ray makes no checkpoint, and without one it pauses no trial.
        (Path(checkpoint_dir) / "step").touch()

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see ``save_checkpoint``."""

    def _prepare(self, config: dict[str, Any]) -> SteppedTrial:
        self._audit = bool(config.get("audit"))
        trial = TrialConfig.from_dict(json.loads(config["trial"]))
        return SteppedTrial(lambda report: self._run(trial, config["score_base"], report))

    def _run(
        self, config: TrialConfig, score_base: bool, report: Callable[[TrialResult], bool]
    ) -> TrialResult:
        try:
            return self._train(config, score_base, report)
        except (DiskFullError, WorkerOutgrownError):
            raise
        except Exception as error:
            if disk_full(error, self._root.root):
                raise DiskFullError(f"{self._root.root}: the disk is full") from error
            # run_trial catches what a trial does; this is the base or the data failing to load.
            failed = TrialResult(config.number, TrialState.RUNNING, config.to_dict())
            return failed.ended(TrialState.FAILED, traceback.format_exc())

    def _train(
        self, config: TrialConfig, score_base: bool, report: Callable[[TrialResult], bool]
    ) -> TrialResult:
        # torch is first imported here, in the worker, after Ray has set CUDA_VISIBLE_DEVICES.
        import torch

        from ..trainer import base, data, run, tracking

        torch.set_num_threads(self._threads)
        self._check_growth()
        if self._base is None or self._base.spoiled:
            self._base = None
            self._base = base.load_base(base.BaseSpec.from_dict(self._spec))
        self._data = self._data or data.TokenizedData.load(self._root.data)
        # A trial that was paused begins anew, but the base has its score.
        if score_base and self._root.read_base() is None:
            batch = int(config.train["per_device_eval_batch_size"])
            self._root.write_base(run.score_base(self._base, self._data, batch))
        settings = tracking.WandbSettings(**self._tracking) if self._tracking else None
        folder = self._root.trial(config.number)
        tracker = None
        if self._audit:
            folder = folder.audit
        else:
            tracker = tracking.make_tracker(settings, config)
        return run.run_trial(config, self._base, self._data, report, folder, tracker, resume=True)

    def _check_growth(self) -> None:
        """Before every trial but the first.

        Raises:
            WorkerOutgrownError: another process had better take the trial.
        """
        from ..trainer import growth

        if self._growth is None:
            self._growth = growth.Growth(self.bound or growth.BOUND)
        elif said := self._growth.excess():
            raise WorkerOutgrownError(said)


def as_told(result: TrialResult, *, audit: bool) -> dict[str, Any]:
    """What Ray is told of a trial at an evaluation, and at its end.

    There is no ``eval_loss`` where the step was not evaluated, because the trial failed there, say:
    at that rung it has none.
    """
    told = {
        "number": result.number,
        "step": result.step,
        "baseline": result.baseline,
        "audit": audit,
        "result": json.dumps(result.to_dict()),
        "done": result.state.finished,
    }
    if result.evaluations and result.evaluations[-1].step == result.step:
        told["eval_loss"] = result.evaluations[-1].eval_loss
    return told


def from_told(told: dict[str, Any]) -> TrialResult:
    """The result in what ``as_told`` made."""
    return TrialResult.from_dict(json.loads(told["result"]))


def as_config(config: TrialConfig, *, score_base: bool = False) -> dict[str, Any]:
    """Ray's configuration of a trial: what a worker is told.

    Args:
        config: what to train.
        score_base: whether to score the untouched base first.
    """
    return {
        "trial": json.dumps(config.to_dict()),
        "number": config.number,
        "score_base": score_base,
    }
