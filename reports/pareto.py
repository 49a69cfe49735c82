"""Ranking by several objectives: fronts of trials of which none is better than another in all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..trainer.result import TrialResult


def fronts(costs: Sequence[tuple[float, ...]]) -> list[int]:
    """Non-dominated sorting (Deb et al. 2002, https://doi.org/10.1109/4235.996017).

    One point dominates another that it is as good as in all and better than in one. On front 1 is
    what nothing dominates, on each next one what only points of those before do. In lexical order
    no point is dominated by a later one, so that each is placed once (Zhang et al. 2015,
    https://doi.org/10.1109/TEVC.2014.2308305).

    Args:
        costs: of each point, one for each objective; less is better.

    Returns:
        Each point's front, counted from 1.
    """
    found: list[list[tuple[float, ...]]] = []
    placed: dict[tuple[float, ...], int] = {}
    for point in sorted(set(costs)):
        free = (n for n, front in enumerate(found) if not any(_as_good(o, point) for o in front))
        place = next(free, len(found))
        if place == len(found):
            found.append([])
        found[place].append(point)
        placed[point] = place + 1
    return [placed[point] for point in costs]


def _as_good(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(mine <= its for mine, its in zip(one, other, strict=True))


def fronts_of(results: Iterable[TrialResult]) -> dict[int, int]:
    """The fronts of trials with several objectives, by number.

    Only of those that have come to their end, as in Optuna's ``best_trials``: what a stopped one
    had is no match for what another has at the horizon.
    """
    several = [result for result in results if len(result.objectives) > 1]
    costs = {r.number: found for r in several if (found := r.costs) is not None}
    return dict(zip(costs, fronts([*costs.values()]), strict=True))
