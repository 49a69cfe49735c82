"""Another run's best configurations, to begin a search with."""

from __future__ import annotations

from collections.abc import Mapping

from ..reports import build
from ..spaces import Label, Space
from ..trainer.errors import TrialError
from ..trainer.folder import RunFolder

BEST = 3
"""Configurations to take over."""


def warm_params(run: RunFolder, space: Space) -> list[dict[str, Label]]:
    """The parameters of the run's best trials, best first, as far as they lie in ``space``.

    A parameter that this space lacks, or a value outside its domain, is left out; the sampler
    fills in what is missing.

    Raises:
        TrialError: no trial of the run has anything to give.
    """
    known = {parameter.name: parameter for parameter in space.parameters()}
    results = {result.number: result for result in run.results()}
    found: list[dict[str, Label]] = []
    for row in build(run).rows:
        if row.rank is None or row.trial is None or row.lineage or len(found) == BEST:
            continue
        params: Mapping[str, Label] = results[row.trial].config.get("params") or {}
        shared = {n: v for n, v in params.items() if n in known and known[n].domain.holds(v)}
        if shared and shared not in found:
            found.append(shared)
    if not found:
        raise TrialError(f"{run.root}: its ranked trials share no parameter with this space")
    return found
