"""Ray Tune's schedulers, fitted to trials that are resumed and to a baseline that is never ended.

What tuning bought is the distance to the default configuration at the same horizon, so that one is
measured there, however far behind it is.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from ..spaces import AshaScheduler, HyperbandScheduler, MedianScheduler, PbtScheduler, Space
from ..trainer.config import TrialConfig
from ..trainer.result import TrialResult
from .ledger import Ledger
from .perturb import perturbed
from .place import as_config, from_told

Report = dict[str, Any]
"""What a worker tells Ray at an evaluation (see ``place``)."""


def make_scheduler(ledger: Ledger) -> TrialScheduler:
    """The scheduler that the space names, knowing what the trials so far have scored."""
    space, earlier = ledger.space, tuple(ledger.results.values())
    wanted = space.search.scheduler
    if len(space.rungs()) < 2:
        return FIFOScheduler()
    if isinstance(wanted, AshaScheduler):
        return Halving(space, wanted, 1, earlier)
    if isinstance(wanted, HyperbandScheduler):
        return Halving(space, wanted, len(space.rungs()), earlier)
    if isinstance(wanted, MedianScheduler):
        return Median(space, wanted, earlier)
    if isinstance(wanted, PbtScheduler):
        return Population(ledger, wanted)
    return FIFOScheduler()


class Halving(AsyncHyperBandScheduler):  # type: ignore[misc]
    """ASHA, and with several brackets asynchronous Hyperband (https://arxiv.org/abs/1810.05934).

    Bracket s has its first rung at the search's rung s, the last none at all. Trials are dealt out
    to the brackets by their numbers, in the proportions of Hyperband's Algorithm 1
    (https://jmlr.org/papers/v18/16-558.html), so that a resumed search deals them out again alike.

    Args:
        space: of the search.
        wanted: its scheduler.
        brackets: how many.
        earlier: results from before the search was interrupted.
    """

    def __init__(
        self,
        space: Space,
        wanted: AshaScheduler | HyperbandScheduler,
        brackets: int,
        earlier: Iterable[TrialResult],
    ) -> None:
        rungs = space.rungs()
        super().__init__(
            time_attr="step",
            max_t=rungs[-1],
            grace_period=rungs[0],
            reduction_factor=wanted.reduction_factor,
            brackets=brackets,
        )
        sizes = [wanted.reduction_factor**s / (s + 1) for s in reversed(range(brackets))]
        self._shares, self._dealt = [size / sum(sizes) for size in sizes], list[int]()
        for result in earlier:
            costs = _costs(result)
            for milestone, recorded in self._rungs(result.number):
                if milestone in costs:
                    recorded[_earlier(result.number)] = -costs[milestone]

    def bracket(self, number: int) -> int:
        """The bracket of trial ``number``: always the one that is furthest behind its share."""
        while len(self._dealt) <= number:
            count = len(self._dealt) + 1
            short = [count * share - self._dealt.count(s) for s, share in enumerate(self._shares)]
            self._dealt.append(short.index(max(short)))
        return self._dealt[number]

    def _rungs(self, number: int) -> list[tuple[int, dict[str, float]]]:
        return list(self._brackets[self.bracket(number)]._rungs)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Deal the trial out to its bracket."""
        self._trial_info[trial.trial_id] = self._brackets[self.bracket(trial.config["number"])]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Report) -> str:
        """Stop a trial that is not in the top ``1 / reduction_factor`` of its rung."""
        if result.get("rerun"):
            return str(TrialScheduler.CONTINUE)
        self._take_up(trial, result)
        return _spared(super().on_trial_result(tune_controller, trial, result), result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Report) -> None:
        """Enter a trial's last result, unless it is one that was only trained again."""
        if not result.get("rerun"):
            self._take_up(trial, result)
            super().on_trial_complete(tune_controller, trial, result)

    def _take_up(self, trial: Any, result: Report) -> None:
        """Before ``result`` is entered: what an interrupted trial had before, and that once."""
        for milestone, recorded in self._rungs(result["number"]):
            if milestone <= result["step"]:
                loss = recorded.pop(_earlier(result["number"]), None)
                # At this very step it is judged again, and not against itself.
                if loss is not None and milestone < result["step"]:
                    recorded[trial.trial_id] = loss


class Median(MedianStoppingRule):  # type: ignore[misc]
    """Ray's median stopping rule, over every trial of the search once.

    Args:
        space: of the search.
        wanted: its scheduler.
        earlier: results from before the search was interrupted.
    """

    def __init__(
        self, space: Space, wanted: MedianScheduler, earlier: Iterable[TrialResult]
    ) -> None:
        super().__init__(
            time_attr="step",
            grace_period=wanted.grace_steps or space.rungs()[0],
            min_samples_required=wanted.min_trials,
            # Ray would let a trial wait while there is too little to compare it with.
            min_time_slice=math.inf,
        )
        for result in earlier:
            found = [{"step": step, "cost": cost} for step, cost in _costs(result).items()]
            if found:
                self._results[_earlier(result.number)] = found

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Report) -> str:
        """Stop a trial whose best loss is worse than the median of the others' running means."""
        if result.get("rerun") or "cost" not in result:
            return str(TrialScheduler.CONTINUE)
        self._take_up(trial, result)
        action = _spared(super().on_trial_result(tune_controller, trial, result), result)
        if action != TrialScheduler.STOP:
            # Ray asserts that one that it has stopped never reports again.
            self._stopped_trials.discard(trial)
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Report) -> None:
        """Enter a trial's last result; one that failed may have none."""
        if "cost" in result and not result.get("rerun"):
            self._take_up(trial, result)
            super().on_trial_complete(tune_controller, trial, result)

    def _take_up(self, trial: Any, result: Report) -> None:
        """Before ``result`` is entered: what an interrupted trial had before, and that once."""
        earlier = self._results.pop(_earlier(result["number"]), self._results.get(trial, []))
        self._results[trial] = [found for found in earlier if found["step"] < result["step"]]


class Population(PopulationBasedTraining):  # type: ignore[misc]
    """Population based training (https://arxiv.org/abs/1711.09846), asynchronous.

    Ray decides who takes over from whom; the ledger sees to it that weights, books and study agree.
    The baseline trains along, but neither takes over nor is taken over.

    Args:
        ledger: of the search.
        wanted: its scheduler.
    """

    def __init__(self, ledger: Ledger, wanted: PbtScheduler) -> None:
        super().__init__(
            time_attr="step",
            perturbation_interval=wanted.interval(ledger.space.train.max_steps),
            quantile_fraction=wanted.quantile,
            # Ray asks for something to change; what changes is decided in _explored.
            custom_explore_fn=dict,
            log_config=False,
            require_attrs=False,
        )
        self._ledger, self._wanted = ledger, wanted

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take the trial into the population."""
        # Ray refuses searchers with this scheduler, for theirs are told of configurations that
        # are no longer trained. Ours is told the truth, by the ledger.
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)

    def _quantiles(self) -> tuple[list[int], list[int]]:
        """Numbers of the worst trials and of the best, of all that are under way.

        In place of Ray's own, which knows only of trials that have reported to this process.
        """
        running = {
            number: result.evaluations[-1].cost(result.metric)
            for number, result in self._ledger.results.items()
            if result.evaluations and not result.state.finished and not result.baseline
        }
        # One whose metric came to nothing is neither good nor bad.
        known = {number: cost for number, cost in running.items() if math.isfinite(cost)}
        return quantiles(known, self._wanted.quantile)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Report) -> str:
        """Let a trial of the worst take over from one of the best."""
        if result.get("rerun"):
            return str(TrialScheduler.CONTINUE)
        if "cost" in result:
            self._ledger.progress(from_told(result))
        return str(super().on_trial_result(tune_controller, trial, result))

    def _checkpoint_or_exploit(
        self, trial: Any, tune_controller: Any, best: list[int], worst: list[int]
    ) -> None:
        """In place of Ray's own: every trial has a checkpoint in the run folder already."""
        heir = self._ledger.results[trial.config["number"]]
        if heir.number not in worst:
            return
        dice = random.Random(f"{self._ledger.space.search.seed}-{heir.number}-{heir.step}")
        config = self._ledger.inherit(
            heir.number, dice.choice(best), lambda parent: self._explored(parent, heir.number, dice)
        )
        if config is None:
            return
        if trial.status != Trial.PAUSED:
            tune_controller.pause_trial(trial, should_checkpoint=False)
        trial.set_config(as_config(config))
        state, step = self._trial_state[trial], config.lineage[-1]["step"]
        state.last_train_time = step
        # The step may lie between two evaluations; the next of them counts.
        state.last_perturbation_time = step - step % self._perturbation_interval
        self._num_perturbations += 1

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: see ``StudySearcher``."""
        return {}

    def _explored(self, parent: TrialResult, number: int, dice: random.Random) -> TrialConfig:
        """The parent's configuration, changed a little, for trial ``number``.

        Args:
            parent: at the checkpoint that is taken over.
            number: of the heir.
            dice: where chance comes from.
        """
        before = TrialConfig.from_dict(parent.config)
        had = dict(before.params or {})
        values, params = perturbed(self._ledger.space, had, self._wanted.resample, dice)
        link = {"step": parent.step, "trial": parent.number, "params": had}
        return replace(
            before,
            number=number,
            lora=values["lora"],
            train=values["train"],
            params=params,
            lineage=(*before.lineage, link),
        )


def quantiles(losses: Mapping[int, float], share: float) -> tuple[list[int], list[int]]:
    """The worst and the best ``share`` of a population, at least one each and at most half.

    Args:
        losses: by number.
        share: of the population.

    Returns:
        Numbers, each list the worst first; empty where there are not two to compare.
    """
    ranked = sorted(losses, key=lambda number: -losses[number])
    count = min(math.ceil(len(ranked) * share), len(ranked) // 2)
    return ranked[:count], ranked[len(ranked) - count :]


def _costs(result: TrialResult) -> dict[int, float]:
    """By step, what the trial had at its evaluations, without those where it had nothing."""
    found = {e.step: e.cost(result.metric) for e in result.evaluations}
    return {step: cost for step, cost in found.items() if math.isfinite(cost)}


def _spared(action: Any, result: Report) -> str:
    stopped = action == TrialScheduler.STOP and result.get("baseline")
    return str(TrialScheduler.CONTINUE if stopped else action)


def _earlier(number: int) -> str:
    return f"earlier-{number}"
