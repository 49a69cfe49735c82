"""Pareto fronts by their definition, to hold others against."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, ...]


def dominates(one: Point, other: Point) -> bool:
    """Whether one is as good in all and better in one; less is better."""
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def peeled(points: Sequence[Point]) -> list[int]:
    """Each point's front: take away what nothing that is left dominates, again and again."""
    found, left, number = [0] * len(points), set(range(len(points))), 1
    while left:
        free = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        for index in free:
            found[index] = number
        left, number = left - free, number + 1
    return found
