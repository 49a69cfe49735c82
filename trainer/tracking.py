"""Weights & Biases: one run a trial, under its own id, grouped by search.

https://docs.wandb.ai/ref/python/init: ``group`` gathers the runs of a search, ``id`` is made of
search and trial so that no two trials ever share a run. Without a key the runs are written
offline into the run folder; ``wandb sync`` uploads them later.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from .config import TrialConfig
from .errors import TrialError
from .result import TrialResult, trial_name

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where a trial's course is shown while it runs."""

    def log(self, row: Mapping[str, Any]) -> None:
        """One training log or evaluation; ``row["step"]`` counts optimizer steps."""

    def finish(self, result: TrialResult) -> None:
        """The trial has ended."""


class NoTracker:
    """Tracks nothing."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Do nothing."""

    def finish(self, result: TrialResult) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class WandbSettings:
    """Where the runs go.

    Attributes:
        project: the wandb project.
        entity: user or team; None for the key's default.
        mode: ``online``, ``offline`` or ``auto``: online exactly if there is a key.
        group: the search's name.
        folder: where wandb writes.
    """

    project: str
    entity: str | None
    mode: Literal["auto", "online", "offline"]
    group: str
    folder: str


def require_wandb() -> None:
    """Check that wandb can be imported, before any trial.

    Raises:
        TrialError: it is not installed.
    """
    from importlib.util import find_spec

    if find_spec("wandb") is None:
        raise TrialError("tracking: wandb is not installed; pip install 'tune-lora[tracking]'")


def has_key() -> bool:
    """Whether wandb would find an API key: the environment's, or one that `wandb login` kept."""
    import wandb

    return bool(os.environ.get("WANDB_API_KEY") or wandb.setup().settings.api_key or _netrc_key())


def _netrc_key() -> bool:
    import netrc

    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


class WandbTracker:
    """One trial's wandb run."""

    def __init__(self, settings: WandbSettings, config: TrialConfig) -> None:
        import wandb

        mode = settings.mode
        if mode == "auto":
            mode = "online" if has_key() else "offline"
        Path(settings.folder).mkdir(parents=True, exist_ok=True)
        name = trial_name(config.number)
        self._run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            id=f"{settings.group}-{name}",
            name=name,
            dir=settings.folder,
            mode=mode,
            resume="allow",
            # A warm worker serves trial after trial in one process; each is a run of its own.
            reinit="create_new",
            config={"lora": dict(config.lora), "train": dict(config.train)},
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )

    def log(self, row: Mapping[str, Any]) -> None:
        """One training log or evaluation."""
        self._run.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])

    def finish(self, result: TrialResult) -> None:
        """Put score and state into the summary and close the run."""
        summary = result.to_dict()
        for key in ("config", "evaluations", "error"):
            summary.pop(key)
        self._run.summary.update({**summary, "state": str(result.state)})
        failed = not result.state.ranked
        self._run.finish(exit_code=1 if failed else 0)


def make_tracker(settings: WandbSettings | None, config: TrialConfig) -> Tracker:
    """The trial's tracker. One that cannot start is logged, never the end of a trial."""
    if settings is None:
        return NoTracker()
    try:
        return WandbTracker(settings, config)
    except Exception:
        logger.exception("wandb could not start; trial %d goes on untracked", config.number)
        return NoTracker()
