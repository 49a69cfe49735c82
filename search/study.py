"""The Optuna study on disk: which trials exist, and what became of each.

Optuna is told the truth: a trial that was stopped early is PRUNED with its intermediate values,
one that broke is FAIL, and only one that reached its horizon is COMPLETE.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from ..spaces import Choice, FloatRange, IntRange, Label, Space
from ..spaces.metrics import find_objective
from ..trainer.config import TrialConfig
from ..trainer.errors import TrialError
from ..trainer.result import TrialResult, TrialState
from .baseline import baseline_values
from .measures import measures_of
from .priors import prior_params
from .samplers import Exhaustive, make_sampler, make_spare

_CONFIG, _RESULT, _TWIN, _REFUSED = "config", "result", "duplicate_of", "impossible"
"""Optuna user attributes: what is trained, what came of it, the trial that is the same, and why a
proposal cannot be trained here."""
_LOCK_SECONDS = 60
"""How long to wait while another process (a dashboard, say) has the study locked."""
_ENQUEUED = "enqueued"
"""Of the study: that the configurations to begin with are in it."""
_SAMPLED, _DRAWN = 5, 200
"""Known configurations to take from the sampler, and then from the spare one, before it is enough.
"""


class Study:
    """Asks Optuna for configurations and tells it results.

    Args:
        space: to sample from.
        path: of the SQLite file; made where it is missing.
        name: of the study inside it.
        first: parameters to try before all others, where the study is new.
        refuse: why a configuration (``lora`` and ``train`` fields) cannot be trained on this
            machine; None where it can. One that cannot never becomes a trial.

    Raises:
        TrialError: the file is no Optuna study.
    """

    def __init__(
        self,
        space: Space,
        path: Path,
        name: str,
        first: Sequence[Mapping[str, Label]] = (),
        refuse: Callable[[Mapping[str, Mapping[str, Any]]], str | None] = lambda values: None,
    ) -> None:
        self._space, self._wanted, self._refuse = space, first, refuse
        self._measures = measures_of(space)
        self._objectives = space.search.objectives
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            storage = RDBStorage(
                f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": _LOCK_SECONDS}}
            )
            self._study = optuna.create_study(
                storage=storage,
                study_name=name,
                directions=[
                    "maximize" if find_objective(name).maximize else "minimize"
                    for name in self._objectives
                ],
                load_if_exists=True,
            )
            _name(self._study, self._objectives)
        except Exception as error:
            raise TrialError(f"{path}: cannot be opened as an Optuna study: {error}") from error
        # A sampler that starts over with the same seed would propose the same points again.
        self._study.sampler = make_sampler(space, len(self._study.trials))
        self._live: dict[int, optuna.Trial] = {}
        self._unfinished = [t.number for t in self._trials(OptunaState.RUNNING)]
        self._seen = {
            _config(t).digest(): t.number for t in self._trials() if _CONFIG in t.user_attrs
        }

    def __len__(self) -> int:
        """Trials so far, whatever became of them."""
        return len(self.numbers())

    def next_config(self) -> TrialConfig | None:
        """The next trial to run: first those that an interrupted search left, then new ones.

        Returns:
            None once ``search.trials`` trials exist, or the space holds no other configuration.
        """
        while self._unfinished:
            config = self._take_up(self._unfinished.pop(0))
            if config is not None:
                return config
        if len(self) >= self._space.search.trials:
            return None
        if len(self) == 0 and self._space.search.baseline:
            first = self._ask_baseline()
            if first is not None:
                return first
        self._enqueue()
        return self._ask()

    def report(self, result: TrialResult) -> None:
        """Keep the trial's evaluations so far as intermediate values.

        Of one that has taken over another's state only those before: they alone are what the
        parameters that the study knows have led to. Optuna keeps none of a study with several
        objectives.
        """
        if result.config["lineage"] or len(self._objectives) > 1:
            return
        known = self._study.get_trials(deepcopy=False)[result.number].intermediate_values
        for evaluation in result.evaluations:
            value = evaluation.value(result.metric)
            if evaluation.step not in known and value is not None:
                self._trial(result.number).report(value, evaluation.step)

    def tell(self, result: TrialResult) -> None:
        """The trial has ended in ``result.state``."""
        self.report(result)
        self._trial(result.number).set_user_attr(_RESULT, json.dumps(result.to_dict()))
        inherited = result.state.ranked and result.config["lineage"]
        values = [value for value in result.values.values() if value is not None]
        if inherited:
            self._study.tell(result.number, state=OptunaState.PRUNED)
        elif result.state is TrialState.COMPLETE and len(values) == len(self._objectives):
            self._study.tell(result.number, values)
        elif result.state is TrialState.PRUNED:
            # Optuna takes the last intermediate value as a pruned trial's own.
            self._study.tell(result.number, state=OptunaState.PRUNED)
        else:
            self._study.tell(result.number, state=OptunaState.FAIL)
        if result.number in self._unfinished:
            self._unfinished.remove(result.number)

    def result(self, number: int) -> TrialResult | None:
        """What was told of trial ``number``; None before."""
        text = self._study.get_trials(deepcopy=False)[number].user_attrs.get(_RESULT)
        return None if text is None else TrialResult.from_dict(json.loads(text))

    def numbers(self) -> tuple[int, ...]:
        """Every trial's number, ascending."""
        return tuple(t.number for t in self._trials() if _CONFIG in t.user_attrs)

    def config(self, number: int) -> TrialConfig:
        """The configuration of trial ``number``."""
        return _config(self._study.get_trials(deepcopy=False)[number])

    def replace(self, config: TrialConfig) -> None:
        """The trial goes on with another configuration."""
        self._trial(config.number).set_user_attr(_CONFIG, json.dumps(config.to_dict()))
        self._seen[config.digest()] = config.number

    def _enqueue(self) -> None:
        """Line up what is to be tried before the sampler has its say, once a study."""
        if _ENQUEUED in self._study.user_attrs:
            return
        priors = prior_params(self._space) if self._space.search.priors else []
        for params in (*map(dict, self._wanted), *priors):
            self._study.enqueue_trial(params, skip_if_exists=True)
        self._study.set_user_attr(_ENQUEUED, True)

    def _ask_baseline(self) -> TrialConfig | None:
        params = self._space.locate(baseline_values(self._space))
        if params is not None:
            self._study.enqueue_trial(params, skip_if_exists=True)
        return self._fill(self._study.ask())

    def _ask(self) -> TrialConfig | None:
        """A configuration that no trial has had yet.

        A sampler that proposes a known or impossible one is told that it failed there. When it
        insists, a spare one has its turn, which over a finite space knows what is left.
        """
        own, spare = self._study.sampler, make_spare(self._space, len(self._trials()))
        try:
            for attempt in range(_SAMPLED + _DRAWN):
                if isinstance(spare, Exhaustive) and spare.exhausted(self._study):
                    return None
                self._study.sampler = own if attempt < _SAMPLED else spare
                trial = self._study.ask()
                config = self._fill(trial)
                if config is not None or not trial.params:
                    return config
        finally:
            self._study.sampler = own
        return None

    def _fill(self, trial: optuna.Trial) -> TrialConfig | None:
        """The trial's configuration: drawn, or for trial 0 the default one.

        None for one that another trial has had already, or that is impossible; Optuna is told.
        """
        default = trial.number == 0 and self._space.search.baseline
        if default:
            values = baseline_values(self._space)
            if self._space.locate(values) is not None:
                # Draws what was enqueued, so that the study knows the parameters.
                self._space.sample(partial(_suggest, trial))
        else:
            values = self._space.sample(partial(_suggest, trial))
        config = self._made(trial, values, baseline=default)
        twin = self._seen.get(config.digest())
        refused = self._refuse(values) if twin is None else None
        if twin is None and refused is None:
            return self._keep(trial, config)
        trial.set_user_attr(*((_TWIN, twin) if refused is None else (_REFUSED, refused)))
        self._study.tell(trial.number, state=OptunaState.FAIL)
        return None

    def _made(
        self, trial: optuna.Trial, values: Mapping[str, Mapping[str, Any]], *, baseline: bool
    ) -> TrialConfig:
        return TrialConfig(
            number=trial.number,
            task=self._space.model.task,
            lora=values["lora"],
            train=values["train"],
            rungs=self._space.rungs(),
            metric=self._objectives[0],
            objectives=self._objectives if len(self._objectives) > 1 else (),
            measures=self._measures,
            checkpoint_minutes=self._space.search.checkpoint_minutes,
            baseline=baseline,
            params=dict(trial.params),
        )

    def _keep(self, trial: optuna.Trial, config: TrialConfig) -> TrialConfig:
        trial.set_user_attr(_CONFIG, json.dumps(config.to_dict()))
        self._live[trial.number] = trial
        self._seen[config.digest()] = trial.number
        return config

    def _take_up(self, number: int) -> TrialConfig | None:
        if number in self.numbers():
            return self.config(number)
        # The search was killed between asking and keeping what was drawn.
        return self._fill(self._trial(number))

    def _trial(self, number: int) -> optuna.Trial:
        if number not in self._live:
            frozen = self._study.get_trials(deepcopy=False)[number]
            self._live[number] = optuna.Trial(self._study, frozen._trial_id)
        return self._live[number]

    def _trials(self, *states: OptunaState) -> list[FrozenTrial]:
        wanted = states or (
            OptunaState.RUNNING,
            OptunaState.COMPLETE,
            OptunaState.PRUNED,
            OptunaState.FAIL,
        )
        return self._study.get_trials(deepcopy=False, states=wanted)


def _name(study: optuna.Study, objectives: Sequence[str]) -> None:
    """What its values are called in optuna-dashboard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([*objectives])


def _config(frozen: FrozenTrial) -> TrialConfig:
    return TrialConfig.from_dict(json.loads(frozen.user_attrs[_CONFIG]))


def _suggest(trial: optuna.Trial, name: str, domain: Choice | FloatRange | IntRange) -> Any:
    if isinstance(domain, Choice):
        return trial.suggest_categorical(name, domain.labels)
    if isinstance(domain, FloatRange):
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)
    return trial.suggest_int(name, domain.low, domain.high, log=domain.log, step=domain.step or 1)
