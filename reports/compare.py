"""Several searches side by side: what each came to, what differs between their spaces."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..spaces.errors import FaultLog
from ..spaces.values import KEYWORDS
from ..spaces.yamltext import read_yaml
from ..trainer.folder import RunFolder
from ..trainer.result import TrialResult
from . import formats
from .leaderboard import Leaderboard, build, comparable, merge
from .render import to_json
from .rows import Row


@dataclass(frozen=True)
class Standing:
    """What one search came to.

    Attributes:
        run: its name in the comparison.
        trials: how many it has.
        best: name of its best trial; None if none is ranked.
        score: of that trial.
        over_base, over_default: the gain over base model and default configuration.
        seconds: its trials took together.
        fingerprint: of its data; None if it is not known.
    """

    run: str
    trials: int
    best: str | None
    score: float | None
    over_base: float | None
    over_default: float | None
    seconds: float
    fingerprint: str | None


@dataclass(frozen=True)
class Comparison:
    """Several runs.

    Attributes:
        board: all of their trials, ranked together; its warnings say if their data differ.
        standings: what each came to, the best first; those without a score last.
        differences: of the spaces, by key: a value for each run, in the order of ``board.runs``;
            None where a run's space does not have the key.
        results: each run's trials, in the same order.
    """

    board: Leaderboard
    standings: tuple[Standing, ...]
    differences: Mapping[str, tuple[Any, ...]]
    results: tuple[tuple[TrialResult, ...], ...]


def compare(runs: Sequence[RunFolder]) -> Comparison:
    """Compare runs.

    Args:
        runs: two or more.

    Raises:
        TrialError: a file of one of them cannot be read.
    """
    boards = [build(run) for run in runs]
    board = merge(boards)
    alone = zip(board.runs, comparable(boards), strict=True)
    standings = [_standing(name, own) for name, own in alone]
    costs = {row.run: row.cost for row in reversed(board.rows) if row.rank is not None}
    standings.sort(key=lambda s: costs.get(s.run, math.inf))
    results = tuple(tuple(run.results()) for run in runs)
    return Comparison(board, tuple(standings), _differences(runs), results)


def _standing(name: str, board: Leaderboard) -> Standing:
    best, about = board.best, board.about
    trials = [row for row in board.rows if row.kind != "base"]
    return Standing(
        name,
        len(trials),
        None if best is None else best.name,
        None if best is None else best.score,
        _gain(best, board.base),
        _gain(best, board.default),
        sum(row.seconds for row in trials),
        about.get("data", {}).get("fingerprint"),
    )


def _gain(best: Row | None, other: Row | None) -> float | None:
    if best is None or other is None or best.score is None or other.score is None:
        return None
    return other.cost - best.cost


def _differences(runs: Sequence[RunFolder]) -> dict[str, tuple[Any, ...]]:
    spaces = [_flat(_space(run)) for run in runs]
    keys = dict.fromkeys(key for space in spaces for key in space)
    found = {key: tuple(space.get(key) for space in spaces) for key in keys}
    return {
        key: values
        for key, values in found.items()
        if key != "name" and any(value != values[0] for value in values)
    }


def _space(run: RunFolder) -> Any:
    if not run.space.is_file():
        return {}
    # Not yaml.safe_load, which a short text can keep busy for ever.
    found = read_yaml(run.space.read_text("utf-8", "replace"), FaultLog()).data
    return found if isinstance(found, dict) else {}


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """By dotted path; a domain (a mapping with one of its words) is a value."""
    if isinstance(value, Mapping) and not set(KEYWORDS) & set(value):
        found: dict[str, Any] = {}
        for key, inner in value.items():
            found |= _flat(inner, f"{path}.{key}" if path else str(key))
        return found
    return {path: value} if path else {}


def comparison_json(found: Comparison) -> str:
    """Everything, numbers exact: ``standings``, ``differences``, and the joint ``leaderboard``."""
    data = {
        "runs": found.board.runs,
        "standings": [asdict(standing) for standing in found.standings],
        "differences": {key: list(values) for key, values in found.differences.items()},
        "leaderboard": json.loads(to_json(found.board)),
    }
    return json.dumps(data, indent=2, default=str) + "\n"


HEADS = ("search", "trials", "best", "score", "gain over base", "over default", "time", "data")
"""Of ``standing_cells``."""


def standing_cells(standing: Standing) -> tuple[str, ...]:
    """A line for a reader."""
    return (
        standing.run,
        str(standing.trials),
        standing.best or formats.ABSENT,
        formats.loss(standing.score),
        formats.loss(standing.over_base),
        formats.loss(standing.over_default),
        formats.clock(standing.seconds),
        (standing.fingerprint or "unknown")[:12],
    )


def difference_cells(key: str, values: Sequence[Any]) -> tuple[str, ...]:
    """A line for a reader: the key, and what each run has."""
    return (key, *(formats.brief(value) for value in values))
