"""The verdict's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_runs import make_run, mixed_run, result
from tune_lora.reports import build, verdict
from tune_lora.reports.formats import clock, count, loss, short, size
from tune_lora.trainer.result import TrialState


def test_best_base_default_and_counts(tmp_path: Path) -> None:
    assert verdict(build(mixed_run(tmp_path / "run"))) == (
        "Best: trial-0004, eval_loss 0.412 (perplexity 1.51) at step 27 of 27: "
        "1.93 below the base model (2.34), 0.608 below the default configuration (1.02). "
        "That is the best of single runs and flatters it: tune-lora confirm says what to expect. "
        "11 trials: 1 RUNNING, 4 COMPLETE, 2 PRUNED, 1 DIVERGED, 1 OUT_OF_MEMORY, 1 FAILED, "
        "1 LOST."
    )


def test_a_search_that_made_it_worse_says_above(tmp_path: Path) -> None:
    text = verdict(build(make_run(tmp_path, [result(0, 2.5)])))
    assert "0.16 above the base model (2.34)" in text
    assert text.endswith("1 trial: 1 COMPLETE.")


def test_the_default_won(tmp_path: Path) -> None:
    text = verdict(build(make_run(tmp_path, [result(0, 0.4, baseline=True), result(1, 0.5)])))
    assert text.startswith("Best: the default configuration (trial-0000), eval_loss 0.4 ")
    assert "no trial beat it" in text


def test_the_default_alone_has_beaten_nobody(tmp_path: Path) -> None:
    assert "no trial beat" not in verdict(
        build(make_run(tmp_path, [result(0, 0.4, baseline=True)]))
    )


def test_a_default_that_was_pruned_is_marked(tmp_path: Path) -> None:
    pruned = result(0, 1.5, TrialState.PRUNED, step=9, baseline=True)
    text = verdict(build(make_run(tmp_path, [pruned, result(1, 0.5)])))
    assert "1 below the default configuration (1.5, PRUNED at step 9)" in text


def test_a_default_without_a_score(tmp_path: Path) -> None:
    failed = result(0, None, TrialState.FAILED, baseline=True, error="x")
    text = verdict(build(make_run(tmp_path, [failed, result(1, 0.5)])))
    assert "the default configuration has no score (FAILED)" in text


def test_no_base_and_no_default(tmp_path: Path) -> None:
    text = verdict(build(make_run(tmp_path, [result(1, 0.5)], base=None)))
    assert text == (
        "Best: trial-0001, eval_loss 0.5 (perplexity 1.65) at step 27 of 27. 1 trial: 1 COMPLETE."
    )


def test_nothing_ranked(tmp_path: Path) -> None:
    diverged = result(0, 0.1, TrialState.DIVERGED)
    text = verdict(build(make_run(tmp_path, [diverged])))
    assert text == "No trial has a score to rank. 1 trial: 1 DIVERGED."


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (short(0.0041234), "0.00412"),
        (short(999.6), "1,000"),
        (short(123_456.0), "1.2e+05"),
        (short(float("inf")), "inf"),
        (count(999), "999"),
        (count(999_950), "1M"),
        (count(4_884_480), "4.88M"),
        (size(1023), "1023 B"),
        (size(1020 * 2**10), "1020 KiB"),
        (size(2**20 - 100), "1 MiB"),
        (size(0), "0 B"),
        (loss(123.456), "123.5"),
        (clock(3723.4), "1:02:03"),
        (clock(59.7), "1:00"),
    ],
)
def test_short_numbers(made: str, text: str) -> None:
    assert made == text
