"""Weights & Biases: one run a trial, under its own id, grouped by search.

https://docs.wandb.ai/ref/python/init. Without a key the runs are written offline into the run
folder; ``wandb sync`` uploads them later.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ..trainer.result import TrialResult
from .tracking import Reached, Row, Searched, replay, result_facts


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
    """Opens a run for each trial.

    Args:
        search: whose trials.
        project: the wandb project.
        entity: user or team; None for the key's default.
        mode: ``auto`` is online exactly if there is a key.
        adapter: whether the best adapter becomes an artifact.
    """

    word = "wandb"

    def __init__(
        self,
        search: Searched,
        project: str,
        entity: str | None,
        mode: Literal["auto", "online", "offline"],
        adapter: bool,
    ) -> None:
        self._search, self._project, self._entity = search, project, entity
        self._mode, self._adapter = mode, adapter

    def begin(self, result: TrialResult) -> WandbRun:
        """Go on with the trial's run."""
        import wandb

        logging.getLogger("wandb").setLevel(logging.ERROR)
        if self._mode == "auto":
            self._mode = "online" if has_key() else "offline"
        root, identity = self._search.run.root, self._search.identity(result)
        # wandb cannot go on with a run offline: the new log has all of it, and replaces the old.
        earlier = [*root.glob(f"wandb/offline-run-*-{identity}")]
        while any(time.strftime("run-%Y%m%d_%H%M%S-") in path.name for path in earlier):
            # wandb names the folder by the second.
            time.sleep(0.1)
        run = wandb.init(
            project=self._project,
            entity=self._entity,
            group=self._search.name,
            job_type="trial",
            tags=["default"] if result.baseline else None,
            id=identity,
            name=result.name,
            dir=str(root),
            mode=self._mode,
            resume=None if self._mode == "offline" else "allow",
            # Several trials are open at a time; each is a run of its own.
            reinit="create_new",
            config=self._config(result),
            settings=wandb.Settings(
                silent=True,
                console="off",
                x_disable_stats=True,
                # Command line, host and source code are nothing that was asked for.
                x_disable_meta=True,
                disable_git=True,
                disable_code=True,
                x_save_requirements=False,
            ),
        )
        return WandbRun(run, self._config, earlier)

    def crown(self, result: TrialResult, adapter: Path) -> None:
        """Keep the best adapter as an artifact of its trial's run."""
        if not self._adapter:
            return
        import wandb

        run = self.begin(result)
        replay(run, self._search.run.trial(result.number).metrics)
        facts = {"trial": result.name, "score": result.score, "step": result.best_step}
        artifact = wandb.Artifact(f"{self._search.name}-adapter", "model", metadata=facts)
        for path in sorted(adapter.iterdir()):
            # From where it lies, without a copy in the user's home.
            artifact.add_file(str(path), policy="immutable")
        run.keep(artifact)
        run.close(result)

    def close(self, *, over: bool) -> None:
        """Every run is closed already."""

    def _config(self, result: TrialResult) -> dict[str, Any]:
        # Whole, and what was searched once more at the top, where W&B's parallel coordinates,
        # scatter plots and parameter importance look for it.
        whole = {"lora": dict(result.config["lora"]), "train": dict(result.config["train"])}
        return {**whole, **self._search.varied(result)}


class WandbRun:
    """One trial's run."""

    def __init__(self, run: Any, config: Any, earlier: Sequence[Path]) -> None:
        self._run, self._config, self._earlier = run, config, earlier
        # Of a run that is resumed, the first step that is not there yet.
        self.reached = Reached(run.starting_step - 1)

    def log(self, rows: Sequence[Row]) -> None:
        """Log each at its optimizer step."""
        for row in rows:
            self._run.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])

    def keep(self, artifact: Any) -> None:
        """Log an artifact of this run."""
        self._run.log_artifact(artifact, aliases=["best"])

    def close(self, result: TrialResult) -> None:
        """Put score and state into the summary and close the run."""
        # Population based training changes it on the way.
        self._run.config.update(self._config(result), allow_val_change=True)
        self._run.summary.update(result_facts(result))
        if not result.state.finished:
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if result.state.ranked else 1)
        for folder in self._earlier:
            shutil.rmtree(folder, ignore_errors=True)
