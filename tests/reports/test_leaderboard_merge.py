"""Ranking over several runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_runs import make_run, result
from tune_lora.reports import build, merge, to_csv, to_markdown, verdict


def test_ranks_jointly_and_keeps_each_base_and_default(tmp_path: Path) -> None:
    one = build(make_run(tmp_path / "one", [result(0, 1.0, baseline=True), result(1, 0.5)]))
    two = build(
        make_run(tmp_path / "two", [result(0, 0.9, baseline=True), result(1, 0.4)], base=2.5)
    )
    board = merge([one, two])
    assert [(row.rank, row.run, row.kind) for row in board.rows] == [
        (1, "two", "trial"),
        (2, "one", "trial"),
        (3, "two", "default"),
        (4, "one", "default"),
        (None, "one", "base"),
        (None, "two", "base"),
    ]
    assert board.warnings == ()
    assert board.about["runs"]["two"]["space"] == "llama"


def test_the_best_is_held_against_its_own_run(tmp_path: Path) -> None:
    one = build(make_run(tmp_path / "one", [result(0, 0.9, baseline=True), result(1, 0.8)]))
    two = build(
        make_run(tmp_path / "two", [result(0, 1.0, baseline=True), result(1, 0.4)], base=3.0)
    )
    board = merge([one, two])
    assert board.base is not None
    assert board.default is not None
    assert (board.base.eval_loss, board.default.eval_loss) == (3.0, 1.0)
    assert "trial-0001 of two" in verdict(board)


def test_what_differs_only_between_runs_is_shown(tmp_path: Path) -> None:
    boards = [
        build(make_run(tmp_path / str(size), [result(0, 0.5, train={"batch": size})]))
        for size in (4, 8)
    ]
    assert "batch" not in boards[0].param_names
    board = merge(boards)
    assert {row.params["batch"] for row in board.rows if row.kind == "trial"} == {4, 8}


def test_warns_when_data_differ(tmp_path: Path) -> None:
    boards = [
        build(make_run(tmp_path / mark, [result(0, 0.5)], fingerprint=mark * 64)) for mark in "ab"
    ]
    board = merge(boards)
    assert len(board.warnings) == 1
    assert "differ" in board.warnings[0]
    assert f"a: {'a' * 12}, b: {'b' * 12}" in board.warnings[0]
    assert board.warnings[0] in verdict(board)


def test_warns_when_data_are_unknown(tmp_path: Path) -> None:
    known = build(make_run(tmp_path / "a", [result(0, 0.5)]))
    unknown = build(make_run(tmp_path / "b", [result(0, 0.5)], fingerprint=None))
    assert "not known to be equal" in merge([known, unknown]).warnings[0]
    assert "not known to be equal" in merge([unknown, unknown]).warnings[0]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    boards = [build(make_run(tmp_path / p / "run", [result(0, 0.5)])) for p in ("a", "b")]
    board = merge(boards)
    assert board.runs == ("run", "run (2)")
    assert {row.run for row in board.rows} == {"run", "run (2)"}


def test_one_board_stays_as_it_is(tmp_path: Path) -> None:
    board = build(make_run(tmp_path / "a", [result(0, 0.5), result(1, 0.4)]))
    merged = merge([board])
    assert merged.rows == board.rows
    assert merged.warnings == ()


def test_no_board_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        merge([])


def test_formats_name_the_run(tmp_path: Path) -> None:
    boards = [build(make_run(tmp_path / name, [result(0, 0.5)])) for name in ("x", "y")]
    board = merge(boards)
    assert "| run |" in to_markdown(board)
    assert "| run |" not in to_markdown(boards[0])
    assert to_csv(board).splitlines()[2].split(",")[:2] == ["2", "y"]
