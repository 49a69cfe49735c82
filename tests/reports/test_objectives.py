"""Boards of trials that are judged by several objectives at once."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_runs import make_run, result
from page_rows import check_rows, rows_of
from rich.console import Console
from tune_lora.reports import build, merge, terminal_table, to_csv, to_json, to_markdown, verdict
from tune_lora.reports.figures import figures
from tune_lora.reports.html import to_html
from tune_lora.search.confirm import finalists
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.folder import RunFolder, confirmation
from tune_lora.trainer.result import TrialResult, TrialState

BOTH = ("eval_loss", "forgetting", "parameters")


def judged(
    number: int, loss: float, forgot: float | None, size: int = 100, **more: Any
) -> TrialResult:
    found = {} if forgot is None else {"general_loss": 3.0 + forgot, "forgetting": forgot}
    given = {"objectives": BOTH, "metrics": found, "trainable": size, "lora": {"r": 2**number}}
    return result(number, loss, **{**given, **more})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Fronts {1, 2, 0}, {3}, {4}; a stopped trial and one that lacks a value; nothing of the base
    is better than any."""
    results = [
        judged(0, 1.5, 0.0, size=50, baseline=True),
        judged(1, 0.5, 0.4),
        judged(2, 0.7, 0.2),
        judged(3, 0.6, 0.5),
        judged(4, 0.9, 0.6, size=200),
        judged(5, 0.4, None, state=TrialState.PRUNED, step=9),
        judged(6, 0.3, None),
    ]
    base = {"general_loss": 3.0, "forgetting": 0.0}
    return make_run(tmp_path / "run", results, base=0.8, base_metrics=base, adapters=range(5))


def test_fronts_come_first_and_on_a_front_the_first_objective(run: RunFolder) -> None:
    board = build(run)
    assert (board.metric, board.objectives) == ("eval_loss", BOTH)
    found = [(row.rank, row.trial, row.front) for row in board.rows]
    assert found == [
        (1, 1, 1),
        (2, 2, 1),
        (3, 0, 1),
        (4, 3, 2),
        (5, 4, 3),
        (6, 6, None),
        (7, 5, None),
        (None, None, None),
    ]
    assert [row.trial for row in board.front] == [1, 2, 0]
    assert board.best is board.rows[0]
    assert board.rows[0].objectives == {"eval_loss": 0.5, "forgetting": 0.4, "parameters": 100}


def test_more_of_a_metric_is_better_in_its_front(tmp_path: Path) -> None:
    def matched(number: int, share: float, size: int) -> TrialResult:
        both = ("exact_match", "parameters")
        return result(number, share, metric="exact_match", objectives=both, trainable=size)

    results = [matched(0, 0.25, 10), matched(1, 0.75, 100), matched(2, 0.5, 1000)]
    board = build(make_run(tmp_path / "run", results))
    assert [(row.trial, row.front) for row in board.rows if row.rank] == [(1, 1), (0, 1), (2, 2)]


def test_the_verdict_names_the_front(run: RunFolder) -> None:
    said = verdict(build(run))
    assert said.startswith("Best by eval_loss, the first objective: trial-0001, eval_loss 0.5 ")
    assert (
        "3 trials on the Pareto front of eval_loss, forgetting, parameters: "
        "trial-0001 (0.5, 0.4, 100), trial-0002 (0.7, 0.2, 100), trial-0000 (1.5, 0, 50)." in said
    )


def test_a_large_front_is_named_in_part(tmp_path: Path) -> None:
    results = [judged(number, 1 - number / 20, number / 20) for number in range(11)]
    said = verdict(build(make_run(tmp_path / "run", results)))
    assert "11 trials on the Pareto front" in said
    assert said.count("(0.5, 0.5, 100)") == 1
    assert ", 3 more." in said


def test_every_format_has_fronts_and_objectives(run: RunFolder) -> None:
    board = build(run)
    rows = list(csv.DictReader(io.StringIO(to_csv(board))))
    assert [row["front"] for row in rows] == ["1", "1", "1", "2", "3", "", "", ""]
    assert [row["forgetting"] for row in rows][:3] == ["0.4", "0.2", "0.0"]
    data = json.loads(to_json(board))
    assert data["objectives"] == [*BOTH]
    assert [row["front"] for row in data["rows"]] == [1, 1, 1, 2, 3, None, None, None]
    assert data["rows"][0]["objectives"] == {"eval_loss": 0.5, "forgetting": 0.4, "parameters": 100}
    lines = [line for line in to_markdown(board).splitlines() if line.startswith("|")]
    heads, cells = ([cell.strip() for cell in line.split("|")] for line in (lines[0], lines[5]))
    shown = dict(zip(heads, cells, strict=True))
    assert (shown["front"], shown["eval_loss"], shown["forgetting"]) == ("2", "0.6000", "0.5000")
    page = to_html(run, board)
    check_rows(rows_of(page), data)
    assert "<b>3</b><span>on the Pareto front</span>" in page
    console = Console(file=io.StringIO(), width=200)
    console.print(terminal_table(board, 200))
    assert isinstance(console.file, io.StringIO)
    head, first, *_ = console.file.getvalue().splitlines()
    assert head.split()[:3] == ["#", "front", "trial"]
    assert first.split()[:3] == ["1", "1", "trial-0001"]


def test_one_objective_has_no_fronts_anywhere(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [result(0, 0.5), result(1, 0.7)])
    board = build(run)
    assert (board.objectives, board.front) == ((), ())
    assert "front" not in to_csv(board).splitlines()[0].split(",")
    data = json.loads(to_json(board))
    assert [row["front"] for row in data["rows"]] == [None] * 3
    assert [row["objectives"] for row in data["rows"]] == [{}] * 3
    assert "Pareto front" not in verdict(board)


def test_figures_draw_the_first_objective_against_each_other(run: RunFolder) -> None:
    drawn = {each.name: each for each in figures(build(run), tuple(run.results()), [])}
    assert "score-and-parameters" not in drawn
    assert "score-and-time" in drawn
    first, others, base = drawn["pareto-1"].figure.data
    assert (list(first.x), list(first.y)) == ([0.0, 0.2, 0.4], [1.5, 0.7, 0.5])
    assert (list(others.x), list(others.y)) == ([0.5, 0.6], [0.6, 0.9])
    assert (list(base.x), list(base.y)) == ([0.0], [0.8])
    sizes, *_ = drawn["pareto-2"].figure.data
    assert len(drawn["pareto-2"].figure.data) == 2
    assert list(sizes.x) == [50, 100, 100]


def test_the_first_ranks_are_the_ones_to_confirm(run: RunFolder) -> None:
    assert finalists(build(run).rows, 4) == (1, 2, 0, 3)


def test_fresh_seeds_rank_within_a_front_only(run: RunFolder) -> None:
    """The first two change places by their means; front 2 stays behind, however low its mean."""
    for number, mean in ((1, 0.9), (2, 0.6), (3, 0.1)):
        for seed, loss in enumerate((mean, mean + 0.01), 1):
            again = judged(number, loss, 0.1, train={"seed": seed})
            run.trial(number).rerun(confirmation(seed)).write_result(again)
    board = build(run)
    assert [row.trial for row in board.rows][:4] == [2, 1, 0, 3]
    assert not any(row.tie for row in board.rows)
    assert finalists(board.rows, 3) == (1, 2, 0)


def test_runs_are_ranked_by_what_they_share(run: RunFolder, tmp_path: Path) -> None:
    same = make_run(tmp_path / "same", [judged(0, 0.45, 0.3, size=100)])
    both = merge([build(run), build(same)])
    assert both.objectives == BOTH
    assert [(row.run, row.trial) for row in both.front] == [
        ("same", 0),
        ("run", 2),
        ("run", 0),
    ]
    plain = make_run(tmp_path / "plain", [result(0, 0.65)])
    mixed = merge([build(run), build(plain)])
    assert (mixed.metric, mixed.objectives, mixed.front) == ("eval_loss", (), ())
    scores = [row.score for row in mixed.rows if row.rank]
    assert scores == sorted(scores, key=lambda score: score or 0.0)
    (warning,) = mixed.warnings
    assert "run: eval_loss and forgetting and parameters, plain: eval_loss" in warning
    assert "are ranked by eval_loss here" in warning


def test_what_is_no_objective_is_no_result(run: RunFolder) -> None:
    bad = judged(0, 0.5, 0.1)
    for objectives in (["eval_loss", "<b>"], "eval_loss", [3]):
        run.trial(0).write_result(replace(bad, config={**bad.config, "objectives": objectives}))
        with pytest.raises(TrialError, match="cannot be read"):
            build(run)
