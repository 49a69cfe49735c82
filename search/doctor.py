"""Whether this machine has what a search needs: one finding a line, each with a remedy."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path

import psutil

from ..reports.formats import size
from ..trainer.sources import cache_root
from .doctor_devices import check_bitsandbytes, check_gpus
from .doctor_finding import Finding, State, failed, ok, skipped, warning
from .doctor_services import check_hub, check_ray, check_wandb
from .plan_facts import capacity
from .resources import visible_cores

_TESTED = (3, 11)
_ENOUGH, _TOO_LITTLE = 20 * 2**30, 2**30
"""Bytes of disk below which to warn, and to fail: models and adapters take gigabytes."""
_QUOTAS = ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us")


def diagnose(runs: Path, skip: Iterable[str] = ()) -> list[Finding]:
    """Every check's findings, in order; one that breaks down is a failed finding.

    Args:
        runs: where run folders are, or will be made.
        skip: names of checks to leave out.
    """
    checks: Mapping[str, Callable[[], list[Finding]]] = {
        "python": check_python,
        "libraries": check_libraries,
        "gpu": check_gpus,
        "bitsandbytes": check_bitsandbytes,
        "ray": check_ray,
        "wandb": check_wandb,
        "disk": lambda: check_disk(runs),
        "hub": check_hub,
        "cpu": check_cpu,
    }
    found: list[Finding] = []
    for name, check in checks.items():
        if name in skip:
            found.append(skipped(name))
            continue
        try:
            found += check()
        except Exception as error:
            said = f"could not be checked: {type(error).__name__}: {error}"
            found.append(failed(name, said, "see the error; --skip leaves this check out"))
    return found


def check_python() -> list[Finding]:
    """The version, against the one that the tests run with."""
    own, wanted = platform.python_version(), ".".join(map(str, _TESTED))
    if sys.version_info[:2] < _TESTED:
        return [failed("python", f"{own} is too old", f"install Python {wanted}")]
    if sys.version_info[:2] > _TESTED:
        return [warning("python", f"{own}; tested is {wanted}", f"if in doubt, use {wanted}")]
    return [ok("python", own)]


def check_libraries() -> list[Finding]:
    """What is installed, against the ranges that this package asks for."""
    from packaging.requirements import Requirement

    found, right = [], 0
    for text in metadata.requires("tune-lora") or []:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        remedy = f"pip install '{wanted.name}{wanted.specifier}'"
        try:
            own = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            found.append(failed("libraries", f"{wanted.name} is not installed", remedy))
            continue
        if wanted.specifier.contains(own, prereleases=True):
            right += 1
        else:
            said = f"{wanted.name} {own} is outside {wanted.specifier}"
            found.append(failed("libraries", said, remedy))
    names = ("torch", "transformers", "peft", "ray")
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return [*found, ok("libraries", f"{right} within the tested ranges ({shown})")]


def check_disk(runs: Path) -> list[Finding]:
    """Room in the run folder and in the cache, and whether they can be written."""
    places = {"run folder": runs, "cache": cache_root()}
    return [_place(what, folder) for what, folder in places.items()]


def _place(what: str, folder: Path) -> Finding:
    path = folder.expanduser().resolve()
    here = next(place for place in (path, *path.parents) if place.is_dir())
    said = f"{what} {folder}: {size(free := psutil.disk_usage(str(here)).free)} free"
    elsewhere = "--run FOLDER" if what == "run folder" else "XDG_CACHE_HOME"
    if not os.access(here, os.W_OK):
        return failed("disk", f"{said}, but it cannot be written", f"set {elsewhere}")
    if free < _TOO_LITTLE:
        return failed("disk", said, f"free some space, or set {elsewhere}")
    if free < _ENOUGH:
        return warning("disk", said, f"large models want more; set {elsewhere}")
    return ok("disk", said)


def check_cpu() -> list[Finding]:
    """Cores and memory that this process may use, and the limits on them."""
    cores, own = visible_cores(), capacity(0).size
    said = f"{cores} of {os.cpu_count()} cores, {size(own)} of memory"
    found = []
    quota = _cpu_quota()
    if quota is not None and quota < cores:
        remedy = f"set resources.workers and threads to {max(1, int(quota))} in all"
        found.append(warning("cpu", f"{said}; the control group allows {quota:g} cores", remedy))
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > cores:
        remedy = "unset OMP_NUM_THREADS: a search bounds its workers' threads itself"
        found.append(warning("cpu", f"OMP_NUM_THREADS={threads}, and {said}", remedy))
    return found or [ok("cpu", said)]


def _cpu_quota() -> float | None:
    """Cores' worth of time that the control group allows; None for no limit."""
    for name in _QUOTAS:
        path = Path(name)
        if not path.is_file():
            continue
        words = path.read_text().split()
        if len(words) == 1:
            period = path.with_name("cpu.cfs_period_us")
            words.append(period.read_text() if period.is_file() else "100000")
        if words[0].isdigit():
            return int(words[0]) / int(words[1])
    return None


def broken(found: Iterable[Finding]) -> bool:
    """Whether something failed."""
    return any(one.state is State.FAILED for one in found)
