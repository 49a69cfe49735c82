"""What Optuna is told of each trial, read back from the file on disk."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from optuna.trial import TrialState as OptunaState
from outcomes import following, opened, outcome, read_back
from tune_lora.spaces import Space
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialState

SpaceOf = Callable[..., Space]


def test_complete_is_told_with_the_best_score(space_of: SpaceOf, run: RunFolder) -> None:
    study = opened(space_of(), run)
    study.tell(outcome(following(study), TrialState.COMPLETE, [3.0, 1.5, 2.0]))
    told = read_back(run)[0]
    assert (told.state, told.value) == (OptunaState.COMPLETE, 1.5)
    assert told.intermediate_values == {1: 3.0, 2: 1.5, 4: 2.0}


def test_stopped_is_told_pruned_with_its_intermediate_values(
    space_of: SpaceOf, run: RunFolder
) -> None:
    study = opened(space_of(), run)
    config = following(study)
    study.report(outcome(config, TrialState.RUNNING, [3.0]))
    study.tell(outcome(config, TrialState.PRUNED, [3.0, 2.5]))
    told = read_back(run)[0]
    assert told.state is OptunaState.PRUNED
    assert told.intermediate_values == {1: 3.0, 2: 2.5}
    assert json.loads(told.user_attrs["result"])["state"] == "PRUNED"


@pytest.mark.parametrize("state", ["DIVERGED", "FAILED", "OUT_OF_MEMORY", "LOST"])
def test_broken_is_told_fail_even_with_a_score(
    space_of: SpaceOf, run: RunFolder, state: str
) -> None:
    study = opened(space_of(), run)
    study.tell(outcome(following(study), TrialState(state), [0.1]))
    told = read_back(run)[0]
    assert (told.state, told.value) == (OptunaState.FAIL, None)
    assert json.loads(told.user_attrs["result"])["state"] == state


def test_a_running_trial_is_running_on_disk(space_of: SpaceOf, run: RunFolder) -> None:
    study = opened(space_of(), run)
    study.report(outcome(following(study), TrialState.RUNNING, [3.0]))
    told = read_back(run)[0]
    assert (told.state, told.intermediate_values) == (OptunaState.RUNNING, {1: 3.0})


def test_a_file_that_is_no_study_is_an_error_that_names_it(
    space_of: SpaceOf, run: RunFolder
) -> None:
    run.study.write_text("not a database", encoding="utf-8")
    with pytest.raises(TrialError, match=r"study\.db: cannot be opened as an Optuna study"):
        opened(space_of(), run)
