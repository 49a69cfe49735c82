"""What every scheduler keeps to, and each one's decisions against a reckoning of their own."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from modelless import space_in
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from tune_lora.search.ledger import Ledger
from tune_lora.search.place import as_told
from tune_lora.search.ray_schedulers import make_scheduler, quantiles
from tune_lora.spaces import Space
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import Evaluation, TrialResult, TrialState

SCHEDULERS: Mapping[str, Any] = {
    "asha": {"asha": {"grace_steps": 1, "reduction_factor": 2}},
    "hyperband": {"hyperband": {"grace_steps": 1, "reduction_factor": 2}},
    "median": {"median": {"interval_steps": 1, "min_trials": 1}},
    "pbt": {"pbt": {"interval_steps": 1, "quantile": 0.5}},
    "none": "none",
}
LOSSES = [3.0, 2.0, 4.0, 2.5, 1.0, 5.0, 0.5]


@dataclass(eq=False)
class RayTrial:
    """As much of Ray's trial as a scheduler looks at."""

    config: dict[str, Any]
    trial_id: str
    status: str = Trial.RUNNING
    experiment_tag: str = ""
    run_metadata: Any = field(
        default_factory=lambda: SimpleNamespace(
            checkpoint_manager=SimpleNamespace(checkpoint_config=SimpleNamespace(num_to_keep=None))
        )
    )

    def is_finished(self) -> bool:
        return self.status in (Trial.TERMINATED, Trial.ERROR)

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config


def config_of(space: Space, number: int) -> TrialConfig:
    """Trial 0 is the baseline, where there is one."""
    return TrialConfig(
        number,
        "CAUSAL_LM",
        lora={},
        train={"max_steps": space.train.max_steps},
        rungs=space.rungs(),
        baseline=space.search.baseline and number == 0,
    )


def evaluated(config: TrialConfig, *losses: float) -> TrialResult:
    """A running trial with these losses, at its first rungs where it has rungs."""
    rungs = config.rungs if len(config.rungs) > 1 else (1, 2, 4, 8)
    found = tuple(Evaluation(s, v, 1.0) for s, v in zip(rungs, losses, strict=False))
    return TrialResult(
        config.number,
        TrialState.RUNNING,
        config.to_dict(),
        score=min(losses, default=None),
        step=found[-1].step if found else 0,
        evaluations=found,
    )


class Judge:
    """A scheduler over a search whose trials report what the test says.

    Attributes:
        taken: every time a trial was to take over from another: ``(heir, parent)``.
    """

    def __init__(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ledger = ledger
        self.scheduler = make_scheduler(ledger)
        self.scheduler.set_search_properties("cost", "min")
        self.trials: dict[int, RayTrial] = {}
        self.taken: list[tuple[int, int]] = []
        monkeypatch.setattr(ledger, "inherit", self._inherit)

    def _inherit(self, heir: int, parent: int, make: object) -> TrialConfig | None:
        self.taken.append((heir, parent))
        return None

    def get_trials(self) -> list[RayTrial]:
        """For Ray's schedulers, whose view of the search this is."""
        return list(self.trials.values())

    def config(self, number: int) -> TrialConfig:
        if number not in self.ledger.results:
            self.ledger.results[number] = evaluated(config_of(self.ledger.space, number))
        return TrialConfig.from_dict(self.ledger.results[number].config)

    def trial(self, number: int) -> RayTrial:
        if number not in self.trials:
            self.config(number)
            trial = RayTrial({"number": number}, f"ray-{number}")
            self.scheduler.on_trial_add(self, trial)
            self.trials[number] = trial
        return self.trials[number]

    def report(self, number: int, *losses: float, **told: Any) -> bool:
        """The trial's losses at its first rungs, of which the last is new. Does it go on?"""
        trial = self.trial(number)
        result = evaluated(self.config(number), *losses)
        before = len(self.taken)
        report = {**as_told(result), **told}
        answer = self.scheduler.on_trial_result(self, trial, report)
        assert answer in (TrialScheduler.CONTINUE, TrialScheduler.STOP)
        return answer == TrialScheduler.CONTINUE and len(self.taken) == before

    def fail(self, number: int, step: int, *losses: float) -> None:
        """The trial ends on the way to, or at, ``step``."""
        trial = self.trial(number)
        result = evaluated(self.config(number), *losses)
        result = replace(result, state=TrialState.FAILED, step=step)
        self.scheduler.on_trial_complete(self, trial, as_told(result))
        self.ledger.results[number] = result
        trial.status = Trial.TERMINATED


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Judge]:
    """``judge("asha", {0: [3.0, 2.0]})``: with results from an earlier part of the search."""
    runs = itertools.count()

    def made(
        scheduler: Any,
        earlier: Mapping[int, list[float]] | None = None,
        *,
        steps: int = 8,
        baseline: bool = False,
    ) -> Judge:
        wanted = SCHEDULERS.get(str(scheduler), scheduler)
        search = {"scheduler": wanted, "baseline": baseline}
        space = space_in(tmp_path, train={"max_steps": steps}, search=search)
        run = RunFolder(tmp_path / f"run-{next(runs)}")
        # What Optuna is told is tested elsewhere.
        study: Any = SimpleNamespace(report=lambda result: None)
        ledger = Ledger(space, run, study)
        for number, losses in (earlier or {}).items():
            ledger.results[number] = evaluated(config_of(space, number), *losses)
        return Judge(ledger, monkeypatch)

    return made


every = pytest.mark.parametrize("name", SCHEDULERS)
judging = pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "none"])


def crowd(judge: Judge, losses: list[float] = LOSSES) -> list[bool]:
    """The first report of each of these trials, one after the other."""
    return [judge.report(number, loss) for number, loss in enumerate(losses)]


def others(judge: Judge, kind: str) -> list[int]:
    """Trials that are judged at the first rung: under Hyperband not all are."""
    first = [n for n in range(30) if kind != "hyperband" or judge.scheduler.bracket(n) == 0]
    return first[:7]


@judging
def test_who_falls_behind_is_not_left_alone(judge: Callable[..., Judge], name: str) -> None:
    asked = judge(name)
    answers = [asked.report(n, 1.0 + i) for i, n in enumerate(others(asked, name))]
    assert answers[0]
    assert not answers[-1]


def test_without_a_scheduler_all_go_on(judge: Callable[..., Judge]) -> None:
    assert all(crowd(judge("none")))


@every
def test_a_result_without_a_score_is_no_reason_to_stop(
    judge: Callable[..., Judge], name: str
) -> None:
    asked = judge(name)
    first, *_, last = others(asked, name)
    for n in others(asked, name)[:-1]:
        asked.report(n, 1.0)
    assert asked.report(last)
    assert asked.report(first)


@every
def test_the_baseline_is_never_stopped(judge: Callable[..., Judge], name: str) -> None:
    asked = judge(name, baseline=True)
    assert asked.config(0).baseline
    found = others(asked, name)
    for rungs in (1, 2, 3):
        for n in found[1:]:
            asked.report(n, *[1.0] * rungs)
        # More than once: what spares it the first time must not trip over it the next.
        assert asked.report(0, *[9.0] * rungs)


@every
def test_an_audit_neither_counts_nor_is_stopped(judge: Callable[..., Judge], name: str) -> None:
    plain, audited = judge(name), judge(name)
    found = others(plain, name)
    for n in found[:-1]:
        for asked in (plain, audited):
            asked.report(n, 1.0 if n else 2.0)
    stopped = RayTrial({"number": found[1], "rerun": "audit"}, "audit")
    audited.scheduler.on_trial_add(audited, stopped)
    worst = evaluated(audited.config(found[1]), 99.0, 99.0)
    told = as_told(worst, rerun="audit")
    for step in (1, 2):
        report = {**told, "step": step}
        assert audited.scheduler.on_trial_result(audited, stopped, report) == (
            TrialScheduler.CONTINUE
        )
    best = as_told(evaluated(audited.config(found[1]), 0.0), rerun="audit")
    audited.scheduler.on_trial_complete(audited, stopped, best)
    for loss in (0.5, 1.5, 2.5):
        assert audited.report(found[-1], loss) is plain.report(found[-1], loss)
        plain.scheduler.on_trial_add(plain, plain.trials.pop(found[-1]))
        audited.scheduler.on_trial_add(audited, audited.trials.pop(found[-1]))


@judging
def test_what_was_before_the_interruption_counts(judge: Callable[..., Judge], name: str) -> None:
    found = others(judge(name), name)
    earlier = {n: [1.0] for n in found[:-1]}
    assert not judge(name, earlier).report(found[-1], 9.0)
    assert judge(name, earlier).report(found[-1], 0.5)


@judging
def test_taken_up_again_a_trial_is_judged_like_before(
    judge: Callable[..., Judge], name: str
) -> None:
    """The question that was cut off is asked again: of the others' losses, not of its own."""
    found = others(judge(name), name)
    earlier = {n: [float(i)] for i, n in enumerate(found)}
    best, *_, worst = found
    assert judge(name, earlier).report(best, earlier[best][0])
    assert not judge(name, earlier).report(worst, earlier[worst][0])


@judging
def test_alone_with_its_own_past_a_trial_goes_on(judge: Callable[..., Judge], name: str) -> None:
    asked = judge(name, {0: [1.0, 1.0]})
    assert asked.report(0, 1.0, 2.0)
    assert asked.report(0, 1.0, 2.0)
    assert asked.report(0, 1.0, 2.0, 3.0)


@every
def test_a_failed_trial_does_not_break_later_judgements(
    judge: Callable[..., Judge], name: str
) -> None:
    asked = judge(name)
    found = others(asked, name)
    asked.fail(found[0], 0)
    asked.report(found[1], 5.0)
    asked.fail(found[1], 2, 5.0)
    for n in found[2:-1]:
        asked.report(n, 1.0)
        asked.report(n, 1.0, 1.0)
    assert asked.report(found[-1], 0.5)
    assert asked.report(found[-1], 0.5, 0.5)
    assert asked.report(found[-1], 0.5, 0.5, 0.4)


@pytest.mark.parametrize("name", ["asha", "hyperband", "median", "pbt", "none"])
def test_with_one_rung_nobody_is_judged(judge: Callable[..., Judge], name: str) -> None:
    lone = {"grace_steps": 8} if name in ("asha", "hyperband") else {"interval_steps": 8}
    scheduler = "none" if name == "none" else {name: lone}
    assert type(judge(scheduler).scheduler) is FIFOScheduler


def top(losses: list[float], factor: int) -> list[bool]:
    """ASHA: no worse than the ``1 / factor`` quantile of those that were there before."""
    return [not n or loss <= np.quantile(losses[:n], 1 / factor) for n, loss in enumerate(losses)]


DRAWN = list(np.random.default_rng(0).normal(size=30))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_asha_keeps_the_top_of_a_rung(judge: Callable[..., Judge], factor: int) -> None:
    asked = judge({"asha": {"grace_steps": 1, "reduction_factor": factor}}, steps=factor**3)
    answers = crowd(asked, DRAWN)
    assert answers == top(DRAWN, factor)
    # The next rung is a competition of its own, of those that are still there.
    left = [n for n, goes_on in enumerate(answers) if goes_on]
    second = [-DRAWN[n] for n in left]
    assert [asked.report(n, DRAWN[n], -DRAWN[n]) for n in left] == top(second, factor)


def test_asha_counts_a_resumed_trial_once_a_rung(judge: Callable[..., Judge]) -> None:
    """Also at the rungs that lie behind it, when it reports between two of them or ends."""
    asked = judge("asha", {0: [4.0, 4.0, 4.0]})
    asked.report(0, 4.0, 4.0, 4.0)
    asked.report(0, 4.0, 4.0, 4.0, step=5, eval_loss=0.0)
    asked.fail(0, 6, 4.0, 4.0, 4.0)
    entered = {milestone: dict(rung) for milestone, rung in asked.scheduler._brackets[0]._rungs}
    assert [list(entered[s].values()) for s in (1, 2, 4)] == [[-4.0]] * 3
    assert asked.report(1, 4.0)
    assert not asked.report(2, 4.1)


def test_a_trial_that_breaks_at_a_rung_has_no_loss_there(judge: Callable[..., Judge]) -> None:
    for kind in ("asha", {"median": {"interval_steps": 1, "min_trials": 1, "grace_steps": 2}}):
        asked = judge(kind)
        asked.report(0, 1.0)
        # It broke in the evaluation after step 2; its loss is that of step 1.
        asked.fail(0, 2, 1.0)
        asked.report(1, 0.5)
        assert asked.report(1, 2.0, 2.0), kind


@pytest.mark.parametrize(("factor", "steps"), [(2, 16), (3, 81), (3, 243), (4, 100)])
def test_hyperband_deals_trials_out_as_algorithm_1_does(
    judge: Callable[..., Judge], factor: int, steps: int
) -> None:
    asked = judge({"hyperband": {"grace_steps": 1, "reduction_factor": factor}}, steps=steps)
    brackets = len(asked.ledger.space.rungs())
    # n = (s_max + 1) / (s + 1) * factor^s trials begin in bracket s, the largest s first.
    sizes = [brackets / (s + 1) * factor**s for s in reversed(range(brackets))]
    dealt = [asked.scheduler.bracket(n) for n in range(500)]
    for place, size in enumerate(sizes):
        for count in (10, 100, 500):
            share = count * size / sum(sizes)
            assert abs(dealt[:count].count(place) - share) <= 1.5, (place, count)
    # Another process deals alike, in whatever order it asks.
    again = judge({"hyperband": {"grace_steps": 1, "reduction_factor": factor}}, steps=steps)
    assert [again.scheduler.bracket(n) for n in reversed(range(500))] == dealt[::-1]


def in_bracket(asked: Judge, bracket: int, count: int) -> list[int]:
    return [n for n in range(40) if asked.scheduler.bracket(n) == bracket][:count]


def test_the_last_bracket_of_hyperband_stops_nobody(judge: Callable[..., Judge]) -> None:
    asked = judge("hyperband")
    last = len(asked.ledger.space.rungs()) - 1
    for i, n in enumerate(in_bracket(asked, last, 3)):
        for rungs in (1, 2, 3):
            assert asked.report(n, *[float(i)] * rungs)


def test_a_bracket_of_hyperband_is_judged_at_its_own_rungs(judge: Callable[..., Judge]) -> None:
    asked = judge("hyperband")
    for bracket in (0, 1, 2):
        good, bad = in_bracket(asked, bracket, 2)
        for rungs in range(1, 4):
            asked.report(good, *[0.0] * rungs)
        answers = [asked.report(bad, *[9.0] * rungs) for rungs in range(1, bracket + 2)]
        # Rung s is the first of bracket s.
        assert answers == [True] * bracket + [False]


def test_brackets_of_hyperband_do_not_compete(judge: Callable[..., Judge]) -> None:
    asked = judge("hyperband")
    for n in in_bracket(asked, 0, 5):
        asked.report(n, 0.0)
        asked.report(n, 0.0, 0.0)
    (lone,) = in_bracket(asked, 1, 1)
    assert asked.report(lone, 9.0, 9.0)


def test_median_stops_who_never_came_down_to_the_running_means(
    judge: Callable[..., Judge],
) -> None:
    asked = judge({"median": {"interval_steps": 1, "grace_steps": 2, "min_trials": 3}})
    curves = np.random.default_rng(1).normal(size=(12, 6)).round(3).tolist()
    # What trials have shown by the time another is judged: {trial: its losses}.
    shown: dict[int, list[float]] = {}
    stopped = set()
    for step in range(1, 7):
        for number, curve in enumerate(curves):
            if number in stopped:
                continue
            shown[number] = curve[:step]
            rivals = [c for n, c in shown.items() if n != number and len(c) >= step]
            # Before the grace period's end nothing enters a mean.
            means = [np.mean(c[1:step]) for c in rivals if step >= 2]
            goes_on = len(means) < 3 or min(curve[:step]) <= np.median(means)
            assert asked.report(number, *curve[:step]) is bool(goes_on), (number, step)
            if not goes_on:
                stopped.add(number)
    assert 2 <= len(stopped) < 12


def test_median_waits_for_enough_trials(judge: Callable[..., Judge]) -> None:
    asked = judge({"median": {"interval_steps": 1, "min_trials": 3}})
    assert crowd(asked, [1.0, 2.0, 9.0]) == [True] * 3
    assert not asked.report(3, 8.0)


def test_median_counts_a_step_that_is_reported_again_once(judge: Callable[..., Judge]) -> None:
    again, once = judge("median", {0: [4.0, 1.0]}), judge("median")
    for _ in range(3):
        again.report(0, 4.0, 1.0)
    once.report(0, 4.0)
    once.report(0, 4.0, 1.0)
    for asked in (once, again):
        asked.report(1, 2.4)
        # The mean of 4 and 1 is 2.5; of 4, 1 and 1 it is 2.
        assert asked.report(1, 2.4, 2.4)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("count", range(9))
def test_worst_and_best_of_a_population(count: int, share: float) -> None:
    losses = dict(enumerate(DRAWN[:count]))
    worst, best = quantiles(losses, share)
    size = 0 if count < 2 else min(max(1, math.ceil(count * share)), count // 2)
    order = [int(n) for n in np.argsort([losses[n] for n in range(count)])]
    assert set(best) == set(order[:size])
    assert set(worst) == set(order[count - size :])


def test_pbt_one_of_the_worst_takes_over_from_one_of_the_best(
    judge: Callable[..., Judge],
) -> None:
    asked = judge(
        {"pbt": {"interval_steps": 1, "quantile": 0.25}}, {n: [1.0 + n] for n in range(8)}
    )
    for n in range(8):
        asked.report(n, 1.0 + n)
    heirs, parents = zip(*asked.taken, strict=True)
    assert heirs == (6, 7)
    assert set(parents) <= {0, 1}


def test_pbt_knows_of_trials_that_have_ended_and_passes_them_over(
    judge: Callable[..., Judge],
) -> None:
    asked = judge("pbt", {n: [1.0 + n] for n in range(4)})
    asked.fail(0, 1, 1.0)
    asked.report(3, 4.0)
    ((heir, parent),) = asked.taken
    # Of 1, 2 and 3 the best is 1.
    assert (heir, parent) == (3, 1)


def test_pbt_leaves_the_baseline_out(judge: Callable[..., Judge]) -> None:
    asked = judge("pbt", baseline=True)
    asked.report(0, 0.0)
    for n in range(1, 6):
        asked.report(n, float(n))
    assert asked.taken
    assert all(0 not in pair for pair in asked.taken)


def test_pbt_asks_only_once_an_interval(judge: Callable[..., Judge]) -> None:
    asked = judge({"pbt": {"interval_steps": 2, "quantile": 0.5}}, {0: [1.0]})
    asked.report(1, 9.0, step=1)
    assert asked.taken == []
    asked.report(1, 9.0)
    assert asked.taken == [(1, 0)]
    asked.report(1, 9.0, step=3)
    assert asked.taken == [(1, 0)]


def test_pbt_chance_is_the_searches_own(judge: Callable[..., Judge]) -> None:
    earlier = {n: [1.0 + n] for n in range(8)}
    taken = []
    for _ in range(2):
        asked = judge("pbt", earlier)
        for n in range(8):
            asked.report(n, 1.0 + n)
        taken.append(asked.taken)
    assert taken[0] == taken[1]
    assert len({parent for _, parent in taken[0]}) > 1


def test_what_ray_is_told_of_a_trial() -> None:
    config = TrialConfig(3, "CAUSAL_LM", {}, {"max_steps": 4}, (2, 4), baseline=True)
    result = evaluated(config, 1.5)
    told = as_told(result, rerun="audit")
    assert TrialResult.from_dict(json.loads(told.pop("result"))) == result
    assert told == {
        "number": 3,
        "step": 2,
        "baseline": True,
        "rerun": "audit",
        "done": False,
        "cost": 1.5,
    }


@judging
def test_a_trial_whose_metric_came_to_nothing_is_held_against_nobody(
    judge: Callable[..., Judge], name: str
) -> None:
    losses = {number: [loss] for number, loss in enumerate((1.0, 2.0, 3.0, 4.0), 1)}
    known, others = judge(name, {0: [math.inf], **losses}), judge(name, losses)
    news = [(5, 1.5), (6, 9.0), (7, 2.5)]
    assert [known.report(*new) for new in news] == [others.report(*new) for new in news]
    assert known.taken == others.taken
    # It goes on, be it ever so far behind.
    assert known.report(0, math.inf, math.inf)
