"""What a space wants measured, for trials and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..spaces import Space
from ..spaces.metrics import FORGETTING, LOSS, find_metric


def measures_of(space: Space) -> dict[str, Any]:
    """What the space wants measured besides the loss: fields of ``metrics.Measures``."""
    search = space.search
    names = dict.fromkeys((search.metric, *search.metrics))
    sources = {name: find_metric(name).source for name in names}
    further = [name for name, source in sources.items() if source not in ("loss", "general")]
    general = "general" in sources.values()
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
    better = "more" if find_metric(search.metric).maximize else "less"
    besides = [name for name in dict.fromkeys((LOSS, *search.metrics)) if name != search.metric]
    parts = [f"{search.metric} ({better} is better)"]
    if besides:
        parts.append(f"besides {', '.join(besides)}")
    bounds = search.generation
    if wanted.get("names") and space.model.task in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        parts.append(f"{bounds.rows} answers of {bounds.max_new_tokens} tokens at most")
    if general is not None:
        when = "at each evaluation" if wanted.get("general") else "of each trial at its end"
        parts.append(f"{FORGETTING} {when}, on {general.source}")
    return "; ".join(parts)
