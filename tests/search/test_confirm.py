"""The best configurations on fresh seeds: which, on what seeds, what is kept, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from searches import searched
from tune_lora.reports import build
from tune_lora.search import driver
from tune_lora.search.confirm import confirmed_space, finalists, fresh_seeds, on_seed
from tune_lora.spaces import Space, SpaceError, load_space
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialResult, TrialState

SpaceOf = Callable[..., Space]


@pytest.fixture(scope="module")
def confirmed(
    space_under: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    """Four trials, the best two of them confirmed on two seeds; tests only look at them."""
    folder = tmp_path_factory.mktemp("confirmed")
    overrides = ("search.trials=4", "search.confirm={top: 2, seeds: 2}")
    space = load_space(space_under(folder), overrides)
    run = driver.new_run(space, folder / "run")
    assert searched(space, run).reason is None
    return run


def test_the_best_are_trained_again_to_the_horizon_on_seeds_that_are_new(
    confirmed: RunFolder,
) -> None:
    results = {result.number: result for result in confirmed.results()}
    best = sorted(results.values(), key=lambda r: (r.score, r.trainable_parameters, r.number))
    again = confirmed.confirmations()
    assert set(again) == {result.number for result in best[:2]}
    used = {result.config["train"]["seed"] for result in results.values()}
    for number, reruns in again.items():
        seeds = [rerun.config["train"]["seed"] for rerun in reruns]
        assert len(set(seeds)) == 2
        assert not used & set(seeds)
        assert len({rerun.score for rerun in reruns}) == 2
        for rerun in reruns:
            assert (rerun.state, rerun.step) == (TrialState.COMPLETE, 4)
            assert rerun.test_score not in (None, rerun.score)
            assert _without_seeds(rerun) == _without_seeds(results[number])


def test_their_weights_go_and_the_searchs_own_stay(confirmed: RunFolder) -> None:
    for number in confirmed.confirmations():
        folder = confirmed.trial(number)
        assert folder.adapter.is_dir()
        left = {path.name for path in (folder.root / "confirm").glob("*/*")}
        assert left == {"metrics.jsonl", "result.json"}


def test_no_trial_s_own_numbers_change(confirmed: RunFolder) -> None:
    board = build(confirmed)
    first, second = (row for row in board.rows[:2])
    assert first.confirmed is not None
    assert second.confirmed is not None
    own = {result.number: result.score for result in confirmed.results()}
    assert all(row.eval_loss == own[row.trial] for row in board.rows if row.trial is not None)
    reruns = confirmed.confirmations()[first.trial or 0]
    assert sorted(first.confirmed.scores) == sorted(r.score or 0 for r in reruns)
    assert sorted(first.confirmed.tests) == sorted(r.test_score or 0 for r in reruns)


def test_an_ended_search_is_confirmed_later_and_further(space_of: SpaceOf, tmp_path: Path) -> None:
    space = space_of("search.trials=3")
    run = driver.new_run(space, tmp_path / "run")
    searched(space, run)
    before = _files(run)
    for seeds, wanted in ((2, [1, 2]), (3, [1, 2, 3])):
        space = confirmed_space(run, 1, seeds)
        kept = _files(run, "confirm")
        searched(space, driver.resumed_run(space, run.root))
        ((_, reruns),) = run.confirmations().items()
        assert [rerun.config["train"]["seed"] for rerun in reruns] == wanted
        assert _files(run).items() >= before.items()
        assert _files(run, "confirm").items() >= kept.items()
    assert confirmed_space(run, None, None).search.confirm == space.search.confirm


def test_a_search_that_has_not_ended_or_has_no_score_is_refused(
    space_of: SpaceOf, tmp_path: Path
) -> None:
    space = space_of("search.trials=2")
    run = driver.new_run(space, tmp_path / "run")
    with pytest.raises(TrialError, match="no trial has a score"):
        confirmed_space(run, None, None)
    searched(space, run)
    trial = run.trial(1)
    (whole,) = (result for result in run.results() if result.number == 1)
    trial.write_result(whole.ended(TrialState.RUNNING))
    with pytest.raises(TrialError, match="trial-0001 have not ended; go on with the search"):
        confirmed_space(run, None, None)


def test_more_than_have_weights_are_refused(space_of: SpaceOf) -> None:
    with pytest.raises(SpaceError, match=r"search\.confirm\.top = 4: must be at most"):
        space_of("search.confirm.top=4", "search.keep_adapters=3")
    with pytest.raises(SpaceError, match=r"search\.confirm.*cannot be with pbt"):
        space_of("search.confirm.top=2", "search.scheduler=pbt")
    with pytest.raises(SpaceError, match=r"search\.confirm\.seeds = 1: must be at least 2"):
        space_of("search.confirm.seeds=1")


def test_finalists_differ_in_more_than_their_seeds(confirmed: RunFolder) -> None:
    rows = [row for row in build(confirmed).rows if row.rank]
    assert finalists(rows, 9) == tuple(
        row.trial for row in sorted(rows, key=lambda r: r.eval_loss or 0) if row.has_adapter
    )
    settings = {**rows[0].settings, "seed": 99, "data_seed": 5}
    twin = type(rows[0])(**{**rows[0].__dict__, "trial": 99, "settings": settings})
    assert finalists([twin, *rows], 9) == finalists(rows, 9)


def test_seeds_of_adapter_and_of_rows_are_fresh() -> None:
    results = [_result({"seed": 1}), _result({"seed": 4, "data_seed": 2}), _result({"seed": 0})]
    assert fresh_seeds(results, 3) == (3, 5, 6)
    config = on_seed(_result({"seed": 4, "data_seed": 2}, micro_batch=2), 7)
    assert (config.train["seed"], config.train["data_seed"]) == (7, 7)
    assert config.micro_batch == 2
    assert "data_seed" not in on_seed(_result({"seed": 4}), 7).train


def _result(train: Mapping[str, object], **more: int) -> TrialResult:
    config = {
        "number": 0,
        "task": "CAUSAL_LM",
        "lora": {"r": 8},
        "train": {"max_steps": 4, **train},
        "rungs": (4,),
        "lineage": (),
    }
    return TrialResult(0, TrialState.COMPLETE, config, score=1.0, **more)  # type: ignore[arg-type]


def _without_seeds(result: TrialResult) -> dict[str, object]:
    train = {k: v for k, v in result.config["train"].items() if k not in ("seed", "data_seed")}
    return {"lora": result.config["lora"], "train": train}


def _files(run: RunFolder, below: str = "") -> dict[str, bytes]:
    """What trials have written, by path: their own, or that of reruns."""
    found = run.trials.glob(f"*/{below}/*/result.json" if below else "*/result.json")
    return {str(path): path.read_bytes() for path in found}
