"""Ranking within a run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from fake_runs import make_run, mixed_run, result
from tune_lora.reports import Leaderboard, build
from tune_lora.reports.rows import one_line
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.result import TrialState


def order(board: Leaderboard) -> list[tuple[int | None, int | None]]:
    return [(row.rank, row.trial) for row in board.rows]


def test_ranked_then_running_then_the_rest(tmp_path: Path) -> None:
    board = build(mixed_run(tmp_path / "run"))
    assert order(board) == [
        (1, 4),
        (2, 2),  # ties with trial 1, half the parameters
        (3, 1),
        (4, 0),
        (5, 10),
        (None, None),  # the base model, 2.34
        (6, 3),  # pruned, and worse than no training at all
        (None, 9),
        (None, 5),
        (None, 6),
        (None, 7),
        (None, 8),
    ]


def test_every_trial_stands_once(tmp_path: Path) -> None:
    board = build(mixed_run(tmp_path / "run"))
    assert sorted(row.trial for row in board.rows if row.trial is not None) == list(range(11))


def test_numbers_of_a_row(tmp_path: Path) -> None:
    board = build(mixed_run(tmp_path / "run"))
    best = board.best
    assert best is not None
    assert best.name == "trial-0004"
    assert best.eval_loss == 0.412
    assert best.perplexity == pytest.approx(1.5098, abs=1e-4)
    assert best.gain_over_base == pytest.approx(1.928)
    assert (best.best_step, best.steps, best.horizon) == (27, 27, 27)
    assert best.trainable_share == pytest.approx(0.005)
    assert best.has_adapter
    assert not board.rows[1].has_adapter


def test_a_worse_trial_has_a_negative_gain(tmp_path: Path) -> None:
    row = next(row for row in build(mixed_run(tmp_path / "run")).rows if row.trial == 3)
    assert row.gain_over_base == pytest.approx(-0.56)


def test_base_and_default_rows(tmp_path: Path) -> None:
    board = build(mixed_run(tmp_path / "run"))
    assert board.base is not None
    assert board.base.kind == "base"
    assert board.base.eval_loss == 2.34
    assert board.default is not None
    assert (board.default.trial, board.default.rank) == (0, 4)


def test_equal_score_and_size_go_by_number(tmp_path: Path) -> None:
    board = build(make_run(tmp_path, [result(3, 0.5), result(1, 0.5), result(2, 0.5)]))
    assert order(board)[:3] == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("trainable", [1_000_000, 0])
def test_a_trial_level_with_the_base_stands_before_it(tmp_path: Path, trainable: int) -> None:
    board = build(make_run(tmp_path, [result(0, 2.34, trainable=trainable)]))
    assert order(board) == [(1, 0), (None, None)]


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_never_ranks(tmp_path: Path, score: float) -> None:
    board = build(make_run(tmp_path, [result(0, score), result(1, 0.9)]))
    assert order(board) == [(1, 1), (None, None), (None, 0)]
    row = board.rows[-1]
    assert row.eval_loss is None
    assert row.gain_over_base is None
    assert row.error == f"its score is {score}"


def test_a_complete_trial_without_a_score_says_so(tmp_path: Path) -> None:
    board = build(make_run(tmp_path, [result(0)]))
    assert board.best is None
    assert board.rows[-1].error == "it ended before its first evaluation"


def test_a_base_that_is_not_finite_gives_no_gain(tmp_path: Path) -> None:
    board = build(make_run(tmp_path, [result(0, 0.5)], base=math.nan))
    assert order(board) == [(1, 0), (None, None)]
    assert board.rows[0].gain_over_base is None
    assert board.rows[1].error == "its score is nan"


def test_no_base_no_about_no_trials(tmp_path: Path) -> None:
    run = make_run(tmp_path, [], base=None)
    run.about.unlink()
    board = build(run)
    assert board.rows == ()
    assert board.best is board.base is board.default is None


def test_the_default_may_be_the_best(tmp_path: Path) -> None:
    board = build(make_run(tmp_path, [result(0, 0.4, baseline=True), result(1, 0.5)]))
    assert board.best is board.default


def test_only_what_trials_vary_is_shown(tmp_path: Path) -> None:
    results = [
        # The default alone differs in dropout: nobody searched it.
        result(0, 1.0, baseline=True, lora={"lora_dropout": 0.05}),
        result(1, 0.9, lora={"lora_dropout": 0.0}, train={"warmup_steps": 0.1}),
        result(2, 0.8, lora={"lora_dropout": 0.0, "use_rslora": True}),
    ]
    board = build(make_run(tmp_path, results))
    four = ["r", "lora_alpha", "target_modules", "learning_rate"]
    assert set(board.param_names) == {*four, "warmup_steps", "use_rslora"}
    rows = {row.trial: row for row in board.rows}
    assert list(rows[0].params) == four
    assert rows[1].params["warmup_steps"] == 0.1
    assert "use_rslora" not in rows[1].params
    assert rows[0].settings["lora_dropout"] == 0.05


def test_a_torn_result_is_an_error_that_names_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, [result(0, 0.5)])
    run.trial(0).result.write_text("{")
    with pytest.raises(TrialError, match=r"result\.json"):
        build(run)


def test_a_failed_trial_without_parameters(tmp_path: Path) -> None:
    failed = result(0, None, TrialState.FAILED, trainable=0, error="ValueError: x")
    row = build(make_run(tmp_path, [failed])).rows[-1]
    assert row.trainable_parameters is None
    assert row.trainable_share is None


TRACE = """Traceback (most recent call last):
  File "a.py", line 1, in f
    g()
KeyError: 'x'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "b.py", line 2, in h
    run()
    ~~~^^
RuntimeError: the kernel failed
Set CUDA_LAUNCH_BLOCKING=1.
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (TRACE, "RuntimeError: the kernel failed"),
        ("\x1b[36mActorDied: gone\x1b[0m\n\tclass_name: W", "ActorDied: gone"),
        ("tab\there\x07", "tab here"),
        ("  \n", ""),
        ("x" * 500, "x" * 199 + "…"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(text) == line
