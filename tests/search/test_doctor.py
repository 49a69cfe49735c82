"""What the doctor finds, with faults made up for it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tune_lora.search import doctor, doctor_devices, doctor_services
from tune_lora.search.doctor_finding import Finding, State

Patch = pytest.MonkeyPatch


def states(found: list[Finding]) -> list[str]:
    return [one.state.value for one in found]


def test_this_machine_is_looked_over_without_ray(tmp_path: Path) -> None:
    found = doctor.diagnose(tmp_path / "runs", skip=["ray", "hub"])
    by_check = {one.check: one for one in found}
    assert set(by_check) == {
        "python",
        "libraries",
        "gpu",
        "bitsandbytes",
        "ray",
        "wandb",
        "disk",
        "hub",
        "cpu",
    }
    assert by_check["ray"].state is State.SKIPPED
    assert by_check["bitsandbytes"].state is State.OK
    assert "off by" in by_check["bitsandbytes"].said
    assert all(one.remedy for one in found if one.state in (State.WARNING, State.FAILED))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("version", "state"),
    [((3, 10), "failed"), ((3, 11), "ok"), ((3, 13), "warning")],
)
def test_python(version: tuple[int, int], state: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=(*version, 0)))
    assert states(doctor.check_python()) == [state]


def test_a_library_outside_its_range_is_named_with_the_range(monkeypatch: Patch) -> None:
    installed = doctor.metadata.version

    def version(name: str) -> str:
        if name == "cmaes":
            raise doctor.metadata.PackageNotFoundError(name)
        return "0.1" if name == "peft" else installed(name)

    monkeypatch.setattr(
        doctor,
        "metadata",
        SimpleNamespace(
            version=version,
            requires=doctor.metadata.requires,
            PackageNotFoundError=doctor.metadata.PackageNotFoundError,
        ),
    )
    found = {one.said.split()[0]: one for one in doctor.check_libraries()}
    assert found["peft"].said == "peft 0.1 is outside <0.22,>=0.21"
    assert found["peft"].remedy == "pip install 'peft<0.22,>=0.21'"
    assert found["cmaes"].said == "cmaes is not installed"
    assert states(list(found.values())).count("failed") == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without GPUs")
def test_a_driver_without_a_torch_that_sees_it(tmp_path: Path, monkeypatch: Patch) -> None:
    assert states(doctor_devices.check_gpus()) == ["ok"]
    driver = tmp_path / "version"
    driver.touch()
    monkeypatch.setattr(doctor_devices, "_DRIVER", driver)
    (found,) = doctor_devices.check_gpus()
    assert (found.state, "CUDA build" in (found.remedy or "")) == (State.FAILED, True)


def test_4_bit_weights_that_come_back_wrong(monkeypatch: Patch) -> None:
    import bitsandbytes.functional

    right = bitsandbytes.functional.dequantize_4bit
    monkeypatch.setattr(bitsandbytes.functional, "dequantize_4bit", lambda *a: 2 * right(*a))
    (found,) = doctor_devices.check_bitsandbytes()
    assert found.state is State.FAILED
    assert "come back wrong" in found.said

    def broken(*_: Any) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(bitsandbytes.functional, "dequantize_4bit", broken)
    (found,) = doctor_devices.check_bitsandbytes()
    assert found.state is State.FAILED
    assert "RuntimeError: no kernel" in found.said


def ending(code: int, out: str = "", err: str = "") -> Callable[..., Any]:
    return lambda command, **_: subprocess.CompletedProcess(command, code, out, err)


@pytest.mark.parametrize(
    ("run", "state", "said"),
    [
        (ending(0, "noise\n42\n"), "ok", "started, ran a task and stopped"),
        (ending(0, "41\n"), "failed", "41"),
        (ending(1, "", "Traceback\nOSError: no room in /dev/shm\n"), "failed", "no room in"),
        (ending(-9), "failed", "exit code -9"),
    ],
)
def test_ray(run: Any, state: str, said: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(doctor_services.subprocess, "run", run)
    (found,) = doctor_services.check_ray()
    assert found.state.value == state
    assert said in found.said


def test_ray_that_does_not_answer(monkeypatch: Patch) -> None:
    def run(command: list[str], **options: Any) -> None:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(doctor_services.subprocess, "run", run)
    assert states(doctor_services.check_ray()) == ["failed"]


@pytest.mark.slow
def test_ray_for_real() -> None:
    assert states(doctor_services.check_ray()) == ["ok"]


def test_wandb(monkeypatch: Patch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(doctor_services, "find_spec", lambda name: None)
    assert states(doctor_services.check_wandb()) == ["ok"]
    monkeypatch.setattr(doctor_services, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor_services, "has_key", lambda: False)
    assert states(doctor_services.check_wandb()) == ["warning"]
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert states(doctor_services.check_wandb()) == ["ok"]
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(doctor_services, "has_key", lambda: True)
    assert states(doctor_services.check_wandb()) == ["ok"]


def test_hub(monkeypatch: Patch) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert states(doctor_services.check_hub()) == ["warning"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def session(answer: Callable[[], Any]) -> None:
        head = SimpleNamespace(head=lambda *_, **__: answer())
        monkeypatch.setattr(huggingface_hub, "get_session", lambda: head)

    def away() -> None:
        raise ConnectionError

    session(away)
    assert states(doctor_services.check_hub()) == ["warning"]
    session(lambda: SimpleNamespace(raise_for_status=lambda: None))
    assert states(doctor_services.check_hub()) == ["ok"]


@pytest.mark.parametrize(
    ("free", "writable", "state"),
    [
        (100 * 2**30, True, "ok"),
        (5 * 2**30, True, "warning"),
        (2**20, True, "failed"),
        (100 * 2**30, False, "failed"),
    ],
)
def test_disk(free: int, writable: bool, state: str, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(doctor.psutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setattr(doctor.os, "access", lambda *_: writable)
    found = doctor.check_disk(tmp_path / "not" / "there")
    assert states(found) == [state, state]
    assert "run folder" in found[0].said


def test_cpu(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(doctor, "_QUOTAS", (str(quota),))
    monkeypatch.setattr(doctor, "visible_cores", lambda: 8)
    assert states(doctor.check_cpu()) == ["ok"]
    quota.write_text("max 100000\n")
    assert states(doctor.check_cpu()) == ["ok"]
    quota.write_text("250000 100000\n")
    (found,) = doctor.check_cpu()
    assert "allows 2.5 cores" in found.said
    assert "2 in all" in (found.remedy or "")
    quota.unlink()
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert states(doctor.check_cpu()) == ["warning"]


def test_a_check_that_breaks_down_is_a_line_too(tmp_path: Path, monkeypatch: Patch) -> None:
    def check() -> list[Finding]:
        raise ZeroDivisionError("boo")

    monkeypatch.setattr(doctor, "check_python", check)
    others = ["libraries", "gpu", "bitsandbytes", "ray", "wandb", "disk", "hub", "cpu"]
    found = doctor.diagnose(tmp_path, skip=others)
    assert found[0].state is State.FAILED
    assert "ZeroDivisionError: boo" in found[0].said
    assert doctor.broken(found)
