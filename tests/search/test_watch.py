"""Following a search from its run folder alone."""

from __future__ import annotations

import fcntl
import io
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console
from tune_lora.search.watch import watch
from tune_lora.spaces import Space, dump_space
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.folder import RunFolder, write_text
from tune_lora.trainer.result import Evaluation, TrialResult, TrialState

CONFIG = {
    "lora": {"r": 8, "lora_alpha": 16, "target_modules": "qv"},
    "train": {"learning_rate": 1e-4, "max_steps": 8},
}


@pytest.fixture
def folder(tmp_path: Path, space_of: Callable[..., Space]) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    write_text(run.space, dump_space(space_of("search.trials=2")))
    return run


def trial(number: int, *losses: float, state: TrialState = TrialState.RUNNING) -> TrialResult:
    evaluations = tuple(Evaluation(2 * i, loss, 1.0) for i, loss in enumerate(losses, 1))
    best = min(losses, default=None)
    return TrialResult(
        number, state, CONFIG, best, len(losses) or None, 2 * len(losses), evaluations
    )


def watched(run: RunFolder, sleep: Callable[[float], None]) -> list[str]:
    said = io.StringIO()
    watch(run, Console(file=said, width=200), sleep)
    return [" ".join(line.split()[1:]) for line in said.getvalue().splitlines()]


def test_every_move_is_shown_once_until_the_search_ends(folder: RunFolder) -> None:
    moves = [trial(0), trial(0, 2.5), trial(0, 2.5)]
    with ExitStack() as searching:
        searching.enter_context(folder.locked())

        def sleep(seconds: float) -> None:
            if moves:
                folder.trial(0).write_result(moves.pop(0))
                return
            folder.trial(0).write_result(trial(0, 2.5, 2.0, state=TrialState.COMPLETE))
            folder.trial(1).write_result(trial(1, 1.5, state=TrialState.PRUNED))
            searching.close()

        lines = watched(folder, sleep)
    assert [line.partition("best so far")[0].strip() for line in lines] == [
        "trial-0000 started r=8 alpha=16 qv lr=1.0e-04",
        "trial-0000 step 2/4 eval_loss 2.5000",
        "trial-0000 step 4/4 eval_loss 2.0000 COMPLETE",
        "trial-0001 step 2/4 eval_loss 1.5000 PRUNED",
    ]


def test_a_search_that_is_over_is_shown_and_no_more_looked_at(folder: RunFolder) -> None:
    folder.trial(0).write_result(trial(0, 2.5, state=TrialState.COMPLETE))
    lines = watched(folder, lambda _: pytest.fail("it waits for a search that is over"))
    assert len(lines) == 1


def test_one_who_looks_keeps_no_search_from_starting(folder: RunFolder) -> None:
    """For a moment it holds the lock; only who holds it for longer is another search."""
    with folder.locked():
        assert folder.is_locked()
    assert not folder.is_locked()
    with (folder.root / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(TrialError, match="another search"), folder.locked():
            pass
        release = threading.Timer(0.1, fcntl.flock, (file, fcntl.LOCK_UN))
        release.start()
        with folder.locked():
            assert folder.is_locked()
        release.join()
