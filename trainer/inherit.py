"""One trial takes over the state of another: weights, optimizer, random states, history.

Population based training (https://arxiv.org/abs/1711.09846) calls it exploiting. It is done in two
moves, so that a kill at any moment leaves the heir either what it was or what it becomes: what is
taken over is put together beside the heir's own files, and the heir puts it in their place when it
starts next.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .adapter import fits
from .checkpoint import find, seal
from .config import TrialConfig
from .folder import TrialFolder, replace_folder, write_text
from .result import TrialResult, TrialState

logger = logging.getLogger(__name__)


def bequeath(
    parent: TrialFolder,
    heir: TrialFolder,
    make: Callable[[TrialResult], TrialConfig],
) -> TrialResult | None:
    """Lay ready in ``heir`` what ``parent`` has at its latest checkpoint.

    Args:
        parent: may be running.
        heir: must not.
        make: the heir's new configuration, given the parent's result at that checkpoint.

    Returns:
        The heir's result as of then; None where the parent has no whole checkpoint just now.
    """
    made, taken = TrialFolder(heir.scratch / "made"), heir.scratch / "taken"
    if parent.inheritance.is_dir():
        # What the parent has is what it is about to give up.
        return None
    try:
        _link(parent.checkpoint, taken)
        _link(parent.adapter, made.adapter)
        lines = parent.metrics.read_text("utf-8")
    except FileNotFoundError:
        # The parent has ended, or is just replacing what was to be taken.
        return None
    found = find(taken)
    if found is None or found.result.best_step is None or not fits(made, found):
        return None
    write_text(made.metrics, lines)
    made.rewind_metrics(found.result.step)
    config = make(found.result)
    result = replace(
        found.result, number=config.number, state=TrialState.RUNNING, config=config.to_dict()
    )
    seal(taken, made.checkpoint, result)
    replace_folder(made.root, heir.inheritance)
    return result


def come_into(folder: TrialFolder, config: TrialConfig) -> None:
    """Put what lies ready in ``folder`` in its place, if it is meant for ``config``."""
    ready = TrialFolder(folder.inheritance)
    if not ready.root.is_dir():
        return
    found = find(ready.checkpoint)
    if found is not None and _meant_for(config, TrialConfig.from_dict(found.result.config)):
        logger.info("trial %d goes on with what trial %s has", config.number, config.lineage[-1:])
        # Copied, not moved: killed in between, it is done again.
        staged = TrialFolder(folder.scratch)
        for source, target in (
            (ready.adapter, folder.adapter),
            (ready.checkpoint, folder.checkpoint),
        ):
            _link(source, staged.root / target.name)
            replace_folder(staged.root / target.name, target)
        write_text(folder.metrics, ready.metrics.read_text("utf-8"))
    # In one move: of a half that a kill leaves, nothing could be taken over.
    spent = folder.scratch / "spent"
    shutil.rmtree(spent, ignore_errors=True)
    folder.scratch.mkdir(parents=True, exist_ok=True)
    ready.root.rename(spent)
    shutil.rmtree(spent, ignore_errors=True)


def _meant_for(config: TrialConfig, other: TrialConfig) -> bool:
    """Whether both train the same from the same weights on; rows a forward pass may differ."""
    return config.digest() == other.digest() and config.lineage == other.lineage


def _link(source: Path, target: Path) -> None:
    """A copy that takes no room: files of adapters and checkpoints are replaced, never changed.

    Raises:
        FileNotFoundError: there is no such folder, or another has taken its place meanwhile.
    """
    shutil.rmtree(target, ignore_errors=True)
    before = source.stat().st_ino
    try:
        shutil.copytree(source, target, copy_function=_hard_link)
    except shutil.Error as error:
        raise FileNotFoundError(str(error)) from error
    if source.stat().st_ino != before:
        raise FileNotFoundError(f"{source} was replaced")


def _hard_link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        # A file system without hard links; or the file has gone, and this says so.
        shutil.copy2(source, target)
