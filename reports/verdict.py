"""What a search came to, in one paragraph of numbers."""

from __future__ import annotations

from collections import Counter

from ..trainer.result import TrialState
from .formats import short
from .leaderboard import Leaderboard
from .rows import Row


def verdict(board: Leaderboard) -> str:
    """The best row against base model and default configuration, and how the trials ended.

    Returns:
        One paragraph, without markup; losses in nats, three significant digits.
    """
    best = board.best
    parts = [_standing(board, best) if best else "No trial has a score to rank."]
    parts.append(_counts(board))
    parts.append(_early_stopping(board))
    parts.append(_taken_over(board))
    parts += [f"Caution: {warning}." for warning in board.warnings]
    return " ".join(part for part in parts if part)


def _standing(board: Leaderboard, best: Row) -> str:
    run = f" of {best.run}" if len(board.runs) > 1 else ""
    named = f"the default configuration ({best.name})" if best.kind == "default" else best.name
    text = (
        f"Best: {named}{run}, {board.metric} {short(best.eval_loss)} "
        f"(perplexity {short(best.perplexity)}) at step {best.best_step} of {best.horizon}"
    )
    held = [_against_base(board, best), _against_default(board, best)]
    compared = ", ".join(part for part in held if part)
    return f"{text}: {compared}." if compared else f"{text}."


def _against_base(board: Leaderboard, best: Row) -> str:
    base = board.base
    if base is None or base.eval_loss is None:
        return ""
    return f"{_distance(best, base.eval_loss)} the base model ({short(base.eval_loss)})"


def _against_default(board: Leaderboard, best: Row) -> str:
    if best.kind == "default":
        others = any(row.rank and row.kind == "trial" for row in board.rows)
        return "no trial beat it" if others else ""
    default = board.default
    if default is None:
        return ""
    if default.eval_loss is None:
        return f"the default configuration has no score ({default.state})"
    note = short(default.eval_loss)
    if default.state != TrialState.COMPLETE:
        note += f", {default.state} at step {default.steps}"
    return f"{_distance(best, default.eval_loss)} the default configuration ({note})"


def _distance(best: Row, loss: float) -> str:
    assert best.eval_loss is not None
    gain = loss - best.eval_loss
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
