"""What the study is asked: the baseline first, the seed's points, what was left unfinished."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from optuna.trial import TrialState as OptunaState
from outcomes import everything, following, opened, outcome, read_back
from tune_lora.search.baseline import LORA, TRAIN
from tune_lora.spaces import Space
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialState

SpaceOf = Callable[..., Space]

INSIDE = {
    "lora": {
        "r": {"choice": [4, 8]},
        "lora_alpha": {"choice": [16, 32]},
        **{key: LORA[key] for key in ("target_modules", "lora_dropout")},
    },
    "train": {**TRAIN, "learning_rate": {"log_uniform": [1e-5, 1e-2]}},
}


def test_baseline_outside_the_space_is_trial_0_without_params(
    space_of: SpaceOf, run: RunFolder
) -> None:
    configs = everything(opened(space_of(), run))
    assert [config.baseline for config in configs] == [True, False, False]
    first = configs[0]
    assert (first.number, first.lora["r"], first.train["learning_rate"]) == (0, 8, 2e-5)
    assert read_back(run)[0].params == {}


def test_baseline_inside_the_space_is_trial_0_with_its_params(
    space_of: SpaceOf, run: RunFolder
) -> None:
    first = following(opened(space_of(**INSIDE), run))
    params = {"lora.r": 8, "lora.lora_alpha": 32, "train.learning_rate": pytest.approx(2e-5)}
    assert first.baseline
    assert (first.lora["r"], first.train["learning_rate"]) == (8, 2e-5)
    assert read_back(run)[0].params == params


def test_no_baseline_where_the_space_wants_none(space_of: SpaceOf, run: RunFolder) -> None:
    configs = everything(opened(space_of("search.baseline=false"), run))
    assert [config.baseline for config in configs] == [False] * 3


@pytest.mark.parametrize("trials", [1, 5])
def test_no_more_trials_than_the_space_says(space_of: SpaceOf, run: RunFolder, trials: int) -> None:
    study = opened(space_of(f"search.trials={trials}"), run)
    assert [c.number for c in everything(study)] == list(range(trials))
    assert len(study) == trials
    assert study.next_config() is None


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_configurations_lie_in_the_space(space_of: SpaceOf, run: RunFolder, sampler: str) -> None:
    study = opened(space_of("search.trials=20", f"search.sampler={sampler}"), run)
    for config in everything(study)[1:]:
        assert config.lora["r"] in (2, 4)
        assert 1e-3 <= config.train["learning_rate"] <= 1e-1
        assert config.rungs == (1, 2, 4)
        assert config.params == read_back(run)[config.number].params


def drawn(space: Space, run: RunFolder) -> list[tuple[int, float]]:
    """Every configuration of a search whose losses depend on its configurations alone."""
    study = opened(space, run)
    found = []
    for config in iter(study.next_config, None):
        rate = float(config.train["learning_rate"])
        found.append((int(config.lora["r"]), rate))
        study.tell(outcome(config, TrialState.COMPLETE, [rate, rate, rate]))
    return found


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_seed_decides_the_configurations(
    space_of: SpaceOf, run: RunFolder, sampler: str
) -> None:
    overrides = ("search.trials=12", f"search.sampler={sampler}")
    other = RunFolder(run.root / "again")
    third = RunFolder(run.root / "third")
    for folder in (other, third):
        folder.root.mkdir()
    first = drawn(space_of(*overrides), run)
    assert drawn(space_of(*overrides), other) == first
    assert drawn(space_of(*overrides, "search.seed=1"), third)[1:] != first[1:]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_opened_again_it_goes_on_with_other_points(
    space_of: SpaceOf, run: RunFolder, sampler: str
) -> None:
    drawn(space_of("search.trials=4", f"search.sampler={sampler}"), run)
    drawn(space_of("search.trials=8", f"search.sampler={sampler}"), run)
    rates = [trial.params["train.learning_rate"] for trial in read_back(run)[1:]]
    assert len(rates) == 7
    assert len(set(rates)) == 7


def test_unfinished_trials_are_taken_up_first(space_of: SpaceOf, run: RunFolder) -> None:
    study = opened(space_of("search.trials=4"), run)
    before = [following(study) for _ in range(3)]
    study.report(outcome(before[2], TrialState.RUNNING, [3.0]))
    study.tell(outcome(before[1], TrialState.COMPLETE, [3.0, 2.0, 1.0]))

    again = opened(space_of("search.trials=4"), run)
    taken = everything(again)
    assert [config.number for config in taken] == [0, 2, 3]
    assert [c.to_dict() for c in taken[:2]] == [before[0].to_dict(), before[2].to_dict()]
    again.tell(outcome(taken[1], TrialState.COMPLETE, [3.0, 2.0, 1.5]))
    told = read_back(run)[2]
    assert (told.state, told.value) == (OptunaState.COMPLETE, 1.5)
    assert told.intermediate_values == {1: 3.0, 2: 2.0, 4: 1.5}


@pytest.mark.parametrize("known", [0, 1])
def test_a_trial_that_was_killed_before_its_configuration_was_kept_is_drawn_again(
    space_of: SpaceOf, run: RunFolder, known: int
) -> None:
    study = opened(space_of(), run)
    for _ in range(known):
        study.tell(outcome(following(study), TrialState.COMPLETE, [3.0, 2.0, 1.0]))
    optuna.load_study(study_name=run.name, storage=f"sqlite:///{run.study}").ask()
    taken = everything(opened(space_of(), run))
    assert [config.number for config in taken] == list(range(known, 3))
    assert [config.baseline for config in taken] == [n == 0 for n in range(known, 3)]
    assert taken[0].lora["r"] == (8 if known == 0 else read_back(run)[1].params["lora.r"])


def test_a_baseline_that_was_only_enqueued_is_still_the_baseline(
    space_of: SpaceOf, run: RunFolder
) -> None:
    opened(space_of(**INSIDE), run)
    params = {"lora.r": 8, "lora.lora_alpha": 32, "train.learning_rate": 2e-5}
    storage = f"sqlite:///{run.study}"
    optuna.load_study(study_name=run.name, storage=storage).enqueue_trial(params)
    configs = everything(opened(space_of(**INSIDE), run))
    assert [(c.number, c.baseline) for c in configs] == [(0, True), (1, False), (2, False)]
    assert configs[0].params == pytest.approx(params)
