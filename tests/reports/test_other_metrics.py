"""Boards of searches that were judged by something else than the loss."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runs import HORIZON, make_run, result
from rich.console import Console
from tune_lora.reports import build, merge, terminal_table, to_csv, to_json, to_markdown
from tune_lora.reports import verdict as verdict_of
from tune_lora.reports.agreement import agreement, audits
from tune_lora.reports.compare import compare
from tune_lora.reports.figures import figures
from tune_lora.reports.html import to_html
from tune_lora.reports.noise import Confirmed, ties
from tune_lora.trainer.folder import RunFolder, confirmation
from tune_lora.trainer.result import Evaluation, TrialResult, TrialState

MATCH = "exact_match"


def matched(number: int, score: float | None, loss: float = 1.0, **more: object) -> TrialResult:
    """A trial judged by its exact matches; their share is what its valid answers are, too."""
    valid = {} if score is None else {"json_valid": score}
    given = {"lora": {"r": 2**number}, "metric": MATCH, "loss": loss, "metrics": valid, **more}
    return result(number, score, **given)  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """The trial with the least loss has the fewest matches, and two have the same share."""
    results = [
        matched(0, 0.25, 0.9, baseline=True),
        matched(1, 0.75, 1.3, trainable=10),
        matched(2, 0.75, 1.2, trainable=99),
        matched(3, 0.0, 0.5),
        matched(4, 0.5, 1.1, state=TrialState.PRUNED, step=9),
    ]
    metrics = {MATCH: 0.125, "json_valid": 0.375}
    return make_run(tmp_path / "run", results, base_metrics=metrics)


def test_more_is_better_and_of_equal_shares_less_loss(run: RunFolder) -> None:
    board = build(run)
    assert board.metric == MATCH
    found = [(row.rank, row.trial, row.score, row.eval_loss) for row in board.rows]
    assert found == [
        (1, 2, 0.75, 1.2),
        (2, 1, 0.75, 1.3),
        (3, 4, 0.5, 1.1),
        (4, 0, 0.25, 0.9),
        (None, None, 0.125, 2.34),
        (5, 3, 0.0, 0.5),
    ]
    gains = [row.gain_over_base for row in board.rows]
    assert gains == [0.625, 0.625, 0.375, 0.125, 0.0, -0.125]


def test_the_verdict_speaks_of_the_metric(run: RunFolder) -> None:
    assert verdict_of(build(run)).startswith(
        "Best: trial-0002, exact_match 0.75 (eval_loss 1.2) at step 27 of 27: 0.625 above the base "
        "model (0.125), 0.5 above the default configuration (0.25)."
    )


def test_every_format_has_every_metric(run: RunFolder) -> None:
    board = build(run)
    first = next(iter(csv.DictReader(io.StringIO(to_csv(board)))))
    assert (first["metric"], float(first["score"]), float(first["eval_loss"])) == (MATCH, 0.75, 1.2)
    assert float(first["json_valid"]) == 0.75
    data = json.loads(to_json(board))
    assert (data["metric"], data["rows"][0]["score"]) == (MATCH, 0.75)
    assert data["rows"][4]["metrics"] == {MATCH: 0.125, "json_valid": 0.375}
    lines = [line for line in to_markdown(board).splitlines() if line.startswith("|")]
    heads, cells = ([cell.strip() for cell in line.split("|")] for line in (lines[0], lines[2]))
    shown = dict(zip(heads, cells, strict=True))
    assert (shown[MATCH], shown["eval_loss"], shown["json_valid"]) == ("0.7500", "1.2000", "0.7500")
    assert shown["gain over base"] == "0.6250"
    page = to_html(run, board)
    assert 'data-value="0.375"' in page
    assert "exact_match, nats" not in page


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_them_before_it_shows_the_machine(run: RunFolder, width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    console.print(terminal_table(build(run), width))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    best = next(line for line in lines if "trial-0002" in line)
    assert best.split().count("0.7500") == 2
    assert "1.2000" in best.split()
    assert ("99" in best.split()) is (width == 120)


def test_a_trial_whose_metric_came_to_nothing_has_no_rank(tmp_path: Path) -> None:
    nothing = replace(
        matched(1, None), step=HORIZON, evaluations=(Evaluation(HORIZON, 0.1, 1.0, {}),)
    )
    board = build(make_run(tmp_path / "run", [matched(0, 0.5), nothing, matched(2, None, step=0)]))
    assert [row.rank for row in board.rows] == [1, None, None, None]
    reasons = {row.name: row.error for row in board.rows}
    assert reasons["trial-0001"] == "its exact_match came to nothing"
    assert reasons["trial-0002"] == "it ended before its first evaluation"
    assert reasons["base model"] == "its exact_match came to nothing"


def test_audits_and_rungs_know_which_way_is_better() -> None:
    def course(number: int, *shares: float, **more: object) -> TrialResult:
        made = matched(number, max(shares), **more)
        steps = (3, 9, 27)[: len(shares)]
        done = [Evaluation(s, 1.0, 1.0, {MATCH: v}) for s, v in zip(steps, shares, strict=True)]
        return replace(made, evaluations=tuple(done))

    pruned = {"state": TrialState.PRUNED, "step": 3}
    results = [course(0, 0.1, 0.2, 0.3), course(1, 0.2, 0.3, 0.6), course(2, 0.0, **pruned)]
    better, worse = {2: course(2, 0.0, 0.1, 0.7)}, {2: course(2, 0.0, 0.1, 0.5)}
    assert [audits(results, found)[0].wrong for found in (better, worse)] == [True, False]
    first = agreement(results, worse)[0]
    # Shares of 0.1, 0.2, 0.0 at the rung and 0.3, 0.6, 0.5 at the end: two of three pairs agree.
    assert (first.trials, first.spearman) == (3, pytest.approx(0.5))


def test_confirmed_means_are_told_apart_from_the_highest() -> None:
    found = [Confirmed((0.1, 0.11, 0.1)), Confirmed((0.9, 0.91, 0.9)), Confirmed((0.9, 0.9, 0.92))]
    assert ties(found, lower=False) == [False, True, True]


def test_fresh_seeds_rank_the_highest_mean_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [matched(0, 0.9), matched(1, 0.8, lora={"r": 16})])
    for number, shares in ((0, (0.2, 0.21)), (1, (0.7, 0.71))):
        own = {"r": 16 if number else 1}
        for seed, share in enumerate(shares, 1):
            made = matched(number, share, lora=own, train={"seed": seed})
            tested = replace(made, test={"eval_loss": 1.0, MATCH: share / 2})
            run.trial(number).rerun(confirmation(seed)).write_result(tested)
    first, second, *_ = build(run).rows
    assert (first.trial, first.expected) == (1, pytest.approx(0.705))
    assert (second.trial, second.expected) == (0, pytest.approx(0.205))
    assert first.confirmed is not None
    assert first.confirmed.test_mean == pytest.approx(0.3525)


def test_figures_are_drawn_of_the_metric_and_of_values_that_are_all_alike(
    run: RunFolder, tmp_path: Path
) -> None:
    results = tuple(run.results())
    drawn = {figure.name: figure.figure for figure in figures(build(run), results, [])}
    curves = drawn["learning-curves"]
    assert curves.layout.yaxis.title.text == MATCH
    assert sorted(trace.y[0] for trace in curves.data) == [0.0, 0.25, 0.5, 0.75, 0.75]
    front = next(t for t in drawn["score-and-parameters"].data if t.name == "front")
    assert list(front.y) == [0.75]


def test_runs_that_chose_by_different_metrics_are_ranked_by_loss(
    run: RunFolder, tmp_path: Path
) -> None:
    by_loss = make_run(tmp_path / "other", [result(0, 0.8), result(1, 1.25)])
    board = merge([build(run), build(by_loss)])
    assert (board.metric, board.best and board.best.score) == ("eval_loss", 0.5)
    ranked = [row.score for row in board.rows if row.rank]
    assert ranked == sorted(ranked) == [0.5, 0.8, 0.9, 1.1, 1.2, 1.25, 1.3]
    (warning,) = board.warnings
    assert "run: exact_match, other: eval_loss" in warning
    best = board.rows[0]
    assert (best.value(MATCH), best.gain_over_base) == (0.0, pytest.approx(2.34 - 0.5))
    standings = {s.run: (s.best, s.score) for s in compare([run, by_loss]).standings}
    assert standings == {"run": ("trial-0003", 0.5), "other": ("trial-0000", 0.8)}
