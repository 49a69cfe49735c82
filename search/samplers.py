"""Optuna's samplers by the names that a space gives them.

`tpe` is the multivariate, grouped Tree-structured Parzen Estimator with a constant liar
(https://arxiv.org/abs/2304.11127); `gp` a Gaussian process; `cmaes` CMA-ES, which samples numbers
and leaves choices to chance; `qmc` a scrambled Sobol sequence; `grid` every combination once, in
random order; `random` independent draws.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GPSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ..spaces import Choice, IntRange, Parameter, Space, SpaceError


def make_sampler(space: Space, known: int) -> BaseSampler:
    """The sampler that the space names.

    Args:
        space: its ``search`` block.
        known: trials that the study already holds; part of the seed, so that a resumed search
            goes on to new points.

    Raises:
        SpaceError: ``grid`` over a parameter that has no finite number of values.
    """
    seed = space.search.seed + known
    if space.search.sampler == "grid":
        _check_finite(space.parameters())
    with warnings.catch_warnings():
        # Optuna announces half of these as experimental; its range is pinned.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _MAKERS[space.search.sampler](seed, startup_trials(space.search.trials))


def startup_trials(trials: int) -> int:
    """Random trials before the model takes over: a third of the budget, from 3 to Optuna's 10."""
    return max(3, min(10, trials // 3))


class _Exhaustive(BruteForceSampler):
    """Optuna's exhaustive sampler under ask and tell, where there is no loop for it to stop."""

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Nothing: that the grid is exhausted shows when only duplicates are left."""


def _tpe(seed: int, startup: int) -> BaseSampler:
    return TPESampler(
        seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
    )


def _gp(seed: int, startup: int) -> BaseSampler:
    return GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)


def _cmaes(seed: int, startup: int) -> BaseSampler:
    return CmaEsSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)


def _qmc(seed: int, startup: int) -> BaseSampler:
    return QMCSampler(
        seed=seed,
        scramble=True,
        warn_asynchronous_seeding=False,
        warn_independent_sampling=False,
    )


_MAKERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "cmaes": _cmaes,
    "qmc": _qmc,
    "grid": lambda seed, startup: _Exhaustive(seed=seed),
    "random": lambda seed, startup: RandomSampler(seed=seed),
}


def _check_finite(parameters: Sequence[Parameter]) -> None:
    for parameter in parameters:
        domain = parameter.domain
        finite = isinstance(domain, Choice) or domain.step is not None
        if not finite and not (isinstance(domain, IntRange) and not domain.log):
            rule = f"{parameter.name} has no end of values; give it a choice, or a range a step"
            raise SpaceError.single("search.sampler", "grid", rule)
