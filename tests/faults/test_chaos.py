"""Twenty kills over one search under Ray, and a leaderboard as if there had been none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chaos import Chaos, schedule
from cut_trials import go_on, load_tiny
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.folder import RunFolder, TrialFolder
from tune_lora.trainer.result import TrialResult, TrialState
from tune_lora.trainer.run import run_trial
from whole_searches import numbers, study_states, trial_rows

STEPS, EVERY = 120, 10
KILLS = schedule(0, worker=12, driver=5, raylet=3)


@pytest.fixture
def survived(space_file: Callable[..., Path], tmp_path: Path) -> Iterator[tuple[RunFolder, Chaos]]:
    """The search, after all the kills and to its end."""
    path = space_file(
        train={"max_steps": STEPS, "eval_steps": EVERY, "warmup_steps": 0.1},
        lora={"lora_dropout": 0.1},
        search={
            "sampler": "random",
            "scheduler": "none",
            "priors": False,
            "retries": 50,
            "checkpoint_minutes": 0.005,
        },
        resources={"workers": 2, "threads": 1},
    )
    run = RunFolder(tmp_path / "run")
    chaos = Chaos(path, run, tmp_path / "said.txt", trials=8)
    try:
        for kind, patience in KILLS:
            chaos.kill(kind, patience)
        chaos.finish()
        yield run, chaos
    finally:
        chaos.end()


def undisturbed(run: RunFolder, model: Path, folder: Path) -> dict[int, TrialResult]:
    """Every trial of the run once more, from its configuration alone."""
    base, data = load_tiny(model), TokenizedData.load(run.data)
    found = {}
    for result in run.results():
        config = TrialConfig.from_dict(result.config)
        own = TrialFolder(folder / str(config.number))
        found[config.number] = run_trial(config, base, data, go_on, own)
    return found


def losses(result: TrialResult) -> dict[int, float]:
    return {evaluation.step: evaluation.eval_loss for evaluation in result.evaluations}


@pytest.mark.slow
def test_twenty_kills(
    survived: tuple[RunFolder, Chaos], tiny: Callable[..., Path], tmp_path: Path
) -> None:
    run, chaos = survived
    assert len(chaos.killed) == 20
    wanted = list(range(chaos.trials))
    assert [result.number for result in run.results()] == wanted
    assert numbers(run) == wanted
    assert study_states(run) == ["COMPLETE"] * chaos.trials
    assert {result.state for result in run.results()} == {TrialState.COMPLETE}

    truth = undisturbed(run, tiny(), tmp_path / "undisturbed")
    for result in run.results():
        assert losses(result) == pytest.approx(losses(truth[result.number]), rel=1e-6)
        assert list(losses(result)) == list(range(EVERY, STEPS + 1, EVERY))
        assert result.tokens == truth[result.number].tokens
    board = [int(row["trial"]) for row in trial_rows(run)]
    assert board == sorted(wanted, key=lambda number: truth[number].score or 0.0)

    for number in wanted:
        folder = run.trial(number)
        lines = map(json.loads, folder.metrics.read_text("utf-8").splitlines())
        assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
        assert folder.adapter.is_dir() is (number in board[:3])
        assert not folder.checkpoint.exists()
    assert chaos.leftovers() == []
