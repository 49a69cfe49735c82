"""What a space wants measured, for trials and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..spaces import Space
from ..spaces.metrics import LOSS, find_metric


def measures_of(space: Space) -> dict[str, Any]:
    """What the space wants measured besides the loss: fields of ``metrics.Measures``."""
    search = space.search
    names = dict.fromkeys((search.metric, *search.metrics))
    further = [name for name in names if find_metric(name).source != "loss"]
    if not further:
        return {}
    return {"names": further, **search.generation.model_dump(), "folder": str(Path.cwd())}


def measures_said(space: Space) -> str | None:
    """What trials are judged by and what else is measured, in words; None for the loss alone."""
    search, wanted = space.search, measures_of(space)
    if search.metric == LOSS and not wanted:
        return None
    better = "more" if find_metric(search.metric).maximize else "less"
    besides = [name for name in dict.fromkeys((LOSS, *search.metrics)) if name != search.metric]
    parts = [f"{search.metric} ({better} is better)"]
    if besides:
        parts.append(f"besides {', '.join(besides)}")
    bounds = search.generation
    if wanted and space.model.task in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        parts.append(f"{bounds.rows} answers of {bounds.max_new_tokens} tokens at most")
    return "; ".join(parts)
