"""The in-process driver: one trial after another, here, without Ray.

For debuggers and tests. Nothing stops a trial that falls behind: that takes trials side by side.
"""

from __future__ import annotations

from collections.abc import Callable

from ..trainer.base import BaseModel, BaseSpec, load_base
from ..trainer.data import TokenizedData
from ..trainer.errors import DiskFullError
from ..trainer.folder import is_confirmation
from ..trainer.result import TrialResult
from ..trainer.run import run_trial, score_base
from .ledger import Ledger


def fit_local(
    ledger: Ledger,
    spec: BaseSpec,
    data: TokenizedData,
    stop: Callable[[], bool],
) -> None:
    """Run the search's trials until they are done or ``stop()`` is true."""
    base: BaseModel | None = None
    while not (stop() or ledger.closed):
        config, rerun = ledger.next_config(), None
        if config is None:
            found = ledger.next_rerun()
            if found is None:
                return
            config, rerun = found
        if base is None or base.spoiled:
            base = load_base(spec)
        if ledger.run.read_base() is None:
            with ledger.keeping():
                ledger.run.write_base(score_base(base, data, config))

        def report(result: TrialResult, rerun: str | None = rerun) -> bool:
            if rerun is None:
                ledger.progress(result)
            return not (stop() or ledger.closed)

        folder = ledger.run.trial(config.number)
        folder = folder.rerun(rerun) if rerun else folder
        test = is_confirmation(rerun)
        try:
            result = run_trial(config, base, data, report, folder, resume=True, test=test)
        except DiskFullError as error:
            ledger.halt(str(error))
            return
        if stop():
            ledger.closed = True
        if rerun is None:
            ledger.ended(result)
        else:
            ledger.reran(result, rerun)
