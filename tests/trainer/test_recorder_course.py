"""The recorder alone: what it keeps of a course of losses."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny_trials import go_on, make_config, stop
from tune_lora.trainer.folder import TrialFolder
from tune_lora.trainer.recorder import Recorder
from tune_lora.trainer.result import Evaluation, TrialResult, TrialState


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    return TrialFolder(tmp_path / "trial")


def replay(
    recorder: Recorder, losses: Sequence[float], shares: Sequence[float | None] = ()
) -> list[int]:
    """Evaluate once a step until the recorder stops; the steps at which it saved.

    With shares, these are of exact matches; None for one that came to nothing.
    """
    saved: list[int] = []
    for step, loss in enumerate(losses, 1):
        recorder.save = saved.append
        share = shares[step - 1] if shares else None
        recorder.evaluated(step, loss, {} if share is None else {"exact_match": share})
        if recorder.stopped:
            break
    return saved


@pytest.mark.parametrize(
    ("losses", "saved"),
    [
        ([3.0, 2.0, 1.0], [1, 2, 3]),
        ([3.0, 4.0, 2.0], [1, 3]),
        ([3.0, 4.0, 5.0], [1]),
        ([3.0, 3.0, 3.0], [1]),
        ([0.0, 0.1, -0.1], [1, 3]),
    ],
)
def test_saves_at_each_new_best(folder: TrialFolder, losses: list[float], saved: list[int]) -> None:
    recorder = Recorder(make_config(max_steps=3), folder, go_on)
    assert replay(recorder, losses) == saved
    result = recorder.finished()
    assert (result.state, result.best_step) == (TrialState.COMPLETE, saved[-1])
    assert result.score == losses[saved[-1] - 1] == min(losses)


@pytest.mark.parametrize(
    ("patience", "threshold", "losses", "steps"),
    [
        (1, None, [3.0, 2.0, 2.0, 1.0], 3),
        (2, None, [3.0, 4.0, 2.0, 3.0, 3.0, 1.0], 5),
        (2, None, [3.0, 2.9, 2.8, 2.7], 4),
        (2, 0.5, [3.0, 2.9, 2.8, 2.7], 3),
        (None, None, [3.0, 4.0, 5.0, 6.0], 4),
    ],
)
def test_patience(
    folder: TrialFolder,
    patience: int | None,
    threshold: float | None,
    losses: list[float],
    steps: int,
) -> None:
    config = make_config(
        max_steps=9, early_stopping_patience=patience, early_stopping_threshold=threshold
    )
    recorder = Recorder(config, folder, go_on)
    replay(recorder, losses)
    result = recorder.finished()
    assert len(result.evaluations) == steps
    assert result.stopped_early is (steps < len(losses) or steps == 3)


@pytest.mark.parametrize(
    ("shares", "losses", "saved"),
    [
        ([0.1, 0.5, 0.3], [3.0, 2.0, 1.0], [1, 2]),
        ([0.9, 0.5, 0.3], [3.0, 2.0, 1.0], [1]),
        # Of equal shares, the one with less loss.
        ([0.5, 0.5, 0.5], [3.0, 1.0, 2.0], [1, 2]),
        ([0.0, 0.0, 0.25], [1.0, 2.0, 3.0], [1, 3]),
        # What came to nothing is not the best, whatever its loss.
        ([None, 0.0, None], [1.0, 3.0, 0.5], [2]),
    ],
)
def test_saves_at_each_new_best_of_a_metric_of_which_more_is_better(
    folder: TrialFolder, shares: list[float | None], losses: list[float], saved: list[int]
) -> None:
    recorder = Recorder(make_config(max_steps=3, metric="exact_match"), folder, go_on)
    assert replay(recorder, losses, shares) == saved
    result = recorder.finished()
    assert (result.best_step, result.score) == (saved[-1], shares[saved[-1] - 1])
    assert result.merit == (-(result.score or 0.0), losses[saved[-1] - 1])
    assert TrialResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_a_metric_that_never_came_to_anything_is_no_score(folder: TrialFolder) -> None:
    recorder = Recorder(make_config(max_steps=2, metric="exact_match"), folder, go_on)
    assert replay(recorder, [3.0, 2.0], [None, None]) == []
    result = recorder.finished()
    assert (result.state, result.score, result.best) == (TrialState.COMPLETE, None, None)
    assert result.merit == (math.inf, math.inf)


@pytest.mark.parametrize(
    ("threshold", "shares", "steps"),
    [
        (None, [0.1, 0.2, 0.2, 0.2, 0.9], 4),
        (None, [0.3, None, None, 0.9], 3),
        (0.1, [0.1, 0.15, 0.19, 0.9], 3),
        (None, [0.1, 0.2, 0.3, 0.4], 4),
    ],
)
def test_patience_is_with_the_metric_and_not_with_the_loss(
    folder: TrialFolder, threshold: float | None, shares: list[float | None], steps: int
) -> None:
    config = make_config(
        max_steps=9,
        metric="exact_match",
        early_stopping_patience=2,
        early_stopping_threshold=threshold,
    )
    recorder = Recorder(config, folder, go_on)
    replay(recorder, [9.0 - step for step in range(len(shares))], shares)
    assert len(recorder.finished().evaluations) == steps


def test_perplexity_that_is_too_large_for_a_number_is_none() -> None:
    assert Evaluation(1, 1e6, 1.0).value("perplexity") is None
    assert Evaluation(1, 1e6, 1.0).cost("perplexity") == math.inf
    assert Evaluation(1, 2.0, 1.0).value("perplexity") == pytest.approx(math.e**2)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_loss_that_is_not_finite_is_neither_saved_nor_scored(
    folder: TrialFolder, loss: float
) -> None:
    recorder = Recorder(make_config(max_steps=3), folder, go_on)
    assert replay(recorder, [2.0, loss, 1.0]) == [1]
    result = recorder.finished()
    assert (result.state, result.score, result.best_step) == (TrialState.DIVERGED, 2.0, 1)
    lines = folder.metrics.read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["eval_loss"] for row in rows] == [2.0, None]


def test_error_outweighs_what_the_course_says(folder: TrialFolder) -> None:
    recorder = Recorder(make_config(max_steps=3), folder, stop)
    replay(recorder, [2.0])
    assert recorder.stopped
    result = recorder.finished(TrialState.FAILED, "Traceback")
    assert (result.state, result.error, result.score) == (TrialState.FAILED, "Traceback", 2.0)
