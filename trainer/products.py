"""Products with weights that no trial trains, by the faster of two libraries.

Most of a step's time goes into them. On a CPU, PyTorch leaves those in fp32 to MKL, which does not
use AVX-512 on processors of another make than Intel's; oneDNN, which PyTorch comes with as well,
does.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional


@functools.cache
def prefers_onednn() -> bool:
    """Whether oneDNN is the faster for products in fp32 on this machine's CPU."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        return "GenuineIntel" not in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def autocast_dtype(values: torch.Tensor) -> torch.dtype:
    """The dtype that a product with these is made in: autocast's where it is on, else theirs."""
    device = values.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else values.dtype


def by_onednn(values: torch.Tensor) -> bool:
    """Whether ``product`` gives these to oneDNN, of which autograd knows nothing."""
    if torch.compiler.is_compiling():
        return False
    return values.dtype is torch.float32 and values.device.type == "cpu" and prefers_onednn()


def product(
    values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """``values @ weight.T + bias``, without a gradient.

    Args:
        values: ``[rows, in]``.
        weight: ``[out, in]``, of the same dtype, and laid out in any way.
        bias: ``[out]``.
    """
    if not by_onednn(values):
        return functional.linear(values, weight, bias)
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        # oneDNN takes any layout, and is slow with one that has gaps.
        weight = weight.contiguous()
    # As torch.compile's CPU code calls it.
    linear = torch.ops.mkldnn._linear_pointwise
    made: torch.Tensor = linear(values.contiguous(), weight, bias, "none", [], "")
    return made


def frozen_linear(
    values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """``torch.nn.functional.linear``, by ``product`` where weights are frozen.

    Args:
        values: ``[..., in]``.
        weight: ``[out, in]``, of the same dtype.
        bias: ``[out]``, likewise.
    """
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    if trained or not by_onednn(values):
        return functional.linear(values, weight, bias)
    rows = values.reshape(-1, values.shape[-1])
    made: torch.Tensor = _Frozen.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    return made.view(*values.shape[:-1], weight.shape[0])


class _Frozen(Function):
    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return product(values, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        return product(gradients[0], weight.t()), None, None


class FrozenLinear(nn.Linear):
    """An ``nn.Linear`` that keeps its weight in the dtype of products, too, where that is another.

    Autocast would convert it at every pass: that of an output head is the model's largest.

    Args:
        layer: the layer whose place and parameters it takes.
        dtype: of matrix products, as autocast makes it.
    """

    _converted: torch.Tensor | None

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        # A buffer: copies of the model share it as they share its weights.
        self.register_buffer("_converted", None, persistent=False)
        self._dtype = dtype
        self.renew()

    def renew(self) -> None:
        """Convert the weight anew, where there are other numbers in it."""
        other = self.weight.dtype is not self._dtype
        self._converted = self.weight.detach().to(self._dtype) if other else None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` to ``[..., out]``; as any other layer's, where it is trained."""
        if self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad):
            self._converted = None
            return super().forward(input)
        dtype, kept = autocast_dtype(input), self._converted
        weight = self.weight.to(dtype) if kept is None or kept.dtype is not dtype else kept
        bias = None if self.bias is None else self.bias.to(dtype)
        return frozen_linear(input.to(dtype), weight, bias)


def freeze_linears(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace, in a model on a CPU, each ``nn.Linear`` whose weights are in fp32.

    Args:
        model: loaded, and not yet wearing an adapter; it is changed.
        dtype: of matrix products, as autocast makes it.
    """
    if dtype is torch.float32 and not prefers_onednn():
        return
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module.weight.dtype is torch.float32:
            model.set_submodule(name, FrozenLinear(module, dtype))


def renew_linears(model: nn.Module) -> None:
    """Convert the weights of its ``FrozenLinear`` layers anew, after others wrote into them."""
    for module in model.modules():
        if isinstance(module, FrozenLinear):
            module.renew()
