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


def test_rewinding_drops_later_lines_and_a_torn_one(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path / "0000")
    trial.rewind_metrics(3)
    assert trial.metrics.read_text() == ""
    rows = [{"step": step, "loss": 0.5} for step in (1, 2, 3, 3, 4)]
    for row in rows:
        trial.append_metrics(row)
    with trial.metrics.open("a") as file:
        file.write('{"step": 2, "lo')
    trial.rewind_metrics(3)
    assert [json.loads(line) for line in trial.metrics.read_text().splitlines()] == rows[:4]


@pytest.fixture
def full(tmp_path: Path) -> TrialFolder:
    """A trial's folder with everything in it that there can be."""
    trial = TrialFolder(tmp_path / "trials" / "0000")
    trial.write_result(_result(0))
    trial.append_metrics({"step": 1})
    for name in ("adapter", ".adapter.old", "checkpoint", ".checkpoint.old", ".scratch-7"):
        write_text(trial.root / name / "weights", "x")
    return trial


def _left(trial: TrialFolder) -> set[str]:
    return {path.name for path in trial.root.iterdir()}


def test_dropping_weights_keeps_the_numbers(full: TrialFolder) -> None:
    full.drop_adapter()
    numbers = {"result.json", "metrics.jsonl"}
    assert _left(full) == numbers | {"checkpoint", ".checkpoint.old"}
    full.drop_checkpoint()
    full.drop_checkpoint()
    assert _left(full) == numbers


def test_clearing_keeps_only_the_result(full: TrialFolder) -> None:
    full.clear()
    assert _left(full) == {"result.json"}
    TrialFolder(full.root / "new").clear()
    assert (full.root / "new").is_dir()


@pytest.mark.parametrize(("also", "kept"), [(None, False), ("run.json", True), ("data", True)])
def test_only_a_bare_run_is_discarded(run: RunFolder, also: str | None, kept: bool) -> None:
    if also:
        write_text(run.root / also / "x" if also == "data" else run.root / also, "{}")
    run.discard_bare()
    assert run.root.exists() is kept
