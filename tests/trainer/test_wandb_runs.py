"""The real wandb, offline: every trial is a run of its own, with its metrics, grouped by search."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_trials import EXPLODING, Outcome, make_config, stop
from tune_lora.trainer.result import TrialState
from tune_lora.trainer.tracking import (
    NoTracker,
    WandbSettings,
    WandbTracker,
    has_key,
    make_tracker,
    require_wandb,
)
from wandb_log import history, records, summary

wandb = pytest.importorskip("wandb")

Trial = Callable[..., Outcome]

ALL = {"target_modules": "all-linear"}


@pytest.fixture(scope="module", autouse=True)
def _service() -> Iterator[None]:
    yield
    wandb.teardown()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WandbSettings:
    """``auto``, in an environment without a key."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    folder = str(tmp_path / "tracked")
    return WandbSettings("tune-lora", None, "auto", "lively-search", folder)


def tracked(trial: Trial, settings: WandbSettings, *args: Any, **options: Any) -> Outcome:
    report = options.pop("report", lambda result: True)
    config = make_config(*args, **options)
    return trial(config, tracker=make_tracker(settings, config), report=report)


def test_two_trials_of_one_process_are_two_runs(trial: Trial, settings: WandbSettings) -> None:
    first = tracked(trial, settings, number=3, rungs=(2,))
    second = tracked(trial, settings, {"r": 2}, number=4, rungs=(1,), report=stop)
    runs = records(Path(settings.folder), runs=2)
    assert list(runs) == ["lively-search-trial-0003", "lively-search-trial-0004"]
    for outcome, rows in zip((first, second), runs.values(), strict=True):
        about = next(row.run for row in rows if row.HasField("run"))
        assert (about.run_group, about.project) == ("lively-search", "tune-lora")
        assert about.display_name == outcome.result.name
        for key in ("loss", "learning_rate", "eval_loss", "perplexity"):
            assert history(rows, key) == {row["step"]: row[key] for row in outcome.rows(key)}
    assert first.result.state is TrialState.COMPLETE
    assert len(history(runs["lively-search-trial-0003"], "eval_loss")) == 2
    assert len(history(runs["lively-search-trial-0004"], "loss")) == 1


def test_configuration_and_result_are_kept(trial: Trial, settings: WandbSettings) -> None:
    outcome = tracked(trial, settings, {"r": 2}, number=1, report=stop, rungs=(1,))
    (rows,) = records(Path(settings.folder)).values()
    config = {
        item.key: json.loads(item.value_json)
        for row in rows
        if row.HasField("run")
        for item in row.run.config.update
    }
    assert (config["lora"]["r"], config["train"]["learning_rate"]) == (2, 1e-2)
    kept = summary(rows)
    assert (kept["state"], kept["best_step"], kept["number"]) == ("PRUNED", 1, 1)
    assert kept["score"] == outcome.result.score
    assert kept["tokens"] == outcome.result.tokens


@pytest.mark.parametrize(("train", "code"), [({}, 0), (EXPLODING, 1)])
def test_exit_code_tells_a_failed_trial(
    trial: Trial, settings: WandbSettings, train: dict[str, Any], code: int
) -> None:
    outcome = tracked(trial, settings, ALL, **train)
    assert outcome.result.state.ranked is (code == 0)
    (rows,) = records(Path(settings.folder)).values()
    assert [row.exit.exit_code for row in rows if row.HasField("exit")] == [code]


def test_no_key_is_found_where_there_is_none(settings: WandbSettings) -> None:
    assert not has_key()


@pytest.mark.parametrize("where", ["environment", "netrc"])
def test_key_is_found(
    settings: WandbSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    else:
        text = f"machine api.wandb.ai login user password {'0' * 40}\n"
        for name in ("netrc", ".netrc"):
            (tmp_path / name).write_text(text, encoding="utf-8")
            (tmp_path / name).chmod(0o600)
    assert has_key()


def test_tracker_that_cannot_start_is_logged_and_the_trial_goes_on(
    trial: Trial, settings: WandbSettings, caplog: pytest.LogCaptureFixture
) -> None:
    Path(settings.folder).write_text("a file where the folder should be", encoding="utf-8")
    config = make_config(number=5)
    with caplog.at_level(logging.ERROR):
        tracker = make_tracker(settings, config)
    assert "trial 5 goes on untracked" in caplog.text
    assert trial(config, tracker=tracker).result.state is TrialState.COMPLETE


def test_no_tracking_without_settings() -> None:
    assert isinstance(make_tracker(None, make_config()), NoTracker)
    require_wandb()


def test_run_left_open_does_not_take_the_next_trials_metrics(settings: WandbSettings) -> None:
    trackers = [make_tracker(settings, make_config(number=number)) for number in (1, 2)]
    for loss, tracker in enumerate(trackers):
        assert isinstance(tracker, WandbTracker)
        tracker.log({"step": 1, "loss": loss})
    for tracker in trackers:
        tracker._run.finish()  # type: ignore[attr-defined]
    runs = records(Path(settings.folder), runs=2)
    assert {run: history(rows, "loss") for run, rows in runs.items()} == {
        "lively-search-trial-0001": {1: 0},
        "lively-search-trial-0002": {1: 1},
    }
