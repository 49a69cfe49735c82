"""Several searches side by side, as table, JSON and page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_runs import make_run, result
from test_report_page import Page
from tune_lora.reports.compare import compare, comparison_json, standing_cells
from tune_lora.reports.compare_html import to_html
from tune_lora.trainer.folder import RunFolder, write_text

ONE = """
model: {name: m, quantization: nf4}
lora: {r: {choice: [8, 16]}, lora_alpha: 16}
train: {learning_rate: {log_uniform: [1.0e-5, 1.0e-3]}}
"""
OTHER = """
name: other
model: {name: m, quantization: none}
lora: {r: 8, lora_alpha: 16, use_dora: true}
train: {learning_rate: {log_uniform: [1.0e-5, 1.0e-3]}}
"""


@pytest.fixture
def runs(tmp_path: Path) -> list[RunFolder]:
    first = make_run(
        tmp_path / "first", [result(0, 1.2, baseline=True), result(1, 0.9), result(2, 1.5)]
    )
    second = make_run(tmp_path / "second", [result(0, 0.7), result(1, 1.0)], base=2.0)
    write_text(first.space, ONE)
    write_text(second.space, OTHER)
    return [first, second]


def test_what_each_came_to_the_best_first(runs: list[RunFolder]) -> None:
    second, first = compare(runs).standings
    assert (second.run, second.trials, second.best, second.score) == (
        *("second", 2, "trial-0000"),
        0.7,
    )
    assert second.over_base == pytest.approx(1.3)
    assert second.over_default is None
    assert (first.best, first.score) == ("trial-0001", 0.9)
    assert (first.over_base, first.over_default) == (pytest.approx(1.44), pytest.approx(0.3))
    assert first.seconds == 3 * 125.5
    assert standing_cells(first)[3:6] == ("0.9000", "1.4400", "0.3000")


def test_what_differs_between_the_spaces(runs: list[RunFolder]) -> None:
    """A domain is one value; a name is no difference."""
    assert compare(runs).differences == {
        "model.quantization": ("nf4", "none"),
        "lora.r": ({"choice": [8, 16]}, 8),
        "lora.use_dora": (None, True),
    }
    assert compare([runs[0], runs[0]]).differences == {}


def test_other_data_is_said_loudly(tmp_path: Path, runs: list[RunFolder]) -> None:
    assert compare(runs).board.warnings == ()
    third = make_run(tmp_path / "third", [result(0, 0.1)], fingerprint="e" * 64)
    found = compare([runs[0], third])
    (warning,) = found.board.warnings
    assert "their losses do not compare" in warning
    assert warning in "".join(Page(to_html(found)).words)


def test_a_run_without_a_score_comes_last(tmp_path: Path, runs: list[RunFolder]) -> None:
    empty = make_run(tmp_path / "empty", [], base=None)
    last = compare([empty, *runs]).standings[-1]
    assert (last.run, last.trials, last.best, last.score) == ("empty", 0, None, None)


def test_the_page_has_all_of_it(runs: list[RunFolder]) -> None:
    found = compare(runs)
    page = Page(to_html(found))
    assert [(row["run"], row["trial"], row["#"]) for row in page.table()] == [
        (row.run, row.name, "" if row.rank is None else str(row.rank)) for row in found.board.rows
    ]
    (curves,) = page.figures.values()
    assert [trace["name"] for trace in curves["data"]] == ["first"] * 3 + ["second"] * 2
    thick = [trace["text"] for trace in curves["data"] if trace["line"]["width"] == 3]
    assert thick == ["trial-0001", "trial-0000"]
    assert len({trace["line"]["color"] for trace in curves["data"]}) == 2


def test_json_is_exact(runs: list[RunFolder]) -> None:
    data = json.loads(comparison_json(compare(runs)))
    assert data["runs"] == ["first", "second"]
    assert data["standings"][1]["over_default"] == 1.2 - 0.9
    assert data["differences"]["lora.r"] == [{"choice": [8, 16]}, 8]
    assert [row["eval_loss"] for row in data["leaderboard"]["rows"]][:2] == [0.7, 0.9]
