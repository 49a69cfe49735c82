"""Confirming under Ray, from the command line, the driver killed in the middle of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ray_searches import TinySearch, killed_and_resumed
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialState

SEARCH = {
    "trials": 4,
    "confirm": {"top": 2, "seeds": 2},
    "scheduler": {"asha": {"grace_steps": 2, "reduction_factor": 2}},
}


def _seeds(run: RunFolder) -> dict[Path, bytes]:
    """What has come of seeds so far; in each is how long it took."""
    return {path: path.read_bytes() for path in run.trials.glob("*/confirm/*/result.json")}


@pytest.fixture(scope="module")
def done() -> dict[Path, bytes]:
    """The seeds that were done before the driver was killed."""
    return {}


@pytest.fixture(scope="module")
def run(
    tiny: Callable[..., Path],
    pairs: Path,
    tmp_path_factory: pytest.TempPathFactory,
    done: dict[Path, bytes],
) -> RunFolder:
    def moment(run: RunFolder) -> bool:
        done.update(_seeds(run))
        return bool(done)

    wanted = TinySearch(tmp_path_factory.mktemp("confirm"), tiny(), pairs, SEARCH)
    return killed_and_resumed(wanted, moment)


def test_every_seed_has_come_to_the_horizon_once(run: RunFolder) -> None:
    again = run.confirmations()
    assert len(again) == 2
    for reruns in again.values():
        assert [r.config["train"]["seed"] for r in reruns] == [1, 2]
        assert {(r.state, r.step) for r in reruns} == {(TrialState.COMPLETE, 8)}
        assert all(r.test_score is not None for r in reruns)


def test_a_seed_that_was_done_is_not_done_again(run: RunFolder, done: dict[Path, bytes]) -> None:
    now = _seeds(run)
    assert len(now) == 4
    assert 0 < len(done) < 4
    assert now.items() >= done.items()


def test_the_leaderboard_ranks_by_the_means(run: RunFolder) -> None:
    board = json.loads(run.leaderboard("json").read_text("utf-8"))
    means = [row["confirmed"]["mean"] for row in board["rows"] if row["confirmed"]]
    assert len(means) == 2
    first, second = board["rows"][0], board["rows"][1]
    assert first["tie"] == second["tie"]
    assert first["tie"] or means == sorted(means)
    assert {"trial-" + p.parents[2].name for p in run.trials.glob("*/confirm/1/result.json")} == {
        first["name"],
        second["name"],
    }
