"""A trial's checkpoint: all it takes to go on as if nothing had happened.

The Trainer writes adapter, optimizer, scheduler and random states and its own state; beside them
lies the trial's result at that moment and a manifest of every file's size and digest. A process
killed in the middle of writing leaves the checkpoint before it, never a half of one; a file that
was damaged later is noticed and not loaded.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from .errors import TrialError
from .folder import read_json, recover_folder, replace_folder, write_json
from .result import TrialResult

logger = logging.getLogger(__name__)

_MANIFEST = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is whole.

    Attributes:
        folder: as transformers' Trainer wrote it.
        result: the trial's at that moment; its ``step`` is the checkpoint's.
    """

    folder: Path
    result: TrialResult


def seal(made: Path, target: Path, result: TrialResult) -> None:
    """Turn the folder ``made`` into the checkpoint at ``target``, in place of an older one."""
    # A pickle that nothing reads, peft's empty model-card form, the seal of a copied checkpoint.
    for name in ("training_args.bin", "README.md", _MANIFEST):
        (made / name).unlink(missing_ok=True)
    files = {path.name: _fingerprint(path) for path in sorted(made.iterdir()) if path.is_file()}
    write_json(made / _MANIFEST, {"files": files, "result": result.to_dict()})
    replace_folder(made, target)


def find(target: Path) -> Checkpoint | None:
    """The checkpoint at ``target``; None where there is none, or a damaged one (logged)."""
    recover_folder(target)
    if not target.is_dir():
        return None
    try:
        manifest = read_json(target / _MANIFEST)
        damaged = [
            name
            for name, mark in manifest["files"].items()
            if not (target / name).is_file() or _fingerprint(target / name) != mark
        ]
        if not damaged:
            return Checkpoint(target, TrialResult.from_dict(manifest["result"]))
        why = f"{', '.join(damaged)} is missing or damaged"
    except (TrialError, KeyError, TypeError, ValueError, AttributeError) as error:
        why = str(error)
    logger.warning("%s: no use as a checkpoint, the trial starts over: %s", target, why)
    return None


def _fingerprint(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
