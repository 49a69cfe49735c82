"""What every sampler must do, whichever a space names.

The studies are kept in memory, which is faster, but for those that are opened again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from modelless import space_in
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from outcomes import everything, following, opened, outcome
from tune_lora.search import study as study_module
from tune_lora.search.samplers import make_sampler, startup_trials
from tune_lora.search.study import Study
from tune_lora.spaces import Space, SpaceError
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialState

HERE = Path(__file__).parent
SpaceOf = Callable[..., Space]
StudyOf = Callable[[Space], Study]
Blocks = Mapping[str, dict[str, Any]]

SAMPLERS = ["tpe", "gp", "cmaes", "random", "grid", "qmc"]
CONTINUOUS = [name for name in SAMPLERS if name != "grid"]

FINITE: Blocks = {
    "lora": {"r": {"choice": [2, 4]}, "lora_alpha": {"ratio_of": "r", "choice": [1, 2]}},
    "train": {
        "learning_rate": 1e-2,
        "weight_decay": {"uniform": [0.0, 0.1], "step": 0.1},
    },
}
"""8 combinations, and a baseline that is none of them."""
CONDITIONAL: Blocks = {
    "lora": {
        "r": {"choice": [2, 4]},
        "use_dora": {
            "choice": [
                False,
                {"value": True, "with": {"train.learning_rate": {"choice": [1e-4, 2e-4]}}},
            ]
        },
    },
    "train": {"learning_rate": {"choice": [1e-3, 1e-2, 1e-1]}},
}
"""2 x (3 + 2) combinations."""
RANGES: Blocks = {
    "train": {
        "learning_rate": {"log_uniform": [1e-3, 1e-1]},
        "weight_decay": {"uniform": [0.0, 0.1]},
    }
}


def loss_of(config: TrialConfig) -> float:
    return 1.0 + float(config.train["learning_rate"]) + 1.0 / config.lora["r"]


def told(study: Study, config: TrialConfig, state: TrialState = TrialState.COMPLETE) -> None:
    """The trial ends, with losses that depend on its configuration alone."""
    losses = {TrialState.COMPLETE: [loss_of(config)] * 3, TrialState.PRUNED: [loss_of(config)]}
    study.tell(outcome(config, state, losses.get(state, [])))


def searched(study: Study) -> list[TrialConfig]:
    """All that are left, one after the other."""
    configs = []
    for config in iter(study.next_config, None):
        told(study, config)
        configs.append(config)
    return configs


def digests(configs: list[TrialConfig]) -> set[str]:
    return {config.digest() for config in configs}


def named(sampler: str, trials: int = 30, **more: object) -> dict[str, object]:
    return {"sampler": sampler, "trials": trials, **more}


@pytest.fixture
def space_of(tmp_path: Path) -> SpaceOf:
    return partial(space_in, tmp_path)


@pytest.fixture
def study_of(monkeypatch: pytest.MonkeyPatch, run: RunFolder) -> StudyOf:
    """A new study in memory."""

    def make(space: Space) -> Study:
        monkeypatch.setattr(study_module, "RDBStorage", lambda *_, **__: InMemoryStorage())
        return opened(space, run)

    return make


@pytest.fixture(params=SAMPLERS)
def sampler(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_finite_space_is_exhausted_without_a_duplicate(
    space_of: SpaceOf, study_of: StudyOf, sampler: str
) -> None:
    study = study_of(space_of(**FINITE, search=named(sampler)))
    configs = searched(study)
    assert [config.baseline for config in configs] == [True] + [False] * 8
    assert len(digests(configs)) == 9
    for config in configs[1:]:
        assert config.lora["r"] in (2, 4)
        assert config.lora["lora_alpha"] / config.lora["r"] in (1, 2)
        assert config.train["weight_decay"] in (0.0, pytest.approx(0.1))
    before = len(study._study.trials)
    assert study.next_config() is None
    assert len(study._study.trials) == before


def test_an_option_that_brings_its_own_learning_rates(
    space_of: SpaceOf, study_of: StudyOf, sampler: str
) -> None:
    configs = searched(study_of(space_of(**CONDITIONAL, search=named(sampler))))[1:]
    assert len(digests(configs)) == len(configs) == 10
    for config in configs:
        own = (1e-4, 2e-4) if config.lora["use_dora"] else (1e-3, 1e-2, 1e-1)
        assert config.train["learning_rate"] in own


@pytest.mark.parametrize("sampler", CONTINUOUS)
def test_conditional_ranges(space_of: SpaceOf, study_of: StudyOf, sampler: str) -> None:
    given = {"value": True, "with": {"train.learning_rate": {"log_uniform": [1e-5, 1e-4]}}}
    lora = {"use_dora": {"choice": [False, given]}}
    configs = searched(study_of(space_of(lora=lora, search=named(sampler, 12, priors=False))))[1:]
    assert {config.lora["use_dora"] for config in configs} == {True, False}
    for config in configs:
        low, high = (1e-5, 1e-4) if config.lora["use_dora"] else (1e-3, 1e-1)
        assert low <= config.train["learning_rate"] <= high


@pytest.mark.parametrize("sampler", CONTINUOUS)
def test_ranges(space_of: SpaceOf, study_of: StudyOf, sampler: str) -> None:
    configs = searched(study_of(space_of(**RANGES, search=named(sampler, 9))))[1:]
    assert len(digests(configs)) == len(configs) == 8
    for config in configs:
        assert config.lora["r"] in (2, 4)
        assert 1e-3 <= config.train["learning_rate"] <= 1e-1
        assert 0.0 <= config.train["weight_decay"] <= 0.1


def test_the_seed_decides(space_of: SpaceOf, study_of: StudyOf, sampler: str) -> None:
    def drawn(seed: int) -> list[Mapping[str, Any] | None]:
        blocks = FINITE if sampler == "grid" else RANGES
        space = space_of(**blocks, search=named(sampler, 7, seed=seed, priors=False))
        return [config.params for config in searched(study_of(space))]

    first = drawn(2**32 - 1)
    assert drawn(2**32 - 1) == first
    assert drawn(1) != first


def test_resumed_it_goes_on_to_new_points(space_of: SpaceOf, run: RunFolder, sampler: str) -> None:
    blocks = FINITE if sampler == "grid" else RANGES
    configs = []
    for trials in (5, 8):
        configs += searched(opened(space_of(**blocks, search=named(sampler, trials)), run))
    assert [config.number for config in configs][:5] == list(range(5))
    assert len(digests(configs)) == len(configs) == 8


def test_resumed_after_a_kill_it_exhausts_a_finite_space(
    space_of: SpaceOf, run: RunFolder, sampler: str
) -> None:
    space = space_of(**FINITE, search=named(sampler, priors=False))
    study = opened(space, run)
    for _ in range(3):
        told(study, following(study))
    # Killed while one trial ran, and another had drawn its first parameter.
    running = following(study)
    study._study.ask().suggest_categorical("lora.r", [2, 4])
    again = opened(space, run)
    assert following(again) == running
    searched(again)
    assert len(digests([again.config(number) for number in again.numbers()])) == 9
    assert len(again) == 9


def test_trials_that_were_stopped_broke_or_still_run(
    space_of: SpaceOf, study_of: StudyOf, sampler: str
) -> None:
    study = study_of(space_of(**FINITE, search=named(sampler)))
    ends = [TrialState.FAILED, TrialState.PRUNED, TrialState.COMPLETE, None, TrialState.DIVERGED]
    configs = []
    for number, config in enumerate(iter(study.next_config, None)):
        end = ends[number % len(ends)]
        if end is not None:
            told(study, config, end)
        configs.append(config)
    assert len(digests(configs)) == len(configs) == 9


def test_workers_that_ask_before_any_trial_ends(
    space_of: SpaceOf, study_of: StudyOf, sampler: str
) -> None:
    configs = everything(study_of(space_of(**FINITE, search=named(sampler))))
    assert len(digests(configs)) == len(configs) == 9


@pytest.mark.parametrize("baseline", [True, False])
def test_a_space_of_one_configuration(
    space_of: SpaceOf, study_of: StudyOf, sampler: str, baseline: bool
) -> None:
    fixed = ("lora.r=2", "train.learning_rate=0.01")
    study = study_of(space_of(*fixed, search=named(sampler, baseline=baseline)))
    assert [config.baseline for config in searched(study)] == [True, False][not baseline :]
    assert study.next_config() is None
    assert len(study._study.trials) <= 4


@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_grid_visits_every_combination_once(
    space_of: SpaceOf, study_of: StudyOf, baseline: bool, inside: bool
) -> None:
    space = space_of(
        lora={"r": {"choice": [4, 8]}, "lora_alpha": 32, "lora_dropout": 0.05},
        train={
            "learning_rate": {"choice": [1e-3, 1e-2, 2e-5]},
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.03,
            "optim": "paged_adamw_8bit" if inside else "adamw_torch",
        },
        search=named("grid", baseline=baseline),
    )
    study = study_of(space)
    configs = searched(study)
    found = sorted((c.lora["r"], c.train["learning_rate"]) for c in configs if c.params)
    assert found == [(r, rate) for r in (4, 8) for rate in (2e-5, 1e-3, 1e-2)]
    assert len(configs) == 6 + (baseline and not inside)
    assert [t for t in study._study.trials if "duplicate_of" in t.user_attrs] == []


def test_grid_over_whole_numbers_and_steps(space_of: SpaceOf, study_of: StudyOf) -> None:
    space = space_of(
        lora={"r": {"int": [2, 8], "step": 3}},
        train={"learning_rate": {"uniform": [0.01, 0.03], "step": 0.01}},
        search=named("grid"),
    )
    configs = searched(study_of(space))[1:]
    found = {(c.lora["r"], round(c.train["learning_rate"], 9)) for c in configs}
    assert found == {(r, rate) for r in (2, 5, 8) for rate in (0.01, 0.02, 0.03)}
    assert len(configs) == 9


@pytest.mark.parametrize(
    ("domain", "rule"),
    [
        ({"log_uniform": [1e-3, 1e-1]}, "no end of values"),
        ({"uniform": [0.01, 0.11], "step": 1e-6}, "100001 values"),
    ],
)
def test_grid_over_too_much_is_a_fault(
    space_of: SpaceOf, study_of: StudyOf, domain: dict[str, Any], rule: str
) -> None:
    with pytest.raises(SpaceError) as caught:
        study_of(space_of(train={"learning_rate": domain}, search=named("grid")))
    (fault,) = caught.value.faults
    assert fault.path == "search.sampler"
    assert "train.learning_rate" in str(fault)
    assert rule in str(fault)


@pytest.mark.parametrize("sampler", ["gp", "cmaes", "qmc"])
@pytest.mark.parametrize("baseline", [True, False])
def test_a_baseline_outside_the_space_does_not_turn_a_sampler_into_chance(
    space_of: SpaceOf,
    study_of: StudyOf,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    baseline: bool,
) -> None:
    asked: list[tuple[str, int]] = []
    original = RandomSampler.sample_independent

    def sample(self: RandomSampler, study: Any, trial: Any, name: str, domain: Any) -> Any:
        asked.append((name, trial.number))
        return original(self, study, trial, name, domain)

    monkeypatch.setattr(RandomSampler, "sample_independent", sample)
    space = space_of(**RANGES, search=named(sampler, 7, priors=False, baseline=baseline))
    searched(study_of(space))
    startup = 0 if sampler == "qmc" else startup_trials(7)
    by_chance = {number for name, number in asked if name == "train.learning_rate"}
    assert by_chance == set(range(baseline, startup + baseline)) if startup else not by_chance


def test_qmc_resumed_goes_on_in_its_sequence(
    space_of: SpaceOf, study_of: StudyOf, run: RunFolder
) -> None:
    found = []
    for trials in (4, 8):
        found += searched(opened(space_of(**RANGES, search=named("qmc", trials)), run))
    expected = searched(study_of(space_of(**RANGES, search=named("qmc", 8))))
    assert [config.params for config in found] == [config.params for config in expected]


def test_cmaes_without_a_range_says_that_it_cannot_learn(
    space_of: SpaceOf, caplog: pytest.LogCaptureFixture
) -> None:
    make_sampler(space_of(**FINITE, search=named("cmaes")), 0)
    assert caplog.text == ""
    make_sampler(space_of(**CONDITIONAL, search=named("cmaes")), 0)
    assert "draws at random" in caplog.text


@pytest.mark.parametrize(("trials", "expected"), [(1, 3), (9, 3), (18, 6), (100, 10)])
def test_startup_trials(trials: int, expected: int) -> None:
    assert startup_trials(trials) == expected


GAUSSIAN = """
import sys
from pathlib import Path

from modelless import space_in
from test_samplers import RANGES, named, searched
from tune_lora.search.study import Study

folder = Path(sys.argv[1])
space = space_in(folder, **RANGES, search=named("gp", trials=8))
assert len(searched(Study(space, folder / "study.db", "study"))) == 8
assert "optuna._gp.batched_lbfgsb" in sys.modules
"""


def test_the_gaussian_process_has_nothing_to_say_to_the_user(tmp_path: Path) -> None:
    # In a process of its own, for Optuna speaks when it is first imported.
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, "-c", GAUSSIAN, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
