"""Follow a search that another process runs, from what it writes into its run folder."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console

from ..spaces import load_space
from ..trainer.errors import TrialError
from ..trainer.folder import RunFolder
from ..trainer.result import TrialResult
from .live import make_display

_SECONDS = 1.0


def watch(run: RunFolder, console: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show a run's trials as its own search shows them, until no search runs there any more.

    Only reads, so that any number of watchers may look on.

    Args:
        run: its folder.
        console: where to show them.
        sleep: between two looks.

    Raises:
        SpaceError: the run's space cannot be read.
    """
    space = load_space(run.space)
    seen: dict[int, TrialResult] = {}
    with make_display(space, {}, console) as display:
        while True:
            # Looked at before the results: what is written until then is shown.
            over = not run.is_locked()
            for result in _results(run):
                if seen.get(result.number) != result:
                    seen[result.number] = result
                    display.update(result)
            if over:
                return
            sleep(_SECONDS)


def _results(run: RunFolder) -> list[TrialResult]:
    try:
        return list(run.results()) if run.trials.is_dir() else []
    except TrialError:
        # A folder that is being put in order by a resumed search; the next look sees it whole.
        return []
