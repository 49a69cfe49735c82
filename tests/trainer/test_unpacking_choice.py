"""Whether NF4 weights are unpacked: by their size, counted otherwise, and the memory there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from tiny_models import TASKS
from tune_lora.trainer import base as module
from tune_lora.trainer.base import BaseSpec, load_base, meta_model
from tune_lora.trainer.nf4 import unpacked_bytes
from tune_lora.trainer.unpacking import PROCESS, choose_unpacking, free_here, free_on_gpus
from wide_models import save_wide


def _spec(folder: Path, architecture: str = "llama", **fields: str) -> BaseSpec:
    fields = {"quantization": "nf4", "task": TASKS[architecture], "dtype": "fp32", **fields}
    return BaseSpec(str(folder), "wide", **fields)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom", "falcon", "opt"])
def test_the_size_is_that_of_what_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, dtype: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    save_wide(tmp_path, architecture)
    spec = _spec(tmp_path, architecture, dtype=dtype, quantization_compute="dequantized")
    loaded = load_base(spec)
    size = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    biases = sum(p.numel() for n, p in loaded.model.named_parameters() if n.endswith("bias"))
    estimate = unpacked_bytes(meta_model(spec), loaded.dtype.itemsize)
    assert size <= estimate <= size + 2 * biases  # those of linear layers are counted as fp32


def test_half_of_the_memory_is_for_the_weights(tmp_path: Path) -> None:
    save_wide(tmp_path, "llama")
    model = meta_model(_spec(tmp_path))
    needed = 2 * unpacked_bytes(model, 4) + PROCESS
    enough = choose_unpacking(model, 4, needed)
    assert enough.compute == "dequantized"
    assert "weights dequantized once: " in enough.reason
    assert "1.0 GiB are free" in enough.reason
    short = choose_unpacking(model, 4, needed - 1)
    assert short.compute == "bitsandbytes"
    assert "weights dequantized at each use: " in short.reason


@pytest.mark.parametrize(("free", "packed"), [(0, True), (2**40, False)])
def test_by_itself_a_base_goes_by_the_memory_that_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, packed: bool
) -> None:
    save_wide(tmp_path, "llama")
    monkeypatch.setattr(module, "free_here", lambda device: free)
    for compute, expected in [("auto", packed), ("bitsandbytes", True), ("dequantized", False)]:
        loaded = load_base(_spec(tmp_path, quantization_compute=compute)).model
        assert any(isinstance(m, Linear4bit) for m in loaded.modules()) is expected


def test_what_is_free() -> None:
    total = int(Path("/proc/meminfo").read_text(encoding="utf-8").split()[1]) * 1024
    assert 0 < free_here(torch.device("cpu")) <= total


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks GPUs that are not there")
def test_gpus_that_do_not_answer_have_nothing_free(caplog: pytest.LogCaptureFixture) -> None:
    assert free_on_gpus(1) == 0
    assert "memory cannot be read" in caplog.text
