"""How far early stopping can be trusted: does a rung's ranking agree with the final one?

Only trials that reached the horizon can tell: those that ASHA let go on, and stopped ones that were
finished on request (an audit). Survivors alone flatter the scheduler, so the number of audited
trials is always given beside the correlation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..trainer.result import TrialResult, TrialState
from . import formats


@dataclass(frozen=True)
class RungAgreement:
    """One rung against the horizon.

    Attributes:
        step: the rung, in optimizer steps.
        trials: trials with a loss at both.
        audited: how many of them had been stopped and were finished on request.
        spearman: rank correlation (Spearman 1904) of the losses, from -1 to 1; None for fewer
            than three trials, or where all are equal.
    """

    step: int
    trials: int
    audited: int
    spearman: float | None


@dataclass(frozen=True)
class Audit:
    """A stopped trial that was finished after all.

    Attributes:
        trial: its number.
        stopped_at: the rung, in optimizer steps.
        score: when it was stopped.
        finished: its score at the horizon.
        wrong: whether it would have been the best of the search.
    """

    trial: int
    stopped_at: int
    score: float
    finished: float
    wrong: bool


RUNG_HEADS = ("rung (step)", "Spearman with the final ranking", "trials", "audited")
"""Of ``rung_cells``."""
AUDIT_HEADS = ("audited trial", "stopped at", "then", "at the horizon", "wrongly stopped")
"""Of ``audit_cells``."""


def rung_cells(rung: RungAgreement) -> tuple[str, ...]:
    """A line for a reader."""
    return str(rung.step), formats.short(rung.spearman), str(rung.trials), str(rung.audited)


def audit_cells(audit: Audit) -> tuple[str, ...]:
    """A line for a reader."""
    return (
        str(audit.trial),
        str(audit.stopped_at),
        formats.loss(audit.score),
        formats.loss(audit.finished),
        "yes" if audit.wrong else "no",
    )


def audits(
    results: Sequence[TrialResult], finished: Mapping[int, TrialResult]
) -> tuple[Audit, ...]:
    """What became of stopped trials that were finished on request.

    Args:
        results: of the search.
        finished: by trial number, the same configurations trained to the horizon.
    """
    best = min((r.cost for r in results if r.state.ranked), default=math.inf)
    found = []
    for result in results:
        whole = finished.get(result.number)
        if whole is None or whole.score is None or result.score is None:
            continue
        wrong = whole.cost < best
        found.append(Audit(result.number, result.step, result.score, whole.score, wrong))
    return tuple(found)


def agreement(
    results: Sequence[TrialResult], finished: Mapping[int, TrialResult]
) -> tuple[RungAgreement, ...]:
    """Every rung below the horizon against the horizon, ascending.

    Args:
        results: of the search.
        finished: see ``audits``.
    """
    whole = [
        r
        for r in results
        if r.state is TrialState.COMPLETE and not r.stopped_early and not r.config.get("lineage")
    ]
    courses = [(_losses(r), False) for r in whole]
    courses += [(_losses(r), True) for r in finished.values() if r.state is TrialState.COMPLETE]
    horizon = max((max(losses) for losses, _ in courses if losses), default=0)
    ended = [(losses, audited) for losses, audited in courses if horizon in losses]
    steps = sorted({step for losses, _ in ended for step in losses if step < horizon})
    return tuple(_rung(step, horizon, ended) for step in steps)


def _rung(
    step: int, horizon: int, courses: Sequence[tuple[Mapping[int, float], bool]]
) -> RungAgreement:
    both = [(losses, audited) for losses, audited in courses if step in losses]
    correlation = spearman([c[step] for c, _ in both], [c[horizon] for c, _ in both])
    return RungAgreement(step, len(both), sum(audited for _, audited in both), correlation)


def spearman(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Rank correlation with average ranks for ties; None for fewer than three pairs."""
    if len(left) < 3:
        return None
    a, b = _ranks(left), _ranks(right)
    mean = (len(a) + 1) / 2
    over = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    under = math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))
    return over / under if under else None


def _ranks(values: Sequence[float]) -> list[float]:
    return [
        sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values
    ]


def _losses(result: TrialResult) -> dict[int, float]:
    return {e.step: e.cost(result.metric) for e in result.evaluations}
