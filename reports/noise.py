"""What of a difference is noise: configurations trained again on fresh seeds, and who ties.

A search ranks by one run each. Of those that were trained again, the mean over fresh seeds says
what to expect, and Tukey's range test which of them cannot be told apart.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..trainer.result import TrialResult

LEVEL = 0.95
"""Of confidence intervals, and of the decision that two configurations differ."""
_SEEDS = ("seed", "data_seed")


@dataclass(frozen=True)
class Confirmed:
    """A configuration on fresh seeds.

    Attributes:
        scores: of each seed that came to one.
        failed: seeds of which nothing came: diverged, out of memory, an error.
        tests: the metric on the test rows, of the same adapters; empty where there are none.
    """

    scores: tuple[float, ...]
    failed: int = 0
    tests: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Of ``scores``: what to expect of the configuration."""
        return statistics.fmean(self.scores)

    @property
    def standard_error(self) -> float:
        """Of ``mean``: the standard deviation of ``scores`` over the root of their number."""
        return statistics.stdev(self.scores) / math.sqrt(len(self.scores))

    @property
    def interval(self) -> tuple[float, float]:
        """Student's confidence interval of ``mean`` at ``LEVEL``."""
        half = _student(len(self.scores) - 1) * self.standard_error
        return self.mean - half, self.mean + half

    @property
    def test_mean(self) -> float | None:
        """Of ``tests``."""
        return statistics.fmean(self.tests) if self.tests else None

    @property
    def test_standard_error(self) -> float | None:
        """Of ``test_mean``; None for fewer than two seeds."""
        if len(self.tests) < 2:
            return None
        return statistics.stdev(self.tests) / math.sqrt(len(self.tests))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the scores and what follows from them."""
        low, high = self.interval
        return {
            "seeds": len(self.scores),
            "failed": self.failed,
            "mean": self.mean,
            "standard_error": self.standard_error,
            "low": low,
            "high": high,
            "test_mean": self.test_mean,
            "test_standard_error": self.test_standard_error,
            "scores": list(self.scores),
            "tests": list(self.tests),
        }


@dataclass(frozen=True)
class Noise:
    """How much the loss of one configuration varies from seed to seed.

    Attributes:
        deviation: standard deviation, pooled over configurations, in the metric's units.
        freedom: degrees of freedom that it rests on.
    """

    deviation: float
    freedom: int

    def exceeded(self, difference: float, *runs: int) -> bool:
        """Whether a difference of two means, of so many runs each, is more than noise.

        By Student's t test, two-sided at ``LEVEL``.
        """
        error = self.deviation * math.sqrt(sum(1 / number for number in runs))
        return abs(difference) > _student(self.freedom) * error


def configuration(settings: Mapping[str, Any]) -> str:
    """A digest of a trial's hyperparameters but for its seeds."""
    body = {key: value for key, value in settings.items() if key not in _SEEDS}
    text = json.dumps(body, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def confirmed(reruns: Iterable[Sequence[TrialResult]]) -> dict[str, Confirmed]:
    """By ``configuration``, what came of those that were trained again.

    Args:
        reruns: the results of one configuration's seeds, each.

    Returns:
        Only those with two scores or more: of a single one nothing follows.
    """
    found = {}
    for results in reruns:
        ended = [r for r in results if r.state.ranked and r.score is not None]
        if len(ended) < 2:
            continue
        config = ended[0].config
        key = configuration({**config["lora"], **config["train"]})
        scores = tuple(r.score for r in ended if r.score is not None)
        tests = tuple(r.test_score for r in ended if r.test_score is not None)
        found[key] = Confirmed(scores, len(results) - len(ended), tests)
    return found


def ties(found: Sequence[Confirmed], *, lower: bool = True) -> list[bool]:
    """Which cannot be told apart from the best mean, itself among them if there is another.

    By Tukey's range test in Kramer's form for unequal numbers (Tukey 1949, Kramer 1956), at
    ``LEVEL`` for all pairs together.
    """
    if len(found) < 2:
        return [False] * len(found)
    from scipy.stats import tukey_hsd

    means = [each.mean for each in found]
    best = means.index(min(means) if lower else max(means))
    if pooled([each.scores for each in found]).deviation == 0:
        tied = [mean == means[best] for mean in means]
    else:
        values = tukey_hsd(*(each.scores for each in found)).pvalue[best]
        tied = [bool(value > 1 - LEVEL) for value in values]
    tied[best] = any(each for place, each in enumerate(tied) if place != best)
    return tied


def pooled(groups: Iterable[Sequence[float]]) -> Noise:
    """The standard deviation within groups of runs that differ by their seeds alone.

    Raises:
        ValueError: no group has two runs.
    """
    several = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    if not freedom:
        raise ValueError("pooled: give at least one group of two runs")
    squares = sum((len(group) - 1) * statistics.variance(group) for group in several)
    return Noise(math.sqrt(squares / freedom), freedom)


def _student(freedom: int) -> float:
    """How many standard errors a two-sided interval at ``LEVEL`` reaches."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))
