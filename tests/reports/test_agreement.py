"""How the rungs agree with the horizon, and what an audit of stopped trials says."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runs import make_run, result
from scipy.stats import spearmanr
from tune_lora.reports import build, to_json, to_markdown, verdict
from tune_lora.reports.agreement import agreement, audits, spearman
from tune_lora.trainer.result import Evaluation, TrialResult, TrialState


def course(number: int, *losses: float, state: TrialState = TrialState.COMPLETE) -> TrialResult:
    """A trial with losses at steps 3, 9 and 27, as far as they are given."""
    steps = (3, 9, 27)[: len(losses)]
    made = result(number, min(losses), state, step=steps[-1])
    done = tuple(Evaluation(s, loss, 1.0) for s, loss in zip(steps, losses, strict=True))
    return replace(made, evaluations=done)


@pytest.mark.parametrize("seed", range(20))
def test_spearman_is_scipys_with_ties_too(seed: int) -> None:
    draw = random.Random(seed)
    left = [float(draw.randrange(6)) for _ in range(9)]
    right = [float(draw.randrange(6)) for _ in range(9)]
    assert spearman(left, right) == pytest.approx(spearmanr(left, right).statistic)


def test_spearman_of_too_few_or_of_equals_is_unknown() -> None:
    assert spearman([1.0, 2.0], [2.0, 1.0]) is None
    assert spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def test_only_trials_that_reached_the_horizon_count() -> None:
    results = [
        course(0, 3.0, 2.0, 1.0),
        course(1, 2.5, 2.2, 1.2),
        course(2, 2.0, 2.4, 1.4),
        course(3, 1.0, state=TrialState.PRUNED),
    ]
    first, second = agreement(results, {})
    assert (first.step, first.trials, first.audited, first.spearman) == (3, 3, 0, -1.0)
    assert (second.step, second.trials, second.spearman) == (9, 3, 1.0)


def test_an_audited_trial_counts_with_the_others() -> None:
    results = [
        course(0, 3.0, 2.0, 1.0),
        course(1, 2.5, 2.2, 1.2),
        course(3, 3.5, state=TrialState.PRUNED),
    ]
    finished = {3: course(3, 3.5, 1.0, 0.5)}
    rung = agreement(results, finished)[0]
    assert (rung.trials, rung.audited, rung.spearman) == (3, 1, pytest.approx(-1.0))
    (audit,) = audits(results, finished)
    assert (audit.stopped_at, audit.score, audit.finished, audit.wrong) == (3, 3.5, 0.5, True)


def test_a_trial_that_would_not_have_won_was_stopped_rightly() -> None:
    results = [course(0, 3.0, 2.0, 1.0), course(1, 3.5, state=TrialState.PRUNED)]
    assert audits(results, {1: course(1, 3.5, 2.5, 1.5)})[0].wrong is False


def test_the_reports_say_it(tmp_path: Path) -> None:
    results = [course(n, 3.0 - n / 10, 2.0 - n / 10, 1.0 - n / 10) for n in range(3)]
    stopped = course(3, 3.2, state=TrialState.PRUNED)
    run = make_run(tmp_path / "run", [*results, stopped])
    run.trial(3).audit.write_result(course(3, 3.2, 1.9, 0.1))
    board = build(run)
    assert "1 of 1 audited trials were stopped wrongly" in verdict(board)
    assert "0.632 at step 9 (4 trials)" in verdict(board)
    assert "| 3 | 3 | 3.2000 | 0.1000 | yes |" in to_markdown(board).replace("  ", " ")
    assert '"wrong": true' in to_json(board)
    assert [row.rank for row in board.rows if row.trial == 3] == [4]
