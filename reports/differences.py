"""What was exported against what the search ranked: losses, and words for large differences."""

from __future__ import annotations

from .card_facts import CardScores

_SAME = 0.01
"""Nats: farther off than this, an adapter that was loaded again is not what was ranked."""
_LARGE = 0.05
"""Nats: farther off than this, another form of the adapter is called out."""
_WHY = {
    "merged": "The adapter was trained on the base in 4 bits and makes up for its rounding; "
    "here it is in full-precision weights.",
    "merged-nf4": "The merged weights were rounded to 4 bits anew, the adapter's share with them.",
    "gguf": "Like the merged model, it stands on full-precision weights, "
    "where the adapter was trained on 4-bit ones.",
}


def rescored(scores: CardScores) -> dict[str, float]:
    """The losses of exported files, in nats, by what a user calls each."""
    losses = {
        "loaded again": scores.reloaded,
        "merged": scores.merged,
        "merged-nf4": scores.nf4,
        "gguf": scores.gguf,
    }
    return {name: loss for name, loss in losses.items() if loss is not None}


def not_what_was_ranked(scores: CardScores) -> str | None:
    """A sentence for where the adapter's loss is not the search's; None where it is."""
    if scores.reloaded is None or abs(scores.reloaded - scores.eval_loss) <= _SAME:
        return None
    return (
        f"Loaded again, the adapter scores {scores.reloaded:.4f}, not {scores.eval_loss:.4f} "
        f"({scores.reloaded - scores.eval_loss:+.4f} nats): this is not what the search ranked."
    )


def large_differences(scores: CardScores, quantization: str) -> list[str]:
    """A sentence or two for each other form that is far from the search's score.

    Args:
        scores: of the export.
        quantization: of the base during training, ``none`` or ``nf4``.
    """
    found = []
    for name, loss in rescored(scores).items():
        off = loss - scores.eval_loss
        if name == "loaded again" or abs(off) <= _LARGE:
            continue
        words = (
            f"{name}: {abs(off):.4f} nats {'worse' if off > 0 else 'better'} than in the search."
        )
        explained = quantization == "nf4" or name == "merged-nf4"
        found.append(f"{words} {_WHY[name]}" if explained else words)
    return found
