"""The real wandb, offline: every trial is a run of its own, whole, grouped by search."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from followed import VARIED, course, follow, new_run, reached, trackers, with_adapter
from tune_lora.search.track_wandb import has_key
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialState
from wandb_log import history, records, summary

wandb = pytest.importorskip("wandb")


@pytest.fixture(scope="module", autouse=True)
def _service() -> Iterator[None]:
    yield
    wandb.teardown()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """``auto``, in an environment without a key."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    return new_run(tmp_path / "lively-search", "wandb")


def of_trial(found: dict[str, list[Any]], number: int) -> list[Any]:
    (rows,) = (rows for name, rows in found.items() if name.endswith(f"-trial-{number:04d}"))
    return rows


def configured(rows: list[Any]) -> dict[str, Any]:
    found = {}
    for row in rows:
        config = row.run.config if row.HasField("run") else row.config
        found |= {item.key: json.loads(item.value_json) for item in config.update}
    return found


def exit_codes(rows: list[Any]) -> list[int]:
    return [row.exit.exit_code for row in rows if row.HasField("exit")]


def test_trials_of_one_search_are_a_group_of_runs(run: RunFolder) -> None:
    follow(run, reached(run, 3, 8, TrialState.COMPLETE), reached(run, 4, 2, TrialState.PRUNED))
    found = records(run.root, runs=2)
    for number, steps in ((3, 8), (4, 2)):
        rows = of_trial(found, number)
        about = next(row.run for row in rows if row.HasField("run"))
        assert (about.run_group, about.job_type) == ("lively-search", "trial")
        assert (about.project, about.display_name) == ("tune-lora", f"trial-000{number}")
        for key in ("loss", "learning_rate", "eval_loss"):
            assert history(rows, key) == course(number, key, steps)


def test_configuration_and_result_are_kept(run: RunFolder) -> None:
    result = reached(run, 1, 4, TrialState.PRUNED)
    follow(run, result)
    rows = of_trial(records(run.root), 1)
    config, kept = configured(rows), summary(rows)
    assert config["lora"] == result.config["lora"]
    assert config["train"]["max_steps"] == 8
    assert {name: config[name] for name in VARIED} == VARIED
    assert (kept["state"], kept["best_step"], kept["number"]) == ("PRUNED", 4, 1)
    assert (kept["score"], kept["tokens"]) == (result.score, 400)


@pytest.mark.parametrize(("state", "code"), [(TrialState.PRUNED, 0), (TrialState.DIVERGED, 1)])
def test_exit_code_tells_a_failed_trial(run: RunFolder, state: TrialState, code: int) -> None:
    follow(run, reached(run, 0, 4, state))
    assert exit_codes(of_trial(records(run.root), 0)) == [code]


def test_interrupted_trial_is_left_to_be_gone_on_with(run: RunFolder) -> None:
    follow(run, reached(run, 0, 3))
    rows = of_trial(records(run.root), 0)
    assert any(row.HasField("preempting") for row in rows)
    assert summary(rows)["state"] == "RUNNING"
    assert exit_codes(rows) == [1]


def test_trial_that_is_taken_up_again_is_one_run_with_each_step_once(run: RunFolder) -> None:
    follow(run, reached(run, 0, 5))
    (before,) = records(run.root)
    follow(run, reached(run, 0, 8, TrialState.COMPLETE))
    found = records(run.root)
    assert [*found] == [before]
    rows = of_trial(found, 0)
    assert [*history(rows, "loss").items()] == [*course(0, "loss", 8).items()]
    assert summary(rows)["state"] == "COMPLETE"
    assert exit_codes(rows) == [0]
    assert len([*run.root.glob("wandb/offline-run-*")]) == 1


def test_best_adapter_is_an_artifact_of_its_trials_run(run: RunFolder) -> None:
    best, other = (reached(run, n, 8, TrialState.COMPLETE) for n in (0, 1))
    adapter = with_adapter(run, 0)
    follow(run, best, other, best=best)
    found = records(run.root, runs=2)
    rows = of_trial(found, 0)
    (artifact,) = (row.artifact for row in rows if row.HasField("artifact"))
    assert not [row for row in of_trial(found, 1) if row.HasField("artifact")]
    assert (artifact.name, artifact.type) == ("lively-search-adapter", "model")
    assert json.loads(artifact.metadata) == {"trial": "trial-0000", "score": best.score, "step": 8}
    assert {Path(file.local_path) for file in artifact.manifest.contents} == {*adapter.iterdir()}
    assert history(rows, "loss") == course(0, "loss", 8)
    assert summary(rows)["state"] == "COMPLETE"
    assert exit_codes(rows) == [0]


def test_adapter_stays_where_that_is_wanted(run: RunFolder) -> None:
    run = new_run(run.root, "{wandb: {adapter: false}}")
    best = reached(run, 0, 8, TrialState.COMPLETE)
    with_adapter(run, 0)
    follow(run, best, best=best)
    rows = of_trial(records(run.root), 0)
    assert not [row for row in rows if row.HasField("artifact")]


def test_online_run_is_resumed_after_the_step_that_it_has(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    class Service:
        starting_step = 4

        def log(self, row: dict[str, Any], step: int) -> None:
            asked.append({"step": step, **row})

    def init(**given: Any) -> Service:
        asked.append(given)
        return Service()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    (tracker,) = trackers(run)
    result = reached(run, 0, 6)
    assert tracker.begin(result).reached == (3, True)
    assert (asked[0]["mode"], asked[0]["resume"]) == ("online", "allow")
    assert asked[0]["id"] == tracker._search.identity(result)  # type: ignore[attr-defined]


def test_no_key_is_found_where_there_is_none(run: RunFolder) -> None:
    assert not has_key()


@pytest.mark.parametrize("where", ["environment", "netrc"])
@pytest.mark.usefixtures("run")
def test_key_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    if where == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    else:
        text = f"machine api.wandb.ai login user password {'0' * 40}\n"
        for name in ("netrc", ".netrc"):
            (tmp_path / name).write_text(text, encoding="utf-8")
            (tmp_path / name).chmod(0o600)
    assert has_key()


def test_tracker_that_cannot_start_is_said_and_ends_nothing(
    run: RunFolder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: Any) -> Callable[[], None]:
        raise OSError("no disk for a log")

    monkeypatch.setattr(wandb, "init", broken)
    follow(run, reached(run, 5, 2))
    assert "wandb lacks trial-0005, and maybe more: no disk for a log" in caplog.text
