"""The report: its numbers are the leaderboard's, it needs no network, what is said is text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
from fake_runs import HORIZON, make_run, many_sizes, mixed_run, result
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import create_trial
from page_rows import Cell, check_rows, rows_of
from tune_lora.reports import build, to_json
from tune_lora.reports.edges import at_edges
from tune_lora.reports.figures import figures, pareto
from tune_lora.reports.html import optuna_trials, to_html
from tune_lora.reports.optuna_figures import common_rung
from tune_lora.spaces import load_space
from tune_lora.trainer.folder import RunFolder, write_text
from tune_lora.trainer.result import Evaluation, TrialResult, TrialState

SPACE = """
model: {name: m}
data: {train: d.jsonl}
lora:
  r: {choice: [8, 16, 32]}
  lora_alpha: {int: [8, 64]}
  target_modules: {choice: [qv, all-linear]}
train: {learning_rate: {log_uniform: [1.0e-5, 1.0e-3]}}
"""
DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "lora.r": CategoricalDistribution([8, 16, 32]),
    "lora.lora_alpha": IntDistribution(8, 64),
    "train.learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
}


class Page(HTMLParser):
    """Tags with their attributes, the leaderboard's cells, the figures' data, the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str | None]] = []
        self.heads: list[str] = []
        self.figures: dict[str, Any] = {}
        self.words: list[str] = []
        self._stack: list[tuple[str, str | None]] = []
        self._table = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        self._stack.append((tag, given.get("id")))
        if tag == "table":
            self._table = given.get("id") == "rows"
        if self._table and tag == "tr":
            self.rows.append([])
        if self._table and tag == "td":
            self.rows[-1].append(given.get("data-value"))

    def handle_endtag(self, tag: str) -> None:
        while self._stack and self._stack.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        tag, name = self._stack[-1] if self._stack else ("", None)
        if tag == "script" and name and name.endswith("-figure-data"):
            self.figures[name.removesuffix("-figure-data")] = json.loads(data)
        elif tag not in ("script", "style"):
            self.words.append(data)
        if self._table and tag == "button":
            self.heads.append(data)

    def table(self) -> list[dict[str, str | None]]:
        return [dict(zip(self.heads, row, strict=True)) for row in self.rows if row]


def page_of(run: RunFolder) -> Page:
    return Page(to_html(run, build(run)))


def searched(root: Path, count: int = 12) -> RunFolder:
    """Trials with a study and three rungs; every second one was stopped at the second."""
    results, trials = [], []
    for number in range(count):
        rank, alpha = (8, 16, 32)[number % 3], 8 + number % 50
        rate = 10 ** (-5 + 2 * number / count)
        losses = [2.5 - 0.1 * number / count, 2.0 - 0.5 * number / count, 1.5 - number / count]
        steps = (3, 9, HORIZON)
        done = number % 2 == 0
        made = result(
            number,
            losses[2] if done else losses[1],
            TrialState.COMPLETE if done else TrialState.PRUNED,
            step=HORIZON if done else 9,
            lora={"r": rank, "lora_alpha": alpha},
            train={"learning_rate": rate},
            trainable=rank * 1000,
        )
        kept = zip(steps, losses, strict=True)
        made = TrialResult.from_dict(
            made.to_dict()
            | {
                "evaluations": [
                    {"step": s, "eval_loss": loss, "seconds": 1.0}
                    for s, loss in kept
                    if done or s < HORIZON
                ]
            }
        )
        results.append(made)
        params = {"lora.r": rank, "lora.lora_alpha": alpha, "train.learning_rate": rate}
        trials.append(create_trial(params=params, distributions=DISTRIBUTIONS, value=losses[0]))
    run = make_run(root, results)
    write_text(run.space, SPACE)
    optuna.create_study(storage=f"sqlite:///{run.study}", study_name="any").add_trials(trials)
    return run


@pytest.mark.parametrize("make", [mixed_run, many_sizes, searched])
def test_every_number_is_the_leaderboards(
    tmp_path: Path, make: Callable[[Path], RunFolder]
) -> None:
    run = make(tmp_path / "run")
    board = build(run)
    check_rows(rows_of(to_html(run, board)), json.loads(to_json(board)))


def test_the_check_of_numbers_takes_new_columns_and_refuses_wrong_ones(tmp_path: Path) -> None:
    run = mixed_run(tmp_path / "run")
    board = build(run)
    data = json.loads(to_json(board))
    rows = rows_of(to_html(run, board))
    for row, values in zip(rows, data["rows"], strict=True):
        values["metrics"] = {"exact_match": 0.123456}
        row["exact match"] = Cell("12.3%", "0.123456")
    check_rows(rows, data)
    good = rows[3]["exact match"]
    for wrong in (Cell("12.3%", "0.123457"), Cell("12.4%", "0.123456"), Cell("0.123%", good.raw)):
        rows[3]["exact match"] = wrong
        with pytest.raises(AssertionError):
            check_rows(rows, data)
    rows[3]["exact match"] = good
    rows[0]["eval_loss"] = rows[0]["eval_loss"]._replace(shown="0.4121")
    with pytest.raises(AssertionError, match=r"0\.4120"):
        check_rows(rows, data)


def test_nothing_is_fetched(tmp_path: Path) -> None:
    run = searched(tmp_path / "run")
    sources = [
        attributes.get(name)
        for tag, attributes in page_of(run).tags
        for name in ("src", "href", "srcset", "action")
        if name in attributes and tag != "nav"
    ]
    assert sources
    assert all(source and source.startswith("#") for source in sources)


def test_what_a_trial_says_is_text(tmp_path: Path) -> None:
    evil = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\x1b[31m'
    results = [
        result(0, 1.0, lora={"target_modules": [evil]}),
        result(1, None, TrialState.FAILED, step=0, error=f'File "{evil}", line 1\n{evil}'),
    ]
    page = page_of(make_run(tmp_path / "run", results))
    names = [tag for tag, _ in page.tags]
    assert names.count("img") == 0
    assert not any(
        "alert" in str(value)
        for _, given in page.tags
        for key, value in given.items()
        if key != "data-value"
    )
    text = "".join(page.words)
    assert "alert(2)" in text
    assert "\x1b" not in text
    scripts = [given for tag, given in page.tags if tag == "script" and "type" not in given]
    assert len(scripts) == 2


def test_failures_say_where_they_were(tmp_path: Path) -> None:
    lost = result(
        1, None, TrialState.FAILED, step=3, error="RuntimeError: CUDA", place="gpu-3 GPU 5"
    )
    text = "".join(page_of(make_run(tmp_path / "run", [result(0, 1.0), lost])).words)
    assert "after step 3 on gpu-3 GPU 5" in text


def test_figures_show_what_the_trials_did(tmp_path: Path) -> None:
    run = searched(tmp_path / "run")
    figures = page_of(run).figures
    assert set(figures) == {
        *("learning-curves", "importance", "parallel-coordinates", "learning-rate-and-rank"),
        *("slices", "agreement", "timeline"),
        *("score-and-parameters", "score-and-time", "score-and-memory"),
    }
    drawn = figures["learning-curves"]["data"]
    curves = {trace["text"].partition(",")[0]: trace for trace in drawn if "text" in trace}
    assert len(curves) == 12
    assert curves["trial-0002"]["x"] == [3, 9, HORIZON]
    assert curves["trial-0002"]["name"] == "complete"
    assert curves["trial-0002"]["text"] == (
        "trial-0002, COMPLETE: r 32, lora_alpha 10, target_modules qv, learning_rate 2.15e-05"
    )
    assert curves["trial-0001"]["x"] == [3, 9]
    assert curves["trial-0001"]["name"] == "stopped early"
    assert curves["trial-0001"]["marker"]["symbol"] == ["circle", "x"]
    assert max(trace["line"]["width"] for trace in curves.values()) == 3
    assert curves["trial-0010"]["line"]["width"] == 3
    legend = [trace["name"] for trace in drawn if trace.get("showlegend")]
    assert sorted(legend) == ["best: trial-0010", "complete", "stopped early"]
    lines = [t for t in figures["parallel-coordinates"]["data"] if t["mode"] == "lines"]
    ends = {line["y"][0]: line["line"]["color"] for line in lines}
    assert len(lines) == 12
    assert (ends[0.0], ends[1.0]) == ("rgb(11, 107, 203)", "rgb(217, 84, 30)")
    # Compared are losses at step 9, where all were, and not each trial's best.
    slices = figures["slices"]
    assert slices["layout"]["yaxis"]["title"]["text"] == "eval_loss at step 9"
    assert sorted(slices["data"][0]["y"]) == pytest.approx(sorted(2 - n / 24 for n in range(12)))


def test_a_run_with_nothing_yet_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [], base=None)
    page = page_of(run)
    assert page.figures == {}
    assert "No trial has a score to rank." in "".join(page.words)
    assert optuna_trials(run) == []


def test_five_hundred_trials_stay_under_eight_megabytes(tmp_path: Path) -> None:
    run = searched(tmp_path / "run", 500)
    assert len(to_html(run, build(run)).encode()) < 8e6


def courses(*steps: Sequence[int]) -> list[TrialResult]:
    return [
        TrialResult.from_dict(
            result(number, 1.0).to_dict()
            | {"evaluations": [{"step": s, "eval_loss": 1.0, "seconds": 1.0} for s in each]}
        )
        for number, each in enumerate(steps)
    ]


@pytest.mark.parametrize(
    ("steps", "rung"),
    [
        ([], 0),
        ([()], 0),
        ([(3,)], 3),
        # Up to eight trials, all of them are to have been there.
        ([(3, 9, 27)] * 3 + [(3,)] * 4, 3),
        ([(3, 9, 27)] * 4 + [(3, 9)] * 4, 9),
        # Then half of them, but eight at least.
        ([(3, 9, 27)] * 7 + [(3, 9)] + [(3,)] * 4, 9),
        ([(3, 9, 27)] * 10 + [(3,)] * 10, 27),
        ([(3, 9, 27)] * 9 + [(3,)] * 11, 3),
    ],
)
def test_trials_are_compared_where_enough_of_them_were(
    steps: list[Sequence[int]], rung: int
) -> None:
    assert common_rung(courses(*steps)) == rung


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_front_by_brute_force(points: list[tuple[float, float]]) -> None:
    expected = {
        index
        for index, (x, y) in enumerate(points)
        if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points)
    }
    assert pareto(points) == expected


@pytest.mark.parametrize(
    ("lora", "train", "found"),
    [
        ({"r": 16, "lora_alpha": 30}, {"learning_rate": 1e-4}, []),
        ({"r": 32, "lora_alpha": 30}, {"learning_rate": 1e-4}, ["r 32 lies at the upper end"]),
        ({"r": 8, "lora_alpha": 30}, {"learning_rate": 1e-4}, ["r 8 lies at the lower end"]),
        ({"r": 16, "lora_alpha": 60}, {"learning_rate": 1e-4}, ["lora_alpha 60 lies at the upper"]),
        # Of two decades, a fifth of one is the end.
        ({"r": 16, "lora_alpha": 30}, {"learning_rate": 1.5e-5}, ["learning_rate 1.5e-05 lies at"]),
        ({"r": 16, "lora_alpha": 30}, {"learning_rate": 1.7e-5}, []),
        ({"r": 16, "lora_alpha": 30}, {"learning_rate": 6.4e-4}, ["learning_rate 0.00064 lies"]),
    ],
)
def test_an_optimum_at_the_end_of_a_range_is_said_to_be(
    tmp_path: Path, lora: dict[str, Any], train: dict[str, Any], found: list[str]
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE, encoding="utf-8")
    run = make_run(tmp_path / "run", [result(0, 0.5, lora=lora, train=train)])
    said = at_edges(build(run), load_space(path))
    assert len(said) == len(found)
    for text, start in zip(said, found, strict=True):
        assert text.startswith(start)


def test_the_default_configuration_has_no_ends(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE, encoding="utf-8")
    run = make_run(tmp_path / "run", [result(0, 0.5, lora={"r": 8}, baseline=True)])
    assert at_edges(build(run), load_space(path)) == ()


def test_losses_that_are_not_finite_leave_a_gap(tmp_path: Path) -> None:
    made = result(0, 1.0).to_dict()
    made["evaluations"] = [
        {"step": 3, "eval_loss": math.nan, "seconds": 1.0},
        {"step": 9, "eval_loss": 1.0, "seconds": 1.0},
    ]
    run = make_run(tmp_path / "run", [TrialResult.from_dict(made)])
    (curve,) = (t for t in page_of(run).figures["learning-curves"]["data"] if "text" in t)
    assert curve["y"] == [None, 1.0]
    assert Evaluation(3, math.nan, 1.0).step == 3


def test_figures_of_hyperparameters_name_trials_and_choices_as_they_are(tmp_path: Path) -> None:
    """Trial 0 has no loss to compare: the others keep their numbers. Tags in choices are text."""
    choices = ("qv", "<b>all</b>")
    both = {"target_modules": CategoricalDistribution(choices), "r": IntDistribution(1, 64)}
    results = [result(0, None, TrialState.FAILED, step=0, error="no")]
    trials = [create_trial(state=optuna.trial.TrialState.FAIL)]
    for number in range(1, 6):
        results.append(result(number, 2 - number / 10, lora={"target_modules": "qv"}))
        params = {"target_modules": choices[number % 2], "r": 2**number}
        trials.append(create_trial(params=params, distributions=both, value=1.0))
    for number, trial in enumerate(trials):
        trial.number = number
    board = build(make_run(tmp_path / "run", results))
    drawn = {figure.name: figure.figure for figure in figures(board, results, trials)}
    ranks, targets = drawn["slices"].data[:2]
    assert list(ranks.x) == [2, 4, 8, 16, 32]
    assert list(ranks.marker.color) == [1, 2, 3, 4, 5]
    assert set(targets.x) == {"qv", "&lt;b&gt;all&lt;/b&gt;"}
    assert all("<b>" not in figure.to_json() for figure in drawn.values())


def test_a_timeline_names_trials_by_their_numbers(tmp_path: Path) -> None:
    results = [result(number, 1.0) for number in range(3)]
    trials = [create_trial(value=1.0) for _ in results]
    start = datetime(2026, 1, 1)
    for number, trial in enumerate(trials):
        trial.number = number
        trial.datetime_start = None if number == 0 else start
        trial.datetime_complete = start + timedelta(seconds=5)
    board = build(make_run(tmp_path / "run", results))
    drawn = {figure.name: figure.figure for figure in figures(board, results, trials)}
    assert sorted(y for trace in drawn["timeline"].data for y in trace.y) == [1, 2]


def test_ranks_stand_on_a_logarithmic_axis(tmp_path: Path) -> None:
    run = searched(tmp_path / "run")
    layout = page_of(run).figures["learning-rate-and-rank"]["layout"]
    assert layout["yaxis"]["title"]["text"] == "r"
    assert layout["yaxis"]["type"] == "log"
    assert layout["yaxis"]["ticktext"] == ["8", "16", "32"]
    low, high = layout["yaxis"]["range"]
    assert low < math.log10(8) < math.log10(32) < high
