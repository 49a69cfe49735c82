"""MLflow: one run a search, with a nested one a trial.

https://mlflow.org/docs/latest/ml/tracking. Without an address they lie in the run folder:
``mlflow ui --backend-store-uri sqlite:///RUN/mlflow.db`` shows them (with the whole of mlflow).
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..trainer.result import TrialResult
from .tracking import Reached, Row, Searched, result_facts

_IDENTITY = "tune_lora.id"
"""The tag by which runs are found again."""


class MlflowTracker:
    """Writes through ``MlflowClient``, and so leaves the process' own active run alone.

    Args:
        search: whose trials.
        tracking_uri: server or store; None for one in the run folder.
        experiment: that the runs belong to.
        adapter: whether the best adapter becomes an artifact.
    """

    word = "mlflow"

    def __init__(
        self, search: Searched, tracking_uri: str | None, experiment: str, adapter: bool
    ) -> None:
        self._search, self._uri, self._experiment = search, tracking_uri, experiment
        self._adapter = adapter
        self._client: Any = None
        self._parent = self._place = ""

    def begin(self, result: TrialResult) -> MlflowRun:
        """Go on with the trial's run, wherever the search has left it."""
        self._connect()
        found, number = self._run(self._search.identity(result), result.name, self._parent)
        run = MlflowRun(self._client, found, self._search)
        if number == 0:
            run.describe(result)
        return run

    def crown(self, result: TrialResult, adapter: Path) -> None:
        """Name the best trial in the search's run, and keep its adapter with its own."""
        self._connect()
        found, _ = self._run(self._search.identity(result), result.name, self._parent)
        if self._adapter:
            self._client.log_artifacts(found, str(adapter), "adapter")
        self._client.set_terminated(found, "FINISHED")
        self._client.set_tag(self._parent, "best", result.name)
        self._client.log_metric(self._parent, "score", result.score)

    def close(self, *, over: bool) -> None:
        """Say so in the search's run."""
        if self._client is not None:
            self._client.set_terminated(self._parent, "FINISHED" if over else "KILLED")

    def _connect(self) -> None:
        if self._client is not None:
            return
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        for noisy in ("alembic", "mlflow"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        root = self._search.run.root
        self._client = MlflowClient(self._uri or f"sqlite:///{root / 'mlflow.db'}")
        known = self._client.get_experiment_by_name(self._experiment)
        # A server decides for itself where artifacts lie.
        artifacts = None if self._uri else (root / "mlartifacts").as_uri()
        self._place = (
            known.experiment_id
            if known
            else self._client.create_experiment(self._experiment, artifact_location=artifacts)
        )
        self._parent, _ = self._run(self._search.whole, self._search.name)

    def _run(self, identity: str, name: str, parent: str | None = None) -> tuple[str, int]:
        """The id of the run with that identity, and how many there were before (0 or 1)."""
        wanted = f"tags.`{_IDENTITY}` = '{identity}'"
        known = self._client.search_runs([self._place], wanted, max_results=1)
        if known:
            self._client.update_run(known[0].info.run_id, status="RUNNING")
            return known[0].info.run_id, 1
        tags = {_IDENTITY: identity} | ({"mlflow.parentRunId": parent} if parent else {})
        made = self._client.create_run(self._place, tags=tags, run_name=name)
        return made.info.run_id, 0


class MlflowRun:
    """One trial's run."""

    def __init__(self, client: Any, run: str, search: Searched) -> None:
        self._client, self._run, self._search = client, run, search
        trained, evaluated = self._last("loss"), self._last("eval_loss")
        self.reached = max(Reached(evaluated, True), Reached(trained, False))

    def describe(self, result: TrialResult) -> None:
        """The hyperparameters that the trial begins with."""
        from mlflow.entities import Param

        values = self._search.varied(result)
        params = [Param(name, str(value)) for name, value in values.items()]
        self._client.log_batch(self._run, params=params)

    def log(self, rows: Sequence[Row]) -> None:
        """Every number of a row is a metric."""
        self._keep([(n, v, r["step"]) for r in rows for n, v in r.items() if n != "step"])

    def close(self, result: TrialResult) -> None:
        """Numbers of the result are metrics, the rest tags; status as the trial's state."""
        facts = result_facts(result)
        numbers = {k: v for k, v in facts.items() if _is_number(v) and k not in ("number", "step")}
        self._keep([(name, value, result.step) for name, value in numbers.items()])
        for name in ("state", "stopped_early"):
            self._client.set_tag(self._run, name, str(facts[name]))
        if result.config["lineage"]:
            # MLflow takes a parameter once; population based training has changed some since.
            for name, value in self._search.varied(result).items():
                self._client.set_tag(self._run, f"last.{name}", str(value))
        ended = "FINISHED" if result.state.ranked else "FAILED"
        self._client.set_terminated(self._run, ended if result.state.finished else "KILLED")

    def _last(self, metric: str) -> int:
        known = self._client.get_metric_history(self._run, metric)
        return max((point.step for point in known), default=-1)

    def _keep(self, points: Sequence[tuple[str, Any, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(n, float(v), now, s) for n, v, s in points if _is_number(v)]
        for start in range(0, len(metrics), 1000):
            # As many as a server takes at a time.
            self._client.log_batch(self._run, metrics=metrics[start : start + 1000])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
