"""What a space wants measured, for trials and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..spaces import Space
from ..spaces.metrics import FORGETTING, LOSS, find_objective


def measures_of(space: Space) -> dict[str, Any]:
    """What the space wants measured besides the loss: fields of ``metrics.Measures``."""
    search = space.search
    names = dict.fromkeys((*search.objectives, *search.metrics))
    sources = {name: find_objective(name).source for name in names}
    further = [n for n, source in sources.items() if source not in ("loss", "general", "trial")]
    # An objective behind the first is looked at when trials have ended.
    each = (search.objectives[0], *search.metrics)
    general = "general" in {sources[name] for name in each}
    if not further and not general:
        return {}
    bounds = search.generation.model_dump()
    return {"names": further, **bounds, "folder": str(Path.cwd()), "general": general}


def measures_said(space: Space) -> str | None:
    """What trials are judged by and what else is measured, in words; None for the loss alone."""
    search, wanted = space.search, measures_of(space)
    general = space.data.general
    if search.metric == LOSS and not wanted and general is None:
        return None
    first, *others = search.objectives
    known = dict.fromkeys((LOSS, *search.metrics))
    besides = [name for name in known if name not in search.objectives]
    parts = [f"{first} ({_better(first)} is better)"]
    if others:
        parts[0] += "".join(f", {name} ({_better(name)})" for name in others)
        parts.append(
            f"trials are ranked by Pareto fronts, and while they train {first} alone decides"
        )
    if besides:
        parts.append(f"besides {', '.join(besides)}")
    bounds = search.generation
    if wanted.get("names") and space.model.task in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        parts.append(f"{bounds.rows} answers of {bounds.max_new_tokens} tokens at most")
    if general is not None:
        when = "at each evaluation" if wanted.get("general") else "of each trial at its end"
        parts.append(f"{FORGETTING} {when}, on {general.source}")
    return "; ".join(parts)


def _better(name: str) -> str:
    return "more" if find_objective(name).maximize else "less"
