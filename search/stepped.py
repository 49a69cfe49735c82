"""A trial that runs from evaluation to evaluation, one ``advance()`` at a time.

``run_trial`` calls ``report`` from deep inside the Trainer's loop, while a Ray Trainable is
called from outside and must return. A thread with a hand-over in each direction turns the one
into the other: at any moment only one of the two sides runs.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..trainer.result import TrialResult

if TYPE_CHECKING:
    # It imports torch, which a worker is to import no sooner than it needs.
    from ..trainer.recorder import Report


class SteppedTrial:
    """Drives ``run(report)``.

    Args:
        run: e.g. ``lambda report: run_trial(config, base, data, report, folder)``.
    """

    def __init__(self, run: Callable[[Report], TrialResult]) -> None:
        self._run = run
        self._go: queue.Queue[bool] = queue.Queue()
        self._out: queue.Queue[TrialResult | BaseException] = queue.Queue()
        self._thread: threading.Thread | None = None

    def advance(self) -> TrialResult:
        """Run to the next evaluation, or to the end.

        Returns:
            The result so far; its state is final at the end.

        Raises:
            BaseException: whatever ``run`` raised.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, name="trial", daemon=True)
            self._thread.start()
        else:
            self._go.put(True)
        item = self._out.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def stop(self) -> None:
        """Let ``report`` say stop and wait until ``run`` has cleaned up after itself."""
        if self._thread is not None and self._thread.is_alive():
            self._go.put(False)
            self._thread.join()

    def _report(self, result: TrialResult) -> bool:
        self._out.put(result)
        return self._go.get()

    def _main(self) -> None:
        try:
            self._out.put(self._run(self._report))
        except BaseException as error:
            self._out.put(error)
