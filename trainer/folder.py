"""Every path in a run folder, and the one way to write there: aside, then rename.

::

    RUN/
      space.yaml            the resolved space
      run.json              versions, data fingerprint, command, start
      study.db              the Optuna study (SQLite); the truth about which trials exist
      base.json             the untouched base model's score
      data/                 tokenized splits (Arrow)
      trials/0007/          metrics.jsonl, result.json, adapter/; checkpoint/ while it runs
        audit/              the same, of a stopped trial that was finished on request
        confirm/1/          the same, of its configuration trained again on seed 1
      leaderboard.{csv,json,md} report.html
      ray/                  Ray Tune's experiment state
      tracking.json         which trials each tracker has; its own files beside it
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from .errors import TrialError
from .foreign import read_base_score, read_result, refuse_links
from .result import BaseScore, TrialResult

AUDIT = "audit"
"""Name of the rerun that finishes a trial which was stopped early."""
_CONFIRM = "confirm"
_LOCK = ".lock"
_SCRATCH = ".scratch-"
_FULL = 2**20
"""Bytes: with less left, whatever failed is taken to have failed for that."""


def confirmation(seed: int) -> str:
    """Name of the rerun that trains a trial's configuration on another seed."""
    return f"{_CONFIRM}/{seed}"


def is_confirmation(rerun: str | None) -> bool:
    """Whether a rerun's name is one of ``confirmation``."""
    return rerun is not None and rerun.startswith(f"{_CONFIRM}/")


def as_typed(path: Path) -> str:
    """The path as a user would type it where this process works."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def refuse_uri(path: Path | str) -> None:
    """Check that a run folder is named by a path.

    Raises:
        TrialError: it is named by a URI, as Ray's own storage may be.
    """
    scheme = re.match(r"([a-z][a-z0-9+.-]+):/", str(path))
    if scheme:
        raise TrialError(
            f"{path}: {scheme[1]} storage is not supported: a run folder needs renames and locks; "
            "give a path on storage that every node mounts (NFS, Lustre, a shared volume)"
        )


def disk_full(error: BaseException, where: Path) -> bool:
    """Whether ``error`` came of there being no room left at ``where``."""
    # safetensors and torch wrap the system's error in classes of their own.
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    there = next(path for path in (where, *where.parents) if path.exists())
    return "No space left" in str(error) or shutil.disk_usage(there).free < _FULL


def write_text(path: Path, text: str) -> None:
    """Put ``text`` at ``path`` so that a reader sees the old file or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, data: object) -> None:
    """``write_text`` of indented JSON."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The JSON at ``path``.

    Raises:
        TrialError: it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TrialError(f"{path}: cannot be read: {error}") from error


def replace_folder(new: Path, target: Path) -> None:
    """Put the finished folder ``new`` in ``target``'s place."""
    recover_folder(target)
    old = _set_aside(target)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(target: Path) -> None:
    """Undo a ``replace_folder`` that was killed between its two moves."""
    old = _set_aside(target)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.rename(target)


def _number(name: str) -> int:
    """The trial whose folder has that name; -1, which none has, for any other."""
    return int(name) if name.isdecimal() and name.isascii() and len(name) < 10 else -1


def _set_aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _held(file: IO[str], kind: int, tries: int) -> bool:
    """Lock the file; more tries outlast one who only looks whether it is locked."""
    for _ in range(tries):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


@dataclass(frozen=True)
class TrialFolder:
    """The folder of one trial."""

    root: Path

    @property
    def metrics(self) -> Path:
        """One JSON object a line: a training log or an evaluation, with its step."""
        return self.root / "metrics.jsonl"

    @property
    def result(self) -> Path:
        """The ``TrialResult``; its state is final once the trial has ended."""
        return self.root / "result.json"

    @property
    def adapter(self) -> Path:
        """The adapter of the best evaluation, as peft saves it."""
        return self.root / "adapter"

    @property
    def checkpoint(self) -> Path:
        """What a trial that was interrupted goes on from; gone once it has ended."""
        return self.root / "checkpoint"

    @property
    def audit(self) -> TrialFolder:
        """Where a stopped trial is finished on request, beside what it was when it was stopped."""
        return self.rerun(AUDIT)

    def rerun(self, name: str) -> TrialFolder:
        """Where the trial is trained again: ``AUDIT``, or what ``confirmation`` says."""
        return TrialFolder(self.root / name)

    @property
    def scratch(self) -> Path:
        """Where the Trainer may write; nothing in it is kept.

        Each process of each machine has its own: a trial that was taken up elsewhere may still be
        ending here.
        """
        return self.root / f"{_SCRATCH}{platform.node()}-{os.getpid()}"

    @property
    def inheritance(self) -> Path:
        """What a trial is to take over from another, until it has (see ``inherit``)."""
        return self.root / ".inheritance"

    @property
    def staged_adapter(self) -> Path:
        """Where ``adapter`` is written before it takes its place."""
        return self.scratch / "adapter"

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add one line to ``metrics``."""
        self.root.mkdir(parents=True, exist_ok=True)
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rewind_metrics(self, step: int) -> None:
        """Drop the lines past ``step``, and one that was never finished."""
        kept = []
        for line in self.metrics.read_text("utf-8").splitlines() if self.metrics.exists() else ():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
        write_text(self.metrics, "".join(kept))

    def write_result(self, result: TrialResult) -> None:
        """Replace ``result``."""
        write_json(self.result, result.to_dict())

    def clear(self) -> None:
        """Drop what a trial writes while it trains, for one that starts over.

        ``result`` stays: the driver writes it, and may already have.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        self.metrics.unlink(missing_ok=True)
        self.drop_adapter()
        self.drop_checkpoint()

    def drop_adapter(self) -> None:
        """Free the disk that the weights take; scores and metrics stay."""
        self._drop(self.adapter)

    def drop_checkpoint(self) -> None:
        """Free the disk that the checkpoint takes."""
        self._drop(self.checkpoint)
        shutil.rmtree(self.inheritance, ignore_errors=True)

    def _drop(self, target: Path) -> None:
        for folder in (target, _set_aside(target), *self.root.glob(f"{_SCRATCH}*")):
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one search."""

    root: Path

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """The run at ``path``.

        Raises:
            TrialError: there is no run, or one with links to elsewhere.
        """
        refuse_uri(path)
        run = cls(Path(path).expanduser().resolve())
        if not run.space.is_file():
            raise TrialError(f"{path}: no run folder (it has no space.yaml)")
        refuse_links(run.root)
        return run

    def discard_bare(self) -> None:
        """Remove the folder if nothing but the space has come into it yet."""
        if {path.name for path in self.root.iterdir()} <= {_LOCK, self.space.name, self.token.name}:
            shutil.rmtree(self.root)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one search; the kernel lets go of it if the process dies.

        Raises:
            TrialError: another search holds it, or it cannot be written.
        """
        try:
            file = (self.root / _LOCK).open("a+", encoding="utf-8")
        except OSError as error:
            raise TrialError(f"{self.root}: cannot be written: {error}") from error
        with file:
            if not _held(file, fcntl.LOCK_EX, tries=5):
                file.seek(0)
                who = f"process {file.read() or 'unknown'}"
                raise TrialError(f"{self.root}: another search is running in it ({who})")
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def is_locked(self) -> bool:
        """Whether a search holds the folder, on this machine."""
        try:
            file = (self.root / _LOCK).open(encoding="utf-8")
        except OSError:
            return False
        with file:
            return not _held(file, fcntl.LOCK_SH, tries=1)

    @property
    def name(self) -> str:
        """The folder's own name; trackers group by it."""
        return self.root.name

    @property
    def space(self) -> Path:
        """The resolved space, every default written out."""
        return self.root / "space.yaml"

    @property
    def token(self) -> Path:
        """What a cluster's nodes show by reading it that they see this folder."""
        return self.root / ".token"

    @property
    def about(self) -> Path:
        """Versions, data fingerprint, command and start of the run."""
        return self.root / "run.json"

    @property
    def study(self) -> Path:
        """The Optuna study's SQLite file."""
        return self.root / "study.db"

    @property
    def base(self) -> Path:
        """The base model's score."""
        return self.root / "base.json"

    @property
    def data(self) -> Path:
        """Tokenized splits."""
        return self.root / "data"

    @property
    def ray(self) -> Path:
        """Ray Tune's experiment state."""
        return self.root / "ray"

    @property
    def tracking(self) -> Path:
        """Which trials each tracker has to their end."""
        return self.root / "tracking.json"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files, in a folder a trial."""
        return self.root / "tensorboard"

    @property
    def trials(self) -> Path:
        """Parent of the trials' folders."""
        return self.root / "trials"

    def trial(self, number: int) -> TrialFolder:
        """The folder of trial ``number``."""
        return TrialFolder(self.trials / f"{number:04d}")

    def leaderboard(self, suffix: str) -> Path:
        """The leaderboard file: ``csv``, ``json`` or ``md``."""
        return self.root / f"leaderboard.{suffix}"

    @property
    def report(self) -> Path:
        """The whole run on one page."""
        return self.root / "report.html"

    def results(self) -> Iterator[TrialResult]:
        """Every trial's result, by number."""
        paths = self.trials.glob("*/result.json")
        # By length first: trial 10000 comes after 9999.
        for path in sorted(paths, key=lambda path: (len(path.parent.name), path)):
            yield read_result(path, _number(path.parent.name))

    def audits(self) -> dict[int, TrialResult]:
        """The stopped trials that were finished on request, by number."""
        paths = self.trials.glob("*/audit/result.json")
        found = [read_result(path, _number(path.parents[1].name)) for path in paths]
        return {result.number: result for result in found}

    def confirmations(self) -> dict[int, tuple[TrialResult, ...]]:
        """Of trials that were trained again on fresh seeds, by number: what came of each seed."""
        found: dict[int, tuple[TrialResult, ...]] = {}
        paths = self.trials.glob(f"*/{_CONFIRM}/*/result.json")
        for path in sorted(paths, key=lambda path: (len(path.parent.name), path)):
            result = read_result(path, _number(path.parents[2].name))
            found[result.number] = (*found.get(result.number, ()), result)
        return dict(found)

    def write_base(self, score: BaseScore) -> None:
        """Keep the base model's score."""
        write_json(self.base, asdict(score))

    def read_base(self) -> BaseScore | None:
        """The base model's score, None if it was never taken."""
        return read_base_score(self.base) if self.base.is_file() else None

    def read_about(self) -> dict[str, Any]:
        """What ``about`` holds.

        Raises:
            TrialError: it cannot be read.
        """
        found = read_json(self.about)
        parts = ("model", "data", "versions", "layout")
        if not all(isinstance(found, dict) and isinstance(found.get(p, {}), dict) for p in parts):
            raise TrialError(f"{self.about}: cannot be read: is no record of a run")
        return dict(found)
