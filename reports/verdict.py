"""What a search came to, in one paragraph of numbers."""

from __future__ import annotations

from collections import Counter

from ..spaces.metrics import LOSS
from ..trainer.result import TrialState
from .formats import loss, objective, short
from .leaderboard import Leaderboard
from .noise import LEVEL, Confirmed
from .rows import Row

_NAMED = 8
"""Trials of a front that a sentence names."""


def verdict(board: Leaderboard) -> str:
    """The best row against base model and default configuration, and how the trials ended.

    Returns:
        One paragraph, without markup; losses in nats, three significant digits.
    """
    best = board.best
    parts = [_standing(board, best) if best else "No trial has a score to rank."]
    parts.append(_front(board))
    parts.append(_certainty(board, best) if best else "")
    parts.append(_counts(board))
    parts.append(_early_stopping(board))
    parts.append(_taken_over(board))
    parts += [f"Caution: {warning}." for warning in board.warnings]
    return " ".join(part for part in parts if part)


def _standing(board: Leaderboard, best: Row) -> str:
    run = f" of {best.run}" if len(board.runs) > 1 else ""
    named = f"the default configuration ({best.name})" if best.kind == "default" else best.name
    first = f" by {board.metric}, the first objective" if board.objectives else ""
    if best.confirmed is None:
        text = (
            f"Best{first}: {named}{run}, {board.metric} {short(best.score)} "
            f"({_besides(best)}) at step {best.best_step} of {best.horizon}"
        )
    else:
        text = f"Best{first}: {named}{run}, expected {board.metric} {_expected(best.confirmed)}"
    held = [_against_base(board, best), _against_default(board, best)]
    compared = ", ".join(part for part in held if part)
    return f"{text}: {compared}." if compared else f"{text}."


def _front(board: Leaderboard) -> str:
    """Of several objectives, which trials no other is better than in all of them."""
    rows = board.front
    if not rows:
        return ""
    runs = len(board.runs) > 1
    each = [
        f"{row.name}{f' of {row.run}' if runs else ''} "
        f"({', '.join(objective(name, row.objectives[name]) for name in board.objectives)})"
        for row in rows[:_NAMED]
    ]
    more = [f"{len(rows) - _NAMED} more"] if len(rows) > _NAMED else []
    count = "1 trial" if len(rows) == 1 else f"{len(rows)} trials"
    return (
        f"{count} on the Pareto front of {', '.join(board.objectives)}: {', '.join(each + more)}."
    )


def _against_base(board: Leaderboard, best: Row) -> str:
    base = board.base
    if base is None or base.score is None:
        return ""
    return f"{_distance(best, base.score)} the base model ({short(base.score)})"


def _against_default(board: Leaderboard, best: Row) -> str:
    if best.kind == "default":
        others = any(row.rank and row.kind == "trial" for row in board.rows)
        return "no trial beat it" if others else ""
    default = board.default
    if default is None:
        return ""
    if default.expected is None:
        return f"the default configuration has no score ({default.state})"
    note = short(default.expected)
    if default.state != TrialState.COMPLETE:
        note += f", {default.state} at step {default.steps}"
    distance = f"{_distance(best, default.expected)} the default configuration ({note})"
    if board.noise is None:
        return distance
    runs = [1 if row.confirmed is None else len(row.confirmed.scores) for row in (best, default)]
    assert best.expected is not None
    beyond = board.noise.exceeded(default.expected - best.expected, *runs)
    return f"{distance}, {'beyond' if beyond else 'within'} the noise"


def _besides(best: Row) -> str:
    if best.metric == LOSS:
        return f"perplexity {short(best.perplexity)}"
    return f"{LOSS} {short(best.eval_loss)}"


def _expected(found: Confirmed) -> str:
    low, high = found.interval
    test = ""
    if found.test_mean is not None:
        test = f"; {loss(found.test_mean)} on the test rows"
    return (
        f"{loss(found.mean)} (mean of {len(found.scores)} fresh seeds, {LEVEL:.0%} interval "
        f"{loss(low)} to {loss(high)}{test})"
    )


def _certainty(board: Leaderboard, best: Row) -> str:
    """What the best row's lead is worth."""
    parts = [_alike(board, best), _ties(board, best)]
    if best.confirmed is not None:
        parts.append(
            f"The search's own score of it, {loss(best.score)} at step {best.best_step} of "
            f"{best.horizon}, is that of one run."
        )
    elif sum(row.rank is not None for row in board.rows) > 1 and board.noise is None:
        parts.append(
            "That is the best of single runs and flatters it: tune-lora confirm says what to "
            "expect."
        )
    return " ".join(part for part in parts if part)


def _alike(board: Leaderboard, best: Row) -> str:
    """That trials differ from the best in their seeds alone."""
    others = [row for row in board.rows if row.rank and row.run == best.run and row is not best]
    alike = sum(row.configuration == best.configuration for row in others)
    if not alike:
        return ""
    noise = f" (standard deviation {short(board.noise.deviation)})" if board.noise else ""
    if alike == sum(row.kind == "trial" for row in others):
        return f"All trials have the same configuration but for the seed: they tie{noise}."
    who = "1 other trial has" if alike == 1 else f"{alike} other trials have"
    return f"{who} its configuration with another seed, and tie{'s' * (alike == 1)}{noise}."


def _ties(board: Leaderboard, best: Row) -> str:
    """With which other configurations the best one ties."""
    tied: dict[str, str] = {}
    for row in board.rows:
        if row.tie and row.confirmed is not None and row.configuration != best.configuration:
            tied.setdefault(row.configuration, row.name)
    if not best.tie or not tied:
        return ""
    return (
        f"It ties with {' and '.join(tied.values())}, and has the fewest trainable parameters "
        "of them."
    )


def _distance(best: Row, other: float) -> str:
    assert best.expected is not None
    gain = other - best.expected
    if gain == 0:
        return "level with"
    return f"{short(abs(gain))} {'below' if gain > 0 else 'above'}"


def _early_stopping(board: Leaderboard) -> str:
    """How the rungs' rankings agreed with the final one, and what the audit found."""
    known = [rung for rung in board.agreement if rung.spearman is not None]
    each = ", ".join(f"{short(r.spearman)} at step {r.step} ({r.trials} trials)" for r in known)
    text = f"Rungs against the final ranking (Spearman): {each}." if known else ""
    if not board.audits:
        return text
    wrong = sum(audit.wrong for audit in board.audits)
    audited = f"{wrong} of {len(board.audits)} audited trials were stopped wrongly."
    return f"{text} {audited}".strip()


def _taken_over(board: Leaderboard) -> str:
    """That a row's hyperparameters are not those of its whole course."""
    count = sum(bool(row.lineage) for row in board.rows)
    if not count:
        return ""
    who = "1 trial" if count == 1 else f"{count} trials"
    return f"{who} took over another's weights on the way; shown is what each ended with."


def _counts(board: Leaderboard) -> str:
    counts = Counter(row.state for row in board.rows if row.kind != "base")
    total = sum(counts.values())
    if not total:
        return ""
    each = ", ".join(f"{counts[state]} {state}" for state in TrialState if counts[state])
    return f"{total} trial{'' if total == 1 else 's'}: {each}."
