"""The ranking of a run's trials, and the joint ranking of several runs.

Less loss is better, or more of a metric of which more is. COMPLETE and PRUNED trials are ranked
together, each by its best evaluation; of equal scores, the one with less loss, and then the one
with fewer trainable parameters, comes first. Configurations that were trained again on fresh seeds
come before all others, by their means; of those that tie with the best, the one with the fewest
trainable parameters; one that failed on a seed is behind them. The base model stands among the
trials, without a rank, at the place of its score: what is below it, tuning made worse.

Trials that are judged by several objectives are ranked by Pareto fronts, and on a front as above,
by the first objective. What has no front (stopped trials, and those without a value for one of the
objectives) comes behind, and then the base model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..spaces.metrics import LOSS, find_metric
from ..trainer.folder import RunFolder
from ..trainer.result import TrialResult, TrialState
from .agreement import Audit, RungAgreement, agreement, audits
from .formats import printable
from .noise import Noise, confirmed, pooled, ties
from .pareto import fronts
from .rows import SHOWN_ALWAYS, Kind, Row, base_row, shown_names, shown_params, trial_row

__all__ = ["Kind", "Leaderboard", "Row", "build", "merge"]


@dataclass(frozen=True)
class Leaderboard:
    """Ranked rows, in the order in which every format shows them.

    Attributes:
        name: of the run; of several, joined by `` + ``.
        metric: what the rows are ranked by; of several objectives, the first.
        rows: those with a score by loss, then RUNNING trials, then the rest with their reasons.
        about: the run's ``run.json``; of several, ``{"runs": {name: run.json}}``.
        runs: names of the runs.
        warnings: what a reader must know before comparing rows.
        agreement: each rung's ranking against the final one; empty for several runs.
        audits: stopped trials that were finished on request; empty for several runs.
        objectives: all of them, where there are several; else empty.
    """

    name: str
    metric: str
    rows: tuple[Row, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    agreement: tuple[RungAgreement, ...] = ()
    audits: tuple[Audit, ...] = ()
    objectives: tuple[str, ...] = ()

    @cached_property
    def noise(self) -> Noise | None:
        """From seed to seed; None where no configuration was trained on two or more of them."""
        groups = {id(row.confirmed): row.confirmed.scores for row in self.rows if row.confirmed}
        alike: dict[tuple[str, str], list[float]] = {}
        for row in self.rows:
            if row.state == TrialState.COMPLETE and row.score is not None and not row.lineage:
                alike.setdefault((row.run, row.configuration), []).append(row.score)
        several = [group for group in (*groups.values(), *alike.values()) if len(group) > 1]
        return pooled(several) if several else None

    @property
    def best(self) -> Row | None:
        """The row of rank 1, which may be the default configuration; None if none is ranked."""
        return next((row for row in self.rows if row.rank == 1), None)

    @property
    def front(self) -> tuple[Row, ...]:
        """The rows that no other is better than in all objectives; none where there is one."""
        return tuple(row for row in self.rows if row.front == 1)

    @property
    def default(self) -> Row | None:
        """The default configuration; of several runs, that of the best row's run."""
        return self._held_against("default")

    @property
    def base(self) -> Row | None:
        """The untouched base model; of several runs, that of the best row's run."""
        return self._held_against("base")

    @cached_property
    def param_names(self) -> tuple[str, ...]:
        """Names of the hyperparameters in the rows' ``params``, in the order of columns."""
        searched = (name for row in self.rows for name in row.params)
        return tuple(dict.fromkeys((*SHOWN_ALWAYS, *searched)))

    @cached_property
    def further_metrics(self) -> tuple[str, ...]:
        """What else was measured, in the order of columns; perplexity has one of its own."""
        found = (name for row in self.rows for name in row.metrics)
        loss = () if self.metric == LOSS else (LOSS,)
        return tuple(dict.fromkeys(name for name in (*loss, *found) if name != self.metric))

    def _held_against(self, kind: Kind) -> Row | None:
        best = self.best
        rows = [row for row in self.rows if row.kind == kind]
        same_run = [row for row in rows if best is not None and row.run == best.run]
        return next(iter(same_run), None) if best is not None else next(iter(rows), None)


def build(run: RunFolder) -> Leaderboard:
    """Rank what a run folder holds, whether or not its search has ended.

    Raises:
        TrialError: a file in it cannot be read.
    """
    base = run.read_base()
    about = run.read_about() if run.about.is_file() else {}
    results = list(run.results())
    metric = results[0].metric if results else LOSS
    rows = [] if base is None else [base_row(base, run.name, metric)]
    finished = run.audits()
    again = confirmed(run.confirmations().values())
    for result in results:
        kept = run.trial(result.number).adapter.is_dir()
        rows.append(trial_row(result, base, run.name, kept, again))
    return Leaderboard(
        run.name,
        metric,
        _ranked(rows),
        about,
        (run.name,),
        _cautions(about),
        agreement=agreement(results, finished),
        audits=audits(results, finished),
        objectives=_several(results),
    )


def _several(results: Sequence[TrialResult]) -> tuple[str, ...]:
    found = results[0].objectives if results else ()
    return found if len(found) > 1 else ()


def _cautions(about: Mapping[str, Any]) -> tuple[str, ...]:
    model = about.get("model", {})
    if not model.get("trust_remote_code"):
        return ()
    name = printable(str(model.get("name")))
    return (f"Python code that came with {name} was run (model.trust_remote_code)",)


def merge(boards: Sequence[Leaderboard]) -> Leaderboard:
    """Rank the trials of several runs together; each run's base and default rows stay.

    Runs that are ranked by different metrics are ranked by what all have: the loss. Where only
    their further objectives differ, that is the first one.

    Args:
        boards: from ``build``; runs of the same name are told apart by a number.

    Returns:
        A board whose ``warnings`` say so if the runs' metrics differ, or their data do or are not
        known to be equal.

    Raises:
        ValueError: no boards.
    """
    if not boards:
        raise ValueError("merge: give at least one leaderboard")
    names = _distinct([board.name for board in boards])
    by = (" and ".join(board.objectives or (board.metric,)) for board in boards)
    judged = dict(zip(names, by, strict=True))
    boards = comparable(boards)
    metrics = _metrics_warning(judged, boards[0].metric)
    rows = [
        replace(row, run=name)
        for name, board in zip(names, boards, strict=True)
        for row in board.rows
    ]
    warning = _data_warning(dict(zip(names, (_fingerprint(b.about) for b in boards), strict=True)))
    kept = [text for board in boards for text in board.warnings] + ([metrics] if metrics else [])
    return Leaderboard(
        name=" + ".join(names),
        metric=boards[0].metric,
        rows=_ranked(rows),
        about={"runs": {n: dict(b.about) for n, b in zip(names, boards, strict=True)}},
        runs=names,
        warnings=(*kept, *([warning] if warning else [])),
        objectives=boards[0].objectives,
    )


def comparable(boards: Sequence[Leaderboard]) -> tuple[Leaderboard, ...]:
    """The boards as they are where the same ranks all of them, else each ranked by what they share.

    That is the first objective, or else the loss: of the adapter which a trial's own metric chose.
    """
    if len({(board.metric, board.objectives) for board in boards}) == 1:
        return tuple(boards)
    boards = [replace(board, objectives=(), rows=_by_first(board)) for board in boards]
    if len({board.metric for board in boards}) == 1:
        return tuple(boards)
    return tuple(replace(b, metric=LOSS, rows=_ranked(_by_loss(b))) for b in boards)


def _by_first(board: Leaderboard) -> tuple[Row, ...]:
    if not board.objectives:
        return board.rows
    return _ranked(replace(r, objectives={}, front=None, rank=None, tie=False) for r in board.rows)


def _by_loss(board: Leaderboard) -> list[Row]:
    before = None if board.base is None else board.base.eval_loss
    found = []
    for row in board.rows:
        if row.metric != LOSS:
            own = row.eval_loss
            gain = None if before is None or own is None else before - own
            row = replace(row, score=own, gain_over_base=gain, confirmed=None)
        found.append(replace(row, metric=LOSS, rank=None, tie=False))
    return found


def _metrics_warning(judged: Mapping[str, str], shared: str) -> str | None:
    if len(set(judged.values())) == 1:
        return None
    each = ", ".join(f"{name}: {metrics}" for name, metrics in judged.items())
    return f"the runs chose by different metrics ({each}), and are ranked by {shared} here"


def _ranked(rows: Iterable[Row]) -> tuple[Row, ...]:
    given = _fronted(tuple(rows))
    names = shown_names(sorted(given, key=_number))
    tied = _tied(given)
    scored = sorted(
        (replace(row, tie=(row.run, row.configuration) in tied) for row in given if row.rankable),
        key=_order,
    )
    if scored:
        best = scored[0]
        alike = [r.run == best.run and r.configuration == best.configuration for r in scored]
        scored = [
            replace(row, tie=row.tie or (same and sum(alike) > 1))
            for row, same in zip(scored, alike, strict=True)
        ]
    scored = [replace(row, rank=place) for place, row in enumerate(scored, start=1)]
    fronted = any(row.front for row in scored)
    for row in sorted((r for r in given if _placed_base(r)), key=lambda r: r.cost):
        scored.insert(len(scored) if fronted else _place(row, scored), row)
    rest = [row for row in given if not row.rankable and not _placed_base(row)]
    rest.sort(key=lambda row: (row.state != TrialState.RUNNING, _number(row)))
    return tuple(replace(row, params=shown_params(row, names)) for row in (*scored, *rest))


def _fronted(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    costs = {place: found for place, row in enumerate(rows) if (found := row.costs) is not None}
    known = dict(zip(costs, fronts([*costs.values()]), strict=True))
    return tuple(replace(row, front=known.get(place)) for place, row in enumerate(rows))


def _tied(given: Sequence[Row]) -> set[tuple[str, str]]:
    """Runs and configurations that cannot be told apart from the best one, all on its front."""
    best = min((row.tier for row in given if row.rankable), default=math.inf)
    found = {
        (row.run, row.configuration): row.confirmed
        for row in given
        if row.rankable and row.confirmed and not row.confirmed.failed and row.tier == best
    }
    lower = not any(find_metric(row.metric).maximize for row in given)
    told = ties(list(found.values()), lower=lower)
    return {key for key, tie in zip(found, told, strict=True) if tie}


def _order(row: Row) -> tuple[float, ...]:
    """Of a row with a score."""
    return (row.tier, *_alone(row))


def _alone(row: Row) -> tuple[float, ...]:
    """By the first objective."""
    size = math.inf if row.trainable_parameters is None else row.trainable_parameters
    own = (*row.merit, size, _number(row))
    if row.confirmed is None:
        return (3, *own)
    if row.confirmed.failed:
        return (2, row.expected_cost, *own)
    return (0, size, row.expected_cost, *own) if row.tie else (1, row.expected_cost, *own)


def _placed_base(row: Row) -> bool:
    return row.kind == "base" and row.score is not None


def _place(base: Row, ranked: Sequence[Row]) -> int:
    """Behind the last row that is not worse: a trial is not behind what it equals."""
    behind = [n for n, row in enumerate(ranked, start=1) if row.expected_cost <= base.cost]
    return behind[-1] if behind else 0


def _number(row: Row) -> int:
    return -1 if row.trial is None else row.trial


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    seen: Counter[str] = Counter()
    made: list[str] = []
    for name in names:
        seen[name] += 1
        made.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(made)


def _fingerprint(about: Mapping[str, Any]) -> str | None:
    data = about.get("data")
    found = data.get("fingerprint") if isinstance(data, Mapping) else None
    return None if found is None else str(found)


def _data_warning(fingerprints: Mapping[str, str | None]) -> str | None:
    found = set(fingerprints.values())
    if len(fingerprints) == 1 or (len(found) == 1 and None not in found):
        return None
    each = ", ".join(f"{name}: {(mark or 'unknown')[:12]}" for name, mark in fingerprints.items())
    known = "differ" if len(found - {None}) > 1 else "are not known to be equal"
    return f"the runs' data {known} (fingerprints {each}): their losses do not compare"
