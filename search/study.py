"""The Optuna study on disk: which trials exist, and what became of each.

Optuna is told the truth: a trial that was stopped early is PRUNED with its intermediate values,
one that broke is FAIL, and only one that reached its horizon is COMPLETE.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from ..spaces import Choice, FloatRange, IntRange, Space
from ..trainer.config import TrialConfig
from ..trainer.errors import TrialError
from ..trainer.result import TrialResult, TrialState
from .baseline import baseline_values

_CONFIG, _STATE = "config", "state"


class Study:
    """Asks Optuna for configurations and tells it results.

    Args:
        space: to sample from.
        path: of the SQLite file; made where it is missing.
        name: of the study inside it.

    Raises:
        TrialError: the file is no Optuna study.
    """

    def __init__(self, space: Space, path: Path, name: str) -> None:
        self._space = space
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self._study = optuna.create_study(
                storage=f"sqlite:///{path}",
                study_name=name,
                direction="minimize",
                load_if_exists=True,
            )
        except Exception as error:
            raise TrialError(f"{path}: cannot be opened as an Optuna study: {error}") from error
        # A sampler that starts over with the same seed would propose the same points again.
        self._study.sampler = make_sampler(space, len(self._study.trials))
        self._live: dict[int, optuna.Trial] = {}
        self._unfinished = [t.number for t in self._trials(OptunaState.RUNNING)]

    def __len__(self) -> int:
        """Trials so far, whatever became of them; one that is only enqueued is none yet."""
        return sum(t.state is not OptunaState.WAITING for t in self._trials())

    def next_config(self) -> TrialConfig | None:
        """The next trial to run: first those that an interrupted search left, then new ones.

        Returns:
            None once ``search.trials`` trials exist.
        """
        if self._unfinished:
            return self._take_up(self._unfinished.pop(0))
        if len(self) >= self._space.search.trials:
            return None
        if len(self) == 0 and self._space.search.baseline:
            return self._ask_baseline()
        return self._ask()

    def report(self, result: TrialResult) -> None:
        """Keep the trial's evaluations so far as intermediate values."""
        known = self._study.get_trials(deepcopy=False)[result.number].intermediate_values
        for evaluation in result.evaluations:
            if evaluation.step not in known:
                self._live[result.number].report(evaluation.eval_loss, evaluation.step)

    def tell(self, result: TrialResult) -> None:
        """The trial has ended in ``result.state``."""
        self.report(result)
        self._live[result.number].set_user_attr(_STATE, str(result.state))
        if result.state is TrialState.COMPLETE and result.score is not None:
            self._study.tell(result.number, result.score)
        elif result.state is TrialState.PRUNED:
            # Optuna takes the last intermediate value as a pruned trial's own.
            self._study.tell(result.number, state=OptunaState.PRUNED)
        else:
            self._study.tell(result.number, state=OptunaState.FAIL)

    def _ask(self) -> TrialConfig:
        return self._fill(self._study.ask())

    def _ask_baseline(self) -> TrialConfig:
        params = self._space.locate(baseline_values(self._space))
        if params is not None:
            self._study.enqueue_trial(params, skip_if_exists=True)
        return self._fill(self._study.ask())

    def _fill(self, trial: optuna.Trial) -> TrialConfig:
        """The trial's configuration: drawn, or for trial 0 the default one."""

        def suggest(name: str, domain: Choice | FloatRange | IntRange) -> Any:
            return _suggest(trial, name, domain)

        if trial.number > 0 or not self._space.search.baseline:
            return self._keep(trial, self._space.sample(suggest), baseline=False)
        values = baseline_values(self._space)
        if self._space.locate(values) is not None:
            # Draws what was enqueued, so that the study knows the parameters.
            self._space.sample(suggest)
        return self._keep(trial, values, baseline=True)

    def _keep(
        self, trial: optuna.Trial, values: Mapping[str, Mapping[str, Any]], *, baseline: bool
    ) -> TrialConfig:
        config = TrialConfig(
            number=trial.number,
            task=self._space.model.task,
            lora=values["lora"],
            train=values["train"],
            rungs=self._space.rungs(),
            baseline=baseline,
            params=dict(trial.params),
        )
        trial.set_user_attr(_CONFIG, json.dumps(config.to_dict()))
        self._live[trial.number] = trial
        return config

    def _take_up(self, number: int) -> TrialConfig:
        frozen = self._study.get_trials(deepcopy=False)[number]
        trial = optuna.Trial(self._study, frozen._trial_id)
        if _CONFIG not in frozen.user_attrs:
            # The search was killed between asking and keeping what was drawn.
            return self._fill(trial)
        self._live[number] = trial
        return TrialConfig.from_dict(json.loads(frozen.user_attrs[_CONFIG]))

    def _trials(self, *states: OptunaState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)


def make_sampler(space: Space, known: int) -> BaseSampler:
    """The sampler that the space names.

    Args:
        space: its ``search`` block.
        known: trials that the study already holds; part of the seed, so that a resumed search
            goes on to new points.
    """
    seed = space.search.seed + known
    if space.search.sampler == "random":
        return RandomSampler(seed=seed)
    # A third of the budget at random, then the model: Optuna's own ten would be a whole search.
    startup = max(3, min(10, space.search.trials // 3))
    with warnings.catch_warnings():
        # Optuna announces multivariate and group as experimental; its range is pinned.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
        )


def _suggest(trial: optuna.Trial, name: str, domain: Choice | FloatRange | IntRange) -> Any:
    if isinstance(domain, Choice):
        return trial.suggest_categorical(name, domain.labels)
    if isinstance(domain, FloatRange):
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)
    return trial.suggest_int(name, domain.low, domain.high, log=domain.log, step=domain.step or 1)
