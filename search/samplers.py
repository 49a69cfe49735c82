"""Optuna's samplers by the names that a space gives them.

`tpe` is the multivariate, grouped Tree-structured Parzen Estimator with a constant liar
(https://arxiv.org/abs/2304.11127); `gp` a Gaussian process; `cmaes` CMA-ES, which samples numbers
and leaves choices to chance; `qmc` a scrambled Sobol sequence; `grid` every combination once, in
random order; `random` independent draws.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Container, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    GPSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.samplers._brute_force import _TreeNode
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ..spaces import Choice, FloatRange, IntRange, Parameter, Space, SpaceError
from .cmaes import SafeCmaEsSampler

_logger = logging.getLogger(__name__)

_SEEDS = 2**32
"""numpy takes seeds below this."""
_MOST_VALUES = 10_000
"""Of one parameter, for its values to be walked through one by one."""


def make_sampler(space: Space, known: int) -> BaseSampler:
    """The sampler that the space names.

    Args:
        space: its ``search`` block.
        known: trials that the study already holds; part of the seed, so that a resumed search
            goes on to new points.

    Raises:
        SpaceError: ``grid`` over a parameter that has no finite number of values.
    """
    name, seed = space.search.sampler, (space.search.seed + known) % _SEEDS
    if name == "grid":
        _check_finite(space.parameters())
        return Exhaustive(seed)
    with warnings.catch_warnings():
        # Optuna announces half of these as experimental; its range is pinned.
        warnings.simplefilter("ignore", ExperimentalWarning)
        if name == "qmc":
            # Optuna keeps its place in the sequence in the study, so a resumed one goes on.
            return _Sobol(space)
        if name == "random":
            return RandomSampler(seed=seed)
        return _Learning(_learning_sampler(space, seed))


def make_spare(space: Space, known: int) -> BaseSampler:
    """What finds the configurations that the space's own sampler has left out."""
    seed = (space.search.seed + known) % _SEEDS
    finite = all(value_count(p) <= _MOST_VALUES for p in space.parameters())
    return Exhaustive(seed) if finite else RandomSampler(seed=seed)


def startup_trials(trials: int) -> int:
    """Random trials before the model takes over: a third of the budget, from 3 to Optuna's 10."""
    return max(3, min(10, trials // 3))


def value_count(parameter: Parameter) -> float:
    """How many values a parameter can take; infinity without a step."""
    domain = parameter.domain
    if isinstance(domain, Choice):
        return len(domain.options)
    if domain.step is None:
        return math.inf
    return round((domain.high - domain.low) / domain.step) + 1


class Exhaustive(BruteForceSampler):
    """Optuna's exhaustive sampler under ask and tell, where there is no loop for it to stop."""

    def __init__(self, seed: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(seed=seed)

    def exhausted(self, study: Study) -> bool:
        """Whether every combination of the space has a trial, be it running or ended."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
        tree = _TreeNode()
        self._populate_tree(tree, study.get_trials(deepcopy=False, states=states), {})
        return not tree.is_any_expandable(True)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Nothing: whoever asks for trials sees to ``exhausted``."""

    @staticmethod
    def _populate_tree(tree: _TreeNode, trials: list[FrozenTrial], params: dict[str, Any]) -> None:
        # A trial without parameters, as is a baseline outside the space, is no leaf of the tree.
        drawn = [trial for trial in trials if trial.params]
        BruteForceSampler._populate_tree(tree, drawn, params)


class _Learning(BaseSampler):
    """A sampler that learns from trials, shown only those that were drawn from the space.

    Optuna's Gaussian process and CMA-ES model the parameters that all trials share. A baseline
    outside the space has none, and would turn them into random draws for the whole search.
    """

    def __init__(self, sampler: BaseSampler) -> None:
        self._sampler = sampler

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As the sampler does it."""
        return self._sampler.infer_relative_search_space(_Drawn(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler does it."""
        return self._sampler.sample_relative(_Drawn(study), trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As the sampler does it."""
        drawn = _Drawn(study)
        return self._sampler.sample_independent(drawn, trial, param_name, param_distribution)


class _Drawn(Study):
    """A study without the ended trials that have no parameters."""

    def __init__(self, study: Study) -> None:
        self.__dict__ = study.__dict__

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        found = super()._get_trials(deepcopy, states, use_cache)
        return [trial for trial in found if trial.params or not trial.state.is_finished()]


class _Sobol(QMCSampler):
    """Optuna's Sobol sequence over the whole space, which it else takes from the first trial."""

    def __init__(self, space: Space) -> None:
        super().__init__(
            seed=space.search.seed,
            scramble=True,
            warn_asynchronous_seeding=False,
            warn_independent_sampling=False,
        )
        found = {p.name: distribution(p.domain) for p in space.parameters()}
        self._distributions = {n: d for n, d in found.items() if not d.single()}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Every parameter, conditional ones too: one coordinate of the sequence each."""
        return dict(self._distributions)


def distribution(domain: Choice | FloatRange | IntRange) -> BaseDistribution:
    """The domain as Optuna knows it."""
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.labels)
    if isinstance(domain, FloatRange):
        return FloatDistribution(domain.low, domain.high, domain.log, domain.step)
    return IntDistribution(domain.low, domain.high, domain.log, domain.step)


def _learning_sampler(space: Space, seed: int) -> BaseSampler:
    startup = startup_trials(space.search.trials)
    if space.search.sampler == "gp":
        # A warning that greenlet is missing: a proposal takes tenths of a second longer.
        logging.getLogger("optuna._gp.batched_lbfgsb").setLevel(logging.ERROR)
        return GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
    if space.search.sampler == "cmaes":
        if all(isinstance(p.domain, Choice) for p in space.parameters()):
            _logger.warning("cmaes learns ranges only; this space has none, so it draws at random")
        return SafeCmaEsSampler(
            seed=seed, n_startup_trials=startup, warn_independent_sampling=False
        )
    return TPESampler(
        seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
    )


def _check_finite(parameters: Sequence[Parameter]) -> None:
    for parameter in parameters:
        count = value_count(parameter)
        if count > _MOST_VALUES:
            values = f"{count:.0f} values" if math.isfinite(count) else "no end of values"
            rule = f"{parameter.name} has {values}; give it a choice, or a range a step"
            raise SpaceError.single("search.sampler", "grid", rule)
