"""A search under Ray with population based training, whole and killed in the middle."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState as OptunaState
from outcomes import read_back
from ray_searches import TinySearch, killed_and_resumed, ray_search
from tune_lora.reports import build
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialResult, TrialState

TRIALS = 6
SEARCH = {"trials": TRIALS, "scheduler": {"pbt": {"interval_steps": 2, "quantile": 0.34}}}


@pytest.fixture(scope="module", params=["whole", pytest.param("killed", marks=pytest.mark.slow)])
def run(
    request: pytest.FixtureRequest,
    tiny: Callable[..., Path],
    pairs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunFolder]:
    """Once in this process; once from the command line, its driver killed once some trial has
    taken over another's state, and resumed."""
    tiny_search = TinySearch(tmp_path_factory.mktemp("pbt"), tiny(), pairs, SEARCH)
    if request.param == "whole":
        yield ray_search(tiny_search)
    else:
        yield killed_and_resumed(tiny_search, _someone_has_taken_over)


def _someone_has_taken_over(run: RunFolder) -> bool:
    return any(result.config["lineage"] for result in run.results())


@pytest.fixture(scope="module")
def results(run: RunFolder) -> list[TrialResult]:
    return list(run.results())


def heirs(results: list[TrialResult]) -> list[TrialResult]:
    return [result for result in results if result.config["lineage"]]


def test_every_trial_comes_to_the_horizon_once(run: RunFolder, results: list[TrialResult]) -> None:
    assert [result.number for result in results] == list(range(TRIALS))
    assert {result.state for result in results} == {TrialState.COMPLETE}, [
        result.error for result in results
    ]
    for result in results:
        assert [evaluation.step for evaluation in result.evaluations] == [2, 4, 6, 8]
        lines = run.trial(result.number).metrics.read_text("utf-8").splitlines()
        steps = [row["step"] for row in map(json.loads, lines) if "loss" in row]
        assert steps == list(range(1, 9)), result.number
    board = build(run)
    assert sorted(row.trial for row in board.rows if row.trial is not None) == list(range(TRIALS))


def test_some_took_over_and_the_baseline_had_no_part(results: list[TrialResult]) -> None:
    baseline, *others = results
    assert baseline.baseline
    assert not heirs([baseline])
    assert heirs(others)
    for heir in heirs(others):
        for link in heir.config["lineage"]:
            assert link["trial"] not in (baseline.number, heir.number)
            assert link["step"] in (2, 4, 6)


def test_an_heir_has_the_course_of_the_trials_it_descends_from(
    run: RunFolder, results: list[TrialResult]
) -> None:
    """Up to the step at which it took over each learning rate is the other's, then its own."""
    wave = {step: 0.5 * (1 + math.cos(math.pi * (step - 1) / 8)) for step in range(1, 9)}
    for heir in heirs(results):
        wanted, after = {}, 0
        for link in heir.config["lineage"]:
            rate = link["params"]["train.learning_rate"]
            wanted |= {step: rate * wave[step] for step in range(after + 1, link["step"] + 1)}
            after = link["step"]
        rate = heir.config["train"]["learning_rate"]
        wanted |= {step: rate * wave[step] for step in range(after + 1, 9)}
        assert _rates(run, heir.number) == pytest.approx(wanted, rel=1e-6)


def _rates(run: RunFolder, number: int) -> dict[int, float]:
    lines = run.trial(number).metrics.read_text("utf-8").splitlines()
    rows = map(json.loads, lines)
    return {row["step"]: row["learning_rate"] for row in rows if "learning_rate" in row}


def test_the_study_is_told_what_its_parameters_have_led_to(
    run: RunFolder, results: list[TrialResult]
) -> None:
    told = read_back(run)
    assert len(told) == TRIALS
    for result, trial in zip(results, told, strict=True):
        seen = trial.intermediate_values
        if result.config["lineage"]:
            assert trial.state is OptunaState.PRUNED
            # When it gave up its own weights; the other may have been further, or less far.
            assert list(seen) == [s for s in (2, 4, 6) if s <= max(seen)]
            assert trial.params != result.config["params"]
        else:
            assert trial.state is OptunaState.COMPLETE
            assert trial.value == result.score
            assert seen == {e.step: e.eval_loss for e in result.evaluations}
            assert trial.params == result.config["params"]


def test_the_leaderboard_shows_what_the_kept_adapters_are(run: RunFolder) -> None:
    with run.leaderboard("csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] != "base"]
    kept = 0
    for row in rows:
        folder = run.trial(int(row["trial"]))
        if folder.adapter.is_dir():
            kept += 1
            config: dict[str, Any] = json.loads(
                (folder.adapter / "adapter_config.json").read_text("utf-8")
            )
            assert row["r"] == str(config["r"])
            assert row["lora_alpha"] == str(config["lora_alpha"])
    assert kept == 3
    left = {path.name for n in range(TRIALS) for path in run.trial(n).root.iterdir()}
    assert left == {"adapter", "metrics.jsonl", "result.json"}


def test_the_markdown_names_the_lineage(run: RunFolder, results: list[TrialResult]) -> None:
    text = run.leaderboard("md").read_text("utf-8")
    section = text.split("## Population based training")[1]
    for heir in heirs(results):
        for link in heir.config["lineage"]:
            assert f"| {heir.name} | {link['step']} | trial-{link['trial']:04d} |" in section
    count = len(heirs(results))
    assert f"{count} trial{'s' if count > 1 else ''} took over" in text.replace("\n", " ")
