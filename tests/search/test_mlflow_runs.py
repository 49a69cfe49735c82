"""The real mlflow, on a store in the run folder: its own client reads back what was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from followed import VARIED, course, follow, new_run, reached, with_adapter
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialResult, TrialState

mlflow = pytest.importorskip("mlflow")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return new_run(tmp_path / "lively-search", "{mlflow: {experiment: orders}}")


def stored(run: RunFolder, uri: str | None = None) -> tuple[Any, dict[str, Any]]:
    """A client, and every run by its name."""
    client = mlflow.MlflowClient(uri or f"sqlite:///{run.root / 'mlflow.db'}")
    place = client.get_experiment_by_name("orders").experiment_id
    runs = client.search_runs([place])
    found = {entry.info.run_name: entry for entry in runs}
    assert len(found) == len(runs)
    return client, found


def curve(client: Any, entry: Any, key: str) -> dict[int, float]:
    points = client.get_metric_history(entry.info.run_id, key)
    assert len({point.step for point in points}) == len(points)
    return {point.step: point.value for point in sorted(points, key=lambda p: p.step)}


def test_a_run_a_search_and_nested_ones_of_its_trials(run: RunFolder) -> None:
    best = reached(run, 3, 8, TrialState.COMPLETE)
    follow(run, best, reached(run, 4, 2, TrialState.PRUNED), best=best)
    client, found = stored(run)
    assert found.keys() == {"lively-search", "trial-0003", "trial-0004"}
    parent = found.pop("lively-search")
    assert parent.info.status == "FINISHED"
    for entry, number, steps in ((found["trial-0003"], 3, 8), (found["trial-0004"], 4, 2)):
        assert entry.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert entry.data.params == {name: str(value) for name, value in VARIED.items()}
        for key in ("loss", "eval_loss"):
            assert curve(client, entry, key) == course(number, key, steps)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (TrialState.COMPLETE, "FINISHED"),
        (TrialState.PRUNED, "FINISHED"),
        (TrialState.LOST, "FAILED"),
        (TrialState.RUNNING, "KILLED"),
    ],
)
def test_status_and_summary(run: RunFolder, state: TrialState, status: str) -> None:
    result = reached(run, 0, 4, state, tokens_per_second=None, gpu_utilization=float("nan"))
    follow(run, result)
    entry = stored(run)[1]["trial-0000"]
    assert (entry.info.status, entry.data.tags["state"]) == (status, str(state))
    assert entry.data.metrics["score"] == result.score
    assert entry.data.metrics["tokens"] == 400
    assert "tokens_per_second" not in entry.data.metrics
    assert "gpu_utilization" not in entry.data.metrics


def test_trial_that_is_taken_up_again_is_the_same_run(run: RunFolder) -> None:
    follow(run, reached(run, 0, 5))
    before = stored(run)[1]
    follow(run, reached(run, 0, 8, TrialState.COMPLETE))
    client, after = stored(run)
    assert {n: e.info.run_id for n, e in before.items()} == {
        n: e.info.run_id for n, e in after.items()
    }
    assert before["lively-search"].info.status == "KILLED"
    entry = after["trial-0000"]
    assert entry.info.status == "FINISHED"
    assert curve(client, entry, "loss") == course(0, "loss", 8)
    assert curve(client, entry, "eval_loss") == course(0, "eval_loss", 8)


def test_best_adapter_is_an_artifact_of_its_trials_run(run: RunFolder) -> None:
    best, other = (reached(run, n, 8, TrialState.COMPLETE) for n in (0, 1))
    with_adapter(run, 0)
    follow(run, best, other, best=best)
    client, found = stored(run)
    names = {file.path for file in client.list_artifacts(_id(found["trial-0000"]), "adapter")}
    assert names == {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    assert client.list_artifacts(_id(found["trial-0001"])) == []
    parent = found["lively-search"]
    assert (parent.data.tags["best"], parent.data.metrics["score"]) == ("trial-0000", best.score)
    assert found["trial-0000"].info.status == "FINISHED"


def _id(entry: Any) -> str:
    return str(entry.info.run_id)


def test_store_of_ones_own_takes_several_searches(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'all.db'}"
    tracking = f"{{mlflow: {{experiment: orders, tracking_uri: '{uri}'}}}}"
    runs = [new_run(tmp_path / name, tracking) for name in ("first", "second")]
    for run in runs:
        # An artifact store beside the working directory is the default of such a store.
        follow(run, reached(run, 0, 2, TrialState.PRUNED))
        assert not (run.root / "mlflow.db").exists()
    client = mlflow.MlflowClient(uri)
    place = client.get_experiment_by_name("orders").experiment_id
    names = sorted(entry.info.run_name for entry in client.search_runs([place]))
    assert names == ["first", "second", "trial-0000", "trial-0000"]


def test_what_population_based_training_changed_is_said(run: RunFolder) -> None:
    follow(run, reached(run, 0, 4))
    heir: TrialResult = reached(run, 0, 8, TrialState.COMPLETE)
    changed = {"lora": heir.config["lora"], "train": {"learning_rate": 0.02, "max_steps": 8}}
    link = {"trial": 1, "step": 4, "params": {"train.learning_rate": 0.01}}
    follow(run, replace(heir, config={**changed, "lineage": [link]}))
    data = stored(run)[1]["trial-0000"].data
    assert (data.params["learning_rate"], data.tags["last.learning_rate"]) == ("0.01", "0.02")
