"""The schedulers of a search: which trials it ends early, and after which steps it asks.

Each knows its word in a space file and, for a horizon, the steps at which every trial is evaluated
and judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, TypeAlias

from pydantic import Field, Tag

from .fixed import Block, Count, unwrap, word_of


class _Rungs(Block):
    """Rungs at `grace_steps * reduction_factor ** k`, and the horizon."""

    grace_steps: Count | None = None
    """First rung, in optimizer steps; null takes max_steps // reduction_factor ** 2."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """One trial of so many goes on from a rung to the next."""

    def rungs(self, horizon: int) -> tuple[int, ...]:
        """Optimizer steps after which a trial is judged, ascending, the horizon last."""
        rung = self.grace_steps or max(1, horizon // self.reduction_factor**2)
        rungs = []
        while rung < horizon:
            rungs.append(rung)
            rung *= self.reduction_factor
        return (*rungs, horizon)


class AshaScheduler(_Rungs):
    """Asynchronous successive halving (https://arxiv.org/abs/1810.05934)."""

    word: ClassVar[str] = "asha"
    title: ClassVar[str] = "ASHA"


class HyperbandScheduler(_Rungs):
    """Asynchronous Hyperband: brackets of ASHA, each with another first rung.

    Hyperband (https://jmlr.org/papers/v18/16-558.html) hedges against rungs that come too early;
    the asynchronous form (https://arxiv.org/abs/1810.05934, section 3.2) never waits for a bracket
    to fill.
    """

    word: ClassVar[str] = "hyperband"
    title: ClassVar[str] = "Hyperband"


class _Regular(Block):
    """Judged after every so many steps."""

    interval_steps: Count | None = None
    """Optimizer steps from one evaluation to the next; null takes max_steps // 8."""

    def rungs(self, horizon: int) -> tuple[int, ...]:
        """Optimizer steps after which a trial is judged, ascending, the horizon last."""
        interval = self.interval(horizon)
        return (*range(interval, horizon, interval), horizon)

    def interval(self, horizon: int) -> int:
        """Optimizer steps from one evaluation to the next."""
        return self.interval_steps or max(1, horizon // 8)


class MedianScheduler(_Regular):
    """The median stopping rule (Vizier, https://research.google/pubs/pub46180/).

    A trial ends when its best loss so far is worse than the median of the other trials' running
    means up to the same step.
    """

    word: ClassVar[str] = "median"
    title: ClassVar[str] = "the median stopping rule"

    grace_steps: Count | None = None
    """No trial is ended before so many optimizer steps; null takes interval_steps."""
    min_trials: Count = 3
    """Trials that the median must be of."""


class PbtScheduler(_Regular):
    """Population based training (https://arxiv.org/abs/1711.09846).

    All trials train side by side. A trial among the worst takes over weights, optimizer and
    configuration of one among the best, and goes on with learning rate, weight decay and the like
    changed a little.
    """

    word: ClassVar[str] = "pbt"
    title: ClassVar[str] = "population based training"

    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Share of the trials that counts as the best, and as the worst."""
    resample: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Chance that a value is drawn anew instead of being multiplied by 0.8 or 1.2."""


SchedulerBlock: TypeAlias = AshaScheduler | HyperbandScheduler | MedianScheduler | PbtScheduler

SCHEDULERS: Final[Mapping[str, type[SchedulerBlock]]] = {
    kind.word: kind for kind in (AshaScheduler, HyperbandScheduler, MedianScheduler, PbtScheduler)
}
"""By their words in a space file."""

PBT_CHANGES: Final = (
    "train.learning_rate",
    "train.weight_decay",
    "train.adam_beta1",
    "train.adam_beta2",
    "train.adam_epsilon",
    "train.max_grad_norm",
)
"""Keys that population based training changes while a trial runs, where they have a domain."""

Scheduler: TypeAlias = Annotated[
    Annotated[AshaScheduler, unwrap("asha"), Tag("asha")]
    | Annotated[HyperbandScheduler, unwrap("hyperband"), Tag("hyperband")]
    | Annotated[MedianScheduler, unwrap("median"), Tag("median")]
    | Annotated[PbtScheduler, unwrap("pbt"), Tag("pbt")]
    | Annotated[None, unwrap("none"), Tag("none")],
    word_of(*SCHEDULERS),
]
