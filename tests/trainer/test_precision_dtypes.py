"""What is computed in: as asked where the hardware has it, else the nearest, and said so.

The hardware is torch's word, which these tests replace; which one runs them has no bearing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from tune_lora.trainer.precision import compute_dtype, training_flags

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
MACHINES = {
    "plain cpu": ("cpu", False, (0, 0)),
    "bf16 cpu": ("cpu", True, (0, 0)),
    "volta": ("cuda", False, (7, 0)),
    "ampere": ("cuda", True, (8, 0)),
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], torch.device]:
    def be(name: str) -> torch.device:
        kind, bf16, capability = MACHINES[name]
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": bf16})
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        return torch.device(kind)

    return be


@pytest.mark.parametrize(
    ("name", "asked", "given", "fallback"),
    [
        ("plain cpu", "auto", FP32, False),
        ("plain cpu", "fp32", FP32, False),
        ("plain cpu", "fp16", FP32, True),
        ("plain cpu", "bf16", FP32, True),
        ("bf16 cpu", "auto", BF16, False),
        ("bf16 cpu", "fp32", FP32, False),
        ("bf16 cpu", "fp16", BF16, True),
        ("bf16 cpu", "bf16", BF16, False),
        ("volta", "auto", FP16, False),
        ("volta", "bf16", FP16, True),
        ("volta", "fp16", FP16, False),
        ("ampere", "auto", BF16, False),
        ("ampere", "fp16", FP16, False),
        ("ampere", "fp32", FP32, False),
    ],
)
def test_dtype(
    machine: Callable[[str], torch.device],
    caplog: pytest.LogCaptureFixture,
    name: str,
    asked: str,
    given: torch.dtype,
    fallback: bool,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert compute_dtype(asked, machine(name)) is given
    said = [record.getMessage() for record in caplog.records]
    wanted = [f"{asked} is not supported on this {MACHINES[name][0]}: using {given}"]
    assert said == (wanted if fallback else [])


@pytest.mark.parametrize(
    ("name", "dtype", "asked", "flags", "dropped"),
    [
        ("plain cpu", FP32, {}, {"bf16": False, "fp16": False}, ()),
        ("plain cpu", FP32, {"bf16": True}, {"fp16": False}, ("bf16",)),
        ("plain cpu", FP32, {"fp16": True, "tf32": True}, {"bf16": False}, ("fp16", "tf32")),
        ("plain cpu", FP32, {"fp16": False, "tf32": None}, {"bf16": False, "fp16": False}, ()),
        ("bf16 cpu", BF16, {}, {"bf16": True, "fp16": False}, ()),
        ("bf16 cpu", BF16, {"bf16": False}, {"bf16": False, "fp16": False}, ()),
        ("volta", FP16, {}, {"bf16": False, "fp16": True}, ()),
        ("volta", FP16, {"tf32": True}, {"bf16": False, "fp16": True}, ("tf32",)),
        ("ampere", BF16, {}, {"bf16": True, "fp16": False, "tf32": True}, ()),
        ("ampere", BF16, {"tf32": False}, {"bf16": True, "fp16": False, "tf32": False}, ()),
        ("ampere", BF16, {"fp16": True}, {"bf16": False, "fp16": True, "tf32": True}, ()),
        ("ampere", FP16, {"bf16": True}, {"bf16": True, "fp16": False, "tf32": True}, ()),
    ],
)
def test_flags_of_the_trainer(
    machine: Callable[[str], torch.device],
    caplog: pytest.LogCaptureFixture,
    name: str,
    dtype: torch.dtype,
    asked: dict[str, bool | None],
    flags: dict[str, bool],
    dropped: tuple[str, ...],
) -> None:
    with caplog.at_level(logging.WARNING):
        found = training_flags(dtype, machine(name), {"learning_rate": 1e-4, **asked})
    assert found == flags
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"train.{flag}" for flag in dropped
    ]
