"""Whole searches in this process: what they leave behind."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from optuna.trial import TrialState as OptunaState
from outcomes import read_back
from rich.console import Console
from searches import board, numbers, searched
from tune_lora.search import driver
from tune_lora.spaces import Space, SpaceError, load_space
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.result import TrialState

SpaceOf = Callable[..., Space]


def test_a_search_from_end_to_end(space_of: SpaceOf, tmp_path: Path) -> None:
    space = space_of("search.trials=4", "search.keep_adapters=2")
    run = driver.new_run(space, tmp_path / "new" / "run")
    outcome = searched(space, run)

    assert outcome.reason is None
    assert numbers(run) == [0, 1, 2, 3]
    results = list(run.results())
    assert all(r.state is TrialState.COMPLETE and r.step == 4 for r in results)
    assert [[e.step for e in r.evaluations] for r in results] == [[1, 2, 4]] * 4
    assert [r.score for r in results] == [min(e.eval_loss for e in r.evaluations) for r in results]
    ranked = sorted(results, key=lambda r: r.score or 0)
    assert [int(row["trial"]) for row in board(run)] == [r.number for r in ranked]
    kept = {r.number for r in results if (run.trial(r.number).adapter).is_dir()}
    assert kept == {r.number for r in ranked[:2]}
    base = json.loads(run.base.read_text(encoding="utf-8"))
    assert base["rows"] == 4
    assert base["eval_loss"] > (ranked[0].score or 99)
    told = read_back(run)
    assert [t.state for t in told] == [OptunaState.COMPLETE] * 4
    assert [t.value for t in told] == [r.score for r in results]
    assert run.leaderboard("md").is_file()
    assert load_space(run.space).resolved() == space.resolved()


def test_about_says_what_the_numbers_depend_on(space_of: SpaceOf, tmp_path: Path) -> None:
    space = space_of("search.trials=1", "data.limit.train=8")
    run = driver.new_run(space, tmp_path / "run")
    searched(space, run)
    about = run.read_about()
    assert (
        about["data"]["fingerprint"]
        == json.loads((run.data / "about.json").read_text())["fingerprint"]
    )
    assert about["data"]["stats"]["train"]["rows"] == 8
    assert about["model"]["source"] == space.model.name
    for name in ("torch", "transformers", "peft", "ray", "optuna"):
        assert about["versions"][name] == metadata.version(name)

    other = space_of("search.trials=1", "data.limit.train=9")
    again = driver.new_run(other, tmp_path / "again")
    searched(other, again)
    assert again.read_about()["data"]["fingerprint"] != about["data"]["fingerprint"]


def test_a_new_run_wants_an_empty_place(space_of: SpaceOf, tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    driver.new_run(space_of(), root)
    with pytest.raises(TrialError, match=r"run: is not empty; give another --run"):
        driver.new_run(space_of(), root)
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    with pytest.raises(TrialError, match="file: cannot be made"):
        driver.new_run(space_of(), file)


@pytest.mark.parametrize(
    "override",
    ["data.train=/nowhere.jsonl", "lora.target_modules=[nothing]", "resources.workers=99"],
)
def test_a_search_that_could_not_start_leaves_no_run(
    space_of: SpaceOf, tmp_path: Path, override: str
) -> None:
    space = space_of(override)
    run = driver.new_run(space, tmp_path / "run")
    with pytest.raises(SpaceError):
        driver.run_search(space, run, Console(file=io.StringIO()), local=False)
    assert not run.root.exists()


def test_trials_that_break_do_not_break_the_search(space_of: SpaceOf, tmp_path: Path) -> None:
    space = space_of(
        "search.trials=10",
        "search.sampler=random",
        # That schedule wants a rate besides. With an epsilon that is none in fp32, Adam divides
        # 0 by 0 in the first step: LoRA's B starts at zero, so A's gradient is zero.
        train={
            "adam_epsilon": {"choice": [1e-8, 1e-60]},
            "lr_scheduler_type": {"choice": ["linear", "cosine_with_min_lr"]},
        },
    )
    run = driver.new_run(space, tmp_path / "run")
    outcome = searched(space, run)
    assert (outcome.reason, numbers(run)) == (None, list(range(10)))
    states = set()
    for result, told in zip(run.results(), read_back(run), strict=True):
        breaks = result.config["train"]["lr_scheduler_type"] == "cosine_with_min_lr"
        epsilon = result.config["train"].get("adam_epsilon")
        wanted = "FAILED" if breaks else "DIVERGED" if epsilon == 1e-60 else "COMPLETE"
        states.add(wanted)
        assert result.state == wanted
        assert told.state is (OptunaState.COMPLETE if wanted == "COMPLETE" else OptunaState.FAIL)
        assert ("min_lr" in (result.error or "")) is breaks
        assert run.trial(result.number).adapter.is_dir() <= (wanted == "COMPLETE")
    assert states == {"FAILED", "DIVERGED", "COMPLETE"}
