"""The run folder: where things are, which results it holds and in what order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.folder import RunFolder, TrialFolder, write_text
from tune_lora.trainer.result import BaseScore, Evaluation, TrialResult, TrialState


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    write_text(tmp_path / "run" / "space.yaml", "model: {name: m}\n")
    return RunFolder.open(tmp_path / "run")


def _result(number: int) -> TrialResult:
    evaluations = (Evaluation(1, 2.5, 0.5), Evaluation(3, 2.0 + number, 1.5))
    config = {"number": number, "baseline": False}
    return TrialResult(number, TrialState.COMPLETE, config, 2.0, 3, 3, evaluations)


def test_no_run_without_a_space(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for path in (tmp_path / "run", tmp_path / "none"):
        with pytest.raises(TrialError, match="no run folder"):
            RunFolder.open(path)


def test_open_makes_the_path_absolute(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.root.parent)
    assert RunFolder.open("run") == run
    assert run.name == "run"
    monkeypatch.setenv("HOME", str(run.root.parent))
    assert RunFolder.open("~/run") == run


def test_no_two_things_share_a_path(run: RunFolder) -> None:
    trial = run.trial(7)
    paths = [
        *(run.space, run.about, run.study, run.base, run.data, run.ray, run.trials),
        *(run.leaderboard(suffix) for suffix in ("csv", "json", "md")),
        *(trial.root, trial.metrics, trial.result, trial.adapter, trial.scratch),
    ]
    assert len(set(paths)) == len(paths)
    assert all(run.root in path.parents for path in paths)
    assert trial.root == run.root / "trials" / "0007"


def test_results_come_by_number(run: RunFolder) -> None:
    numbers = [10, 2, 0, 9999, 10_000]
    for number in numbers:
        run.trial(number).write_result(_result(number))
    run.trial(5).append_metrics({"step": 1})  # a trial without a result yet
    assert list(run.results()) == [_result(number) for number in sorted(numbers)]


def test_a_result_is_replaced(run: RunFolder) -> None:
    trial = run.trial(0)
    trial.write_result(_result(0))
    trial.write_result(_result(0).ended(TrialState.FAILED, "boom"))
    (found,) = run.results()
    assert (found.state, found.error) == (TrialState.FAILED, "boom")


def test_a_corrupt_result_is_told(run: RunFolder) -> None:
    run.trial(0).write_result(_result(0))
    run.trial(1).root.mkdir()
    run.trial(1).result.write_text('{"number": 1, "sta')
    with pytest.raises(TrialError, match=r"0001.result\.json"):
        list(run.results())


def test_a_run_without_trials(run: RunFolder) -> None:
    assert list(run.results()) == []
    assert run.read_base() is None
    with pytest.raises(TrialError, match=r"run\.json"):
        run.read_about()


def test_the_base_score_and_what_is_known_of_the_run(run: RunFolder) -> None:
    score = BaseScore(3.8125, 40, 311, 0.25)
    run.write_base(score)
    assert run.read_base() == score
    run.about.write_text('{"command": "x"}')
    assert run.read_about() == {"command": "x"}


def test_metrics_are_added_line_by_line(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path / "trials" / "0000")
    rows = [{"step": 1, "loss": 2.5}, {"step": 1, "eval_loss": 2.25}]
    for row in rows:
        trial.append_metrics(row)
    assert [json.loads(line) for line in trial.metrics.read_text().splitlines()] == rows


def test_dropping_the_adapter_keeps_the_numbers(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path / "0000")
    trial.write_result(_result(0))
    trial.append_metrics({"step": 1})
    for folder in (trial.adapter, trial.scratch):
        folder.mkdir()
        (folder / "weights").write_text("x")
    trial.drop_adapter()
    trial.drop_adapter()
    assert {path.name for path in trial.root.iterdir()} == {"result.json", "metrics.jsonl"}


def test_clearing_empties_the_folder(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path / "trials" / "0000")
    trial.clear()
    trial.write_result(_result(0))
    trial.append_metrics({"step": 1})
    trial.clear()
    assert trial.root.is_dir()
    assert list(trial.root.iterdir()) == []


@pytest.mark.parametrize(("also", "kept"), [(None, False), ("run.json", True), ("data", True)])
def test_only_a_bare_run_is_discarded(run: RunFolder, also: str | None, kept: bool) -> None:
    if also:
        write_text(run.root / also / "x" if also == "data" else run.root / also, "{}")
    run.discard_bare()
    assert run.root.exists() is kept
