"""Products with frozen weights, against PyTorch's own and against float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trials import make_config
from torch import nn
from torch.nn import functional
from tune_lora.trainer import products
from tune_lora.trainer.adapter import attached
from tune_lora.trainer.base import BaseSpec, load_base
from tune_lora.trainer.pack import shadow
from tune_lora.trainer.products import (
    FrozenLinear,
    freeze_linears,
    frozen_linear,
    prefers_onednn,
    product,
)
from wide_models import save_wide

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN"
)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "prefers_onednn", lambda: True)


@needs_onednn
@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", [(7, 40), (2, 5, 40), (1, 1, 40), (2, 3, 4, 40)])
def test_by_onednn_the_output_and_the_gradient_are_the_same(
    shape: tuple[int, ...], biased: bool
) -> None:
    values = numbers(*shape).requires_grad_()
    weight, bias = numbers(24, 40, seed=1), numbers(24, seed=2) if biased else None
    made = frozen_linear(values, weight, bias)
    assert made.shape == (*shape[:-1], 24)
    given = numbers(*made.shape, seed=3)
    (gradient,) = torch.autograd.grad(made, values, given)
    exact = values.detach().double().requires_grad_()
    expected = functional.linear(exact, weight.double(), None if bias is None else bias.double())
    (wanted,) = torch.autograd.grad(expected, exact, given.double())
    torch.testing.assert_close(made.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.usefixtures("onednn")
def test_operands_may_be_laid_out_in_any_way() -> None:
    values, weight = numbers(40, 7).t(), numbers(40, 24, seed=1).t()
    torch.testing.assert_close(product(values, weight), values @ weight.t())


@needs_onednn
@pytest.mark.usefixtures("onednn")
def test_an_output_may_be_changed_in_place() -> None:
    values = numbers(2, 3, 8).requires_grad_()
    made = frozen_linear(values, numbers(4, 8, seed=1), None)
    made += 1.0
    made.sum().backward()
    assert values.grad is not None


@needs_onednn
@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("trained", ["weight", "bias"])
def test_what_is_trained_gets_its_gradient(trained: str) -> None:
    weights = {"weight": numbers(24, 40, seed=1), "bias": numbers(24, seed=2)}
    weights[trained].requires_grad_()
    frozen_linear(numbers(3, 40), **weights).sum().backward()
    gradient = weights[trained].grad
    assert gradient is not None
    expected = (
        numbers(3, 40).sum(0).expand(24, 40) if trained == "weight" else torch.full((24,), 3.0)
    )
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("maker", "capability", "expected"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
    ],
)
def test_onednn_is_preferred_where_mkl_does_without_avx512(
    monkeypatch: pytest.MonkeyPatch, maker: str, capability: str, expected: bool
) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"vendor_id\t: {maker}\n")
    prefers_onednn.cache_clear()
    try:
        assert prefers_onednn() is expected
    finally:
        prefers_onednn.cache_clear()


@pytest.mark.parametrize("biased", [True, False])
def test_under_autocast_it_is_the_plain_layer_bit_for_bit(biased: bool) -> None:
    plain = nn.Linear(40, 24, bias=biased).requires_grad_(False)
    frozen, values = FrozenLinear(plain, torch.bfloat16), numbers(3, 40)
    with torch.autocast("cpu", torch.bfloat16):
        made, expected = frozen(values), plain(values)
    assert made.dtype is expected.dtype is torch.bfloat16
    assert torch.equal(made, expected)
    assert frozen.weight is plain.weight


def test_its_weight_is_converted_once_and_again_when_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = nn.Linear(4, 4, bias=False).requires_grad_(False)
    frozen = FrozenLinear(plain, torch.bfloat16)
    used: list[int] = []

    def record(values: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
        used.append(weight.data_ptr())
        return functional.linear(values, weight, bias)

    monkeypatch.setattr(products, "frozen_linear", record)
    with torch.autocast("cpu", torch.bfloat16):
        frozen(numbers(1, 4))
        frozen(numbers(1, 4))
        assert used[0] == used[1] != frozen.weight.data_ptr()
        frozen.weight.data -= frozen.weight.data
        frozen.renew()
        assert not frozen(numbers(1, 4)).any()


def test_a_copy_that_is_trained_is_an_ordinary_layer() -> None:
    frozen = FrozenLinear(nn.Linear(4, 3).requires_grad_(False), torch.bfloat16)
    trained = copy.deepcopy(frozen).requires_grad_(True)
    values = numbers(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        trained(values).sum().backward()
    assert trained.weight.grad is not None
    torch.testing.assert_close(trained.weight.grad[0], values.sum(0), rtol=2e-2, atol=2e-2)
    with torch.no_grad():
        trained.weight.zero_()
    assert torch.equal(trained(values), trained.bias.expand(5, 3))


def test_copies_that_share_the_weight_share_what_it_was_converted_to() -> None:
    model = nn.Sequential(nn.Linear(4, 3)).requires_grad_(False)
    freeze_linears(model, torch.bfloat16)
    (held,) = model.buffers()
    assert held.dtype is torch.bfloat16
    copied = shadow(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(copied(numbers(2, 4)), model(numbers(2, 4)))
    assert next(copied.buffers()) is held
    assert set(model.state_dict()) == {"0.weight", "0.bias"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="is done on a CPU")
def test_a_head_that_is_rewritten_is_converted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    save_wide(tmp_path, "llama")
    spec = BaseSpec(str(tmp_path), "wide", quantization="nf4", dtype="bf16")
    base = load_base(replace(spec, quantization_compute="bitsandbytes"))
    before = base.model.lm_head.weight.clone()
    lora = {"target_modules": ["lm_head"], "init_lora_weights": "olora"}
    values = numbers(3, before.shape[1])
    with attached(base, make_config(lora)) as model, base.autocast():
        head = model.get_output_embeddings().base_layer
        assert type(head) is FrozenLinear
        assert not torch.equal(head.weight, before)
        assert torch.equal(head(values), functional.linear(values, head.weight))


@needs_onednn
@pytest.mark.skipif(torch.cuda.is_available(), reason="is done on a CPU")
@pytest.mark.usefixtures("onednn")
def test_a_models_tied_head_stays_tied(tiny: Callable[..., Path]) -> None:
    base = load_base(BaseSpec(str(tiny("gpt2")), "gpt2", dtype="fp32"))
    head = base.model.get_output_embeddings()
    assert type(head) is FrozenLinear
    assert head.weight is base.model.get_input_embeddings().weight
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
