"""Fused LoRA layers against peft's own, and when they are peft's own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_trials import make_config
from torch import nn
from tune_lora.trainer import fused
from tune_lora.trainer.adapter import attached
from tune_lora.trainer.base import BaseModel, BaseSpec, load_base
from tune_lora.trainer.fused import fuse
from wide_models import save_wide

WIDTH, OUT = 24, 40


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The weight of every layer that ran fused, in order."""
    seen: list[Any] = []
    real = fused._Fused.apply

    def apply(rows: Any, dropped: Any, weight: Any, *rest: Any) -> Any:
        seen.append(weight)
        return real(rows, dropped, weight, *rest)

    monkeypatch.setattr(fused._Fused, "apply", apply)
    return seen


class _Net(nn.Module):
    def __init__(self, *, biased: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, OUT, bias=biased, dtype=dtype)
        self.second = nn.Linear(OUT, WIDTH, bias=biased, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.second(self.first(x).relu())
        return made


def adapted(dtype: torch.dtype = torch.float32, *, biased: bool = True, **lora: Any) -> Any:
    """A small net with an adapter whose B is not zero."""
    torch.manual_seed(0)
    net = _Net(biased=biased, dtype=dtype)
    fields = {"r": 3, "lora_alpha": 5, "target_modules": ["first", "second"], **lora}
    model = get_peft_model(net, LoraConfig(init_lora_weights=False, **fields))
    return model.train()


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def passed(model: Any, values: torch.Tensor, autocast: torch.dtype | None) -> dict[str, Any]:
    """A pass's output and every gradient."""
    values = values.clone().requires_grad_()
    torch.manual_seed(2)
    with torch.autocast("cpu", autocast) if autocast else nullcontext():
        made = model(values)
    made.float().pow(2).mean().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    return {"output": made.detach(), "values": values.grad, **found}


def assert_near(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype is tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert (found[name] - tensor).norm() <= tolerance * tensor.norm(), name


@pytest.mark.parametrize("shape", [(2, 5, WIDTH), (7, WIDTH)])
@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True},
        {"lora_dropout": 0.4},
        {"target_modules": ["second"], "rank_pattern": {"second": 6}},
    ],
    ids=["plain", "rslora", "dropout", "one layer"],
)
@pytest.mark.parametrize("biased", [True, False])
def test_in_fp32_it_is_pefts_pass(
    calls: list[Any], lora: dict[str, Any], shape: tuple[int, ...], biased: bool
) -> None:
    model = adapted(biased=biased, **lora)
    expected = passed(model, numbers(*shape), None)
    assert not calls
    fuse(model)
    assert_near(passed(model, numbers(*shape), None), expected, 1e-5)
    assert len(calls) == len(lora.get("target_modules", "12"))


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_under_autocast_it_is_as_near_to_fp32_as_pefts(
    calls: list[Any], weights: torch.dtype
) -> None:
    values = numbers(3, 9, WIDTH)
    model = adapted(weights, lora_alpha=4.2)
    theirs = passed(model, values, torch.bfloat16)
    fuse(model)
    ours = passed(model, values, torch.bfloat16)
    # Layers in fp32 are converted at each pass, which is left to autocast.
    assert len(calls) == (2 if weights is torch.bfloat16 else 0)
    exact = passed(adapted(weights, lora_alpha=4.2).float(), values, None)
    for name, right in exact.items():
        assert ours[name].dtype is theirs[name].dtype
        error, other = (ours[name] - right).norm(), (theirs[name] - right).norm()
        assert error <= 1.2 * other + 1e-3 * right.norm(), name


def test_its_gradients_are_those_of_its_output() -> None:
    model = adapted(torch.float64, lora_dropout=0.5)
    fuse(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.double()
    values = numbers(4, WIDTH).double().requires_grad_()

    def run(*_: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        made: torch.Tensor = model(values)
        return made

    assert torch.autograd.gradcheck(run, (values, *trained))


def merged(model: Any) -> None:
    model.merge_adapter()


def disabled(model: Any) -> None:
    model.base_model.disable_adapter_layers()


def two(model: Any) -> None:
    model.add_adapter("other", LoraConfig(r=2, target_modules=["first", "second"]))
    model.base_model.set_adapter(["default", "other"])


def hooked(model: Any) -> None:
    for name in ("first", "second"):
        layer = model.base_model.model.get_submodule(name).base_layer
        layer.register_forward_hook(lambda _, __, output: output + 1)


class _Doubled(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def another(model: Any) -> None:
    for name in ("first", "second"):
        model.base_model.model.get_submodule(name).base_layer.__class__ = _Doubled


def trained(model: Any) -> None:
    for name in ("first", "second"):
        model.base_model.model.get_submodule(name).base_layer.weight.requires_grad_(True)


@pytest.mark.parametrize("change", [merged, disabled, two, hooked, another, trained])
def test_what_is_no_plain_lora_stays_with_peft(
    calls: list[Any], change: Callable[[Any], None]
) -> None:
    model, values = adapted(), numbers(2, WIDTH)
    change(model)
    expected = model(values)
    fuse(model)
    assert torch.equal(model(values), expected)
    assert not calls


def test_there_may_be_no_rows(calls: list[Any]) -> None:
    model = adapted()
    fuse(model)
    assert model(torch.zeros(0, WIDTH)).shape == (0, WIDTH)
    assert len(calls) == 2


def test_its_backward_pass_may_be_under_autocast(calls: list[Any]) -> None:
    model, values = adapted(), numbers(2, WIDTH)
    expected = passed(model, values, None)
    fuse(model)
    made = model(values)
    with torch.autocast("cpu", torch.bfloat16):
        made.float().pow(2).mean().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert_near(found, {name: expected[name] for name in found}, 1e-5)
    assert calls


@pytest.mark.parametrize("lora", [{"use_dora": True}, {"lora_bias": True}, {"bias": "all"}])
def test_variants_stay_with_peft(calls: list[Any], lora: dict[str, Any]) -> None:
    model, values = adapted(**lora), numbers(2, WIDTH)
    expected = model(values)
    fuse(model)
    assert torch.equal(model(values), expected)
    assert not calls


@pytest.fixture(params=["none", "bitsandbytes", "dequantized"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> BaseModel:
    save_wide(tmp_path, "llama")
    packed = {"quantization": "nf4", "quantization_compute": request.param}
    fields = {"quantization": "none"} if request.param == "none" else packed
    return load_base(BaseSpec(str(tmp_path), "wide", dtype="fp32", **fields))


@pytest.mark.skipif(torch.cuda.is_available(), reason="its ids are on the CPU")
def test_a_trials_layers_run_fused(calls: list[Any], base: BaseModel) -> None:
    with attached(base, make_config({"target_modules": "all-linear"})) as model:
        layers = len(model.targeted_module_names)
        model(torch.tensor([[1, 2, 3]]))
    assert len(calls) == layers >= 14
    del calls[:]
    base.model(torch.tensor([[1, 2, 3]]))
    assert not calls


@pytest.mark.skipif(torch.cuda.is_available(), reason="its ids are on the CPU")
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_model_of_them_is_pefts_model(base: BaseModel, checkpointing: bool) -> None:
    ids = torch.randint(300, (2, 9), generator=torch.Generator().manual_seed(1))
    found = []
    for own in (True, False):
        torch.manual_seed(0)
        with attached(base, make_config({"target_modules": "all-linear", "r": 8})) as model:
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(parameter, std=0.05)
            for layer in model.modules():
                if not own:
                    vars(layer).pop("forward", None)
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()
            loss = model(ids, labels=ids).loss
            loss.backward()
            gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
            found.append({"loss": loss.detach(), **gradients})
    assert_near(found[0], found[1], 1e-4)
