"""The report of a run: verdict, leaderboard, figures, failures, and how to repeat it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from ..spaces import SpaceError, load_space
from ..spaces.metrics import find_metric
from ..trainer.errors import TrialError
from ..trainer.folder import RunFolder
from ..trainer.result import TrialResult
from . import confirmation, formats
from .agreement import AUDIT_HEADS, RUNG_HEADS, audit_cells, rung_cells
from .confirmation import confirmed_rows, expectation
from .drawing import Figure
from .edges import at_edges
from .figures import figures
from .leaderboard import Leaderboard
from .page import (
    Section,
    advice,
    caption,
    document,
    figure_body,
    leaderboard_table,
    table,
    tiles,
)
from .seed_figure import seed_figure
from .verdict import verdict


def to_html(run: RunFolder, board: Leaderboard, drawn: Sequence[Figure] | None = None) -> str:
    """The whole report.

    Args:
        run: whose trials, study and space are shown.
        board: of the run.
        drawn: ``run_figures`` of the run, where they are there already.

    Raises:
        TrialError: a file of the run cannot be read.
    """
    if drawn is None:
        drawn = run_figures(run, board)
    sections = [
        Section("leaderboard", "Leaderboard", leaderboard_table(board)),
        Section("fresh-seeds", "On fresh seeds", _confirmation(board)),
        *(Section(f.name, f.title, figure_body(f)) for f in drawn),
        Section("stopping", "Early stopping", _stopping(board)),
        Section("failures", "Failures", _failures(run.results())),
        Section("again", "To repeat it", _again(run, board)),
    ]
    return document(board.name, _head(run, board), sections)


def run_figures(run: RunFolder, board: Leaderboard) -> tuple[Figure, ...]:
    """The figures of a run's report, in their order.

    Raises:
        TrialError: a file of the run cannot be read.
    """
    return figures(board, tuple(run.results()), optuna_trials(run))


def optuna_trials(run: RunFolder) -> list[FrozenTrial]:
    """Optuna's records of a run's trials; none where the run has no study."""
    if not run.study.is_file():
        return []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = RDBStorage(f"sqlite:///{run.study}")
        names = optuna.get_all_study_names(storage)
        if not names:
            return []
        return optuna.load_study(study_name=names[0], storage=storage).get_trials(deepcopy=False)
    except Exception as error:
        raise TrialError(f"{run.study}: cannot be opened as an Optuna study: {error}") from error


def _head(run: RunFolder, board: Leaderboard) -> str:
    about = board.about
    model, data = about.get("model", {}), about.get("data", {})
    facts = [model.get("name"), data.get("source"), about.get("started")]
    known = " · ".join(escape(formats.printable(str(fact))) for fact in facts if fact)
    notes = [advice(text, caution=True) for text in board.warnings]
    notes += [advice(text) for text in _edges(run, board)]
    return (
        f"<h1>{escape(board.name)}</h1><p class=sub>{known}</p>"
        f'<p class="verdict">{escape(verdict(board))}</p>{"".join(notes)}{_tiles(board)}'
    )


def _edges(run: RunFolder, board: Leaderboard) -> tuple[str, ...]:
    if not run.space.is_file():
        return ()
    try:
        return at_edges(board, load_space(run.space))
    except SpaceError:
        # A space that this version cannot read any more is no reason to show no report.
        return ()


def _tiles(board: Leaderboard) -> str:
    best, default, base = board.best, board.default, board.base
    if best is None or best.expected is None:
        return ""
    facts = [(formats.loss(best.score), f"best {board.metric}, {best.name}")]
    if best.confirmed is not None:
        facts = [
            (expectation(best), f"expected {board.metric}, {best.name}"),
            (formats.loss(best.score), "the search's own score of it"),
        ]
    if default is not None and default.expected is not None and default is not best:
        gain = default.expected_cost - best.expected_cost
        facts.append((formats.loss(gain), "better than the default configuration"))
    if base is not None and base.score is not None:
        gain = base.cost - best.expected_cost
        facts.append((formats.loss(gain), "better than the base model"))
    facts.append((formats.count(best.trainable_parameters), "trainable parameters"))
    if board.front:
        facts.append((str(len(board.front)), "on the Pareto front"))
    trials = [row for row in board.rows if row.kind != "base"]
    facts.append((str(len(trials)), "trials"))
    facts.append((formats.clock(sum(row.seconds for row in trials)), "of training, all trials"))
    return tiles(facts)


def _confirmation(board: Leaderboard) -> str:
    rows = confirmed_rows(board)
    if not rows:
        return ""
    shown = seed_figure(rows, find_metric(board.metric).label)
    drawn = Figure("seeds", "On fresh seeds", confirmation.caption(rows), shown)
    return figure_body(drawn) + table(confirmation.HEADS, map(confirmation.cells, rows), left=1)


def _stopping(board: Leaderboard) -> str:
    if not board.agreement and not board.audits:
        return ""
    text = table(RUNG_HEADS, map(rung_cells, board.agreement)) if board.agreement else ""
    if board.audits:
        text += table(AUDIT_HEADS, map(audit_cells, board.audits))
    said = "Whether a rung ranked the trials as the horizon did: 1 is the same order, 0 none."
    return caption(said) + text


def _failures(results: Iterable[TrialResult]) -> str:
    return "".join(
        f"<details><summary>{escape(result.name)} "
        f'<span class="state {result.state}">{result.state}</span> after step {result.step}'
        f"{_at(result)}</summary><pre>{escape(_several_lines(result.error))}</pre></details>"
        for result in results
        if result.error
    )


def _at(result: TrialResult) -> str:
    return "" if result.place is None else f" on {escape(formats.printable(result.place))}"


def _several_lines(text: str) -> str:
    """Several lines, without what a browser or terminal would take for a command."""
    return "\n".join(formats.printable(line) for line in text.splitlines())


def _again(run: RunFolder, board: Leaderboard) -> str:
    about = board.about
    data: Mapping[str, Any] = about.get("data", {})
    facts = {
        "command": about.get("command"),
        "started": about.get("started"),
        "model": json.dumps(about["model"]) if "model" in about else None,
        "data": data.get("source"),
        "fingerprint": data.get("fingerprint"),
        "versions": ", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items()),
    }
    each = "".join(
        f"<dt>{name}</dt><dd>{escape(formats.printable(str(fact)))}</dd>"
        for name, fact in facts.items()
        if fact
    )
    space = _several_lines(run.space.read_text("utf-8", "replace")) if run.space.is_file() else ""
    shown = f"<details><summary>space.yaml</summary><pre>{escape(space)}</pre></details>"
    return f"<dl>{each}</dl>{shown if space else ''}"
