"""States, evaluations and results: what is ranked, what is final, and the way through JSON."""

from __future__ import annotations

import json
import math

import pytest
from tune_lora.trainer.result import (
    BaseScore,
    Evaluation,
    TrialResult,
    TrialState,
    perplexity,
    trial_name,
)

RESULT = TrialResult(
    number=7,
    state=TrialState.PRUNED,
    config={"number": 7, "lora": {"r": 8}, "baseline": False},
    score=1.25,
    best_step=3,
    step=9,
    evaluations=(Evaluation(3, 1.25, 4.5), Evaluation(9, 1.5, 12.0)),
    trainable_parameters=1024,
    tokens=4000,
    seconds=12.5,
    tokens_per_second=380.5,
    gpu_utilization=None,
)


def test_which_states_are_ranked_and_which_are_final() -> None:
    ranked = {state.value for state in TrialState if state.ranked}
    unfinished = {state.value for state in TrialState if not state.finished}
    assert ranked == {"COMPLETE", "PRUNED"}
    assert unfinished == {"RUNNING"}


@pytest.mark.parametrize("state", TrialState)
def test_through_json_and_back(state: TrialState) -> None:
    result = RESULT.ended(state, "Traceback: é\n")
    read = TrialResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert read == result
    assert read.state is state
    assert read.evaluations[1] == Evaluation(9, 1.5, 12.0)


def test_a_result_without_an_evaluation() -> None:
    bare = TrialResult(0, TrialState.FAILED, {}, error="boom")
    assert TrialResult.from_dict(json.loads(json.dumps(bare.to_dict()))) == bare
    assert (bare.score, bare.best_step, bare.evaluations) == (None, None, ())


def test_keys_of_a_later_version_are_passed_over() -> None:
    assert TrialResult.from_dict({**RESULT.to_dict(), "energy": 3}) == RESULT


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(ValueError, match="PAUSED"):
        TrialResult.from_dict({**RESULT.to_dict(), "state": "PAUSED"})


def test_ending_leaves_the_measurements() -> None:
    ended = RESULT.ended(TrialState.LOST, "worker died")
    assert (ended.state, ended.error) == (TrialState.LOST, "worker died")
    assert (ended.score, ended.step, ended.evaluations) == (1.25, 9, RESULT.evaluations)
    assert RESULT.state is TrialState.PRUNED


def test_names() -> None:
    assert (RESULT.name, trial_name(0), trial_name(12345)) == (
        "trial-0007",
        "trial-0000",
        "trial-12345",
    )


@pytest.mark.parametrize(("config", "baseline"), [({"baseline": True}, True), ({}, False)])
def test_the_baseline_is_known_by_its_config(config: dict[str, bool], baseline: bool) -> None:
    assert TrialResult(0, TrialState.COMPLETE, config).baseline is baseline


@pytest.mark.parametrize(
    ("loss", "value"),
    [(0.0, 1.0), (math.log(7), 7.0), (1000.0, math.inf), (math.inf, math.inf)],
)
def test_perplexity(loss: float, value: float) -> None:
    assert perplexity(loss) == pytest.approx(value)
    assert Evaluation(1, loss, 0.0).perplexity == BaseScore(loss, 1, 1, 0.0).perplexity
    assert Evaluation(1, loss, 0.0).perplexity == pytest.approx(value)


def test_the_perplexity_of_nan_is_nan() -> None:
    assert math.isnan(perplexity(math.nan))
