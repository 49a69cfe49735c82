"""LoRA's linear layers with a backward pass of their own.

peft leaves a layer to autograd, operation by operation: conversions to the dtype of autocast and
back, products, a scaling and a sum, each with a pass over the activations and a result of its own.
Here the adapter's part is added to the base's in place, forward and backward (as Unsloth does on
GPUs, https://unsloth.ai/blog/mistral-benchmark). What is computed is LoRA's ``W x + s B A x``
(https://arxiv.org/abs/2106.09685); layers and weights stay peft's.
"""

from __future__ import annotations

import functools
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.autograd import Function

from .nf4 import DequantizedLinear
from .products import FrozenLinear, autocast_dtype, product


def fuse(model: nn.Module) -> None:
    """Let the LoRA layers of a model run fused wherever they are plain LoRA on a frozen layer.

    Whether they are is asked at each pass. DoRA, several adapters, a trained bias, a merged base
    and all that is not a linear layer stay with peft.

    Args:
        model: one that wears an adapter; it is changed.
    """
    from peft.tuners.lora import Linear
    from peft.tuners.lora.bnb import Linear4bit

    for layer in model.modules():
        if type(layer) in (Linear, Linear4bit):
            layer.forward = MethodType(_forward, layer)


def _forward(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    base, dtype = layer.base_layer, autocast_dtype(x)
    if args or kwargs or not (_plain(layer) and _computes_in(base, dtype)):
        made: torch.Tensor = type(layer).forward(layer, x, *args, **kwargs)
        return made
    (name,) = layer.active_adapters
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    rows = x.reshape(-1, x.shape[-1])
    dropout = layer.lora_dropout[name]
    dropped = dropout(rows) if layer.training and not isinstance(dropout, nn.Identity) else None
    state = getattr(base.weight, "quant_state", None)
    # In 4 bits, a layer's output has its input's dtype, adapter or not.
    wanted = dtype if state is None and not isinstance(base, DequantizedLinear) else x.dtype
    bias = None if base.bias is None else base.bias.to(dtype)
    fused: torch.Tensor = _Fused.apply(  # type: ignore[no-untyped-call]
        rows, dropped, base.weight, state, bias, down, up, layer.scaling[name], dtype, wanted
    )
    return fused.view(*x.shape[:-1], fused.shape[-1])


@functools.cache
def _forwards() -> tuple[Any, ...]:
    """The forward passes that ``_Fused`` stands in for; a subclass may have another."""
    from bitsandbytes.nn import Linear4bit

    known = (nn.Linear, FrozenLinear, DequantizedLinear, Linear4bit)
    return tuple(kind.forward for kind in known)


def _plain(layer: Any) -> bool:
    base, names = layer.base_layer, layer.active_adapters
    if torch.compiler.is_compiling() or type(base).forward not in _forwards():
        return False
    if len(names) != 1 or names[0] not in layer.lora_A or names[0] in layer.lora_variant:
        return False
    if layer.merged or layer.disable_adapters or layer.lora_bias[names[0]]:
        return False
    # accelerate puts hooks of its own into a spread model, in place of the forward.
    hooked = base._forward_hooks or base._forward_pre_hooks or base._backward_hooks
    trained = base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad)
    return not (hooked or trained or "forward" in vars(base))


def _computes_in(base: Any, dtype: torch.dtype) -> bool:
    """Whether the layer's own product is in this dtype."""
    if getattr(base.weight, "quant_state", None) is not None:
        return getattr(base, "compute_dtype", None) is dtype
    return base.weight.dtype is dtype


def _unpacked(weight: torch.Tensor, state: Any, dtype: torch.dtype) -> torch.Tensor:
    """``[out, in]``; bitsandbytes unpacks a 4-bit one, at each use as in its own layers."""
    if state is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    made: torch.Tensor = dequantize_4bit(weight.data, state).to(dtype)
    return made


class _Fused(Function):
    """``W x + b + s B A d(x)``; ``d`` is dropout, or nothing."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        dropped: torch.Tensor | None,
        weight: torch.Tensor,
        state: Any,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
        dtype: torch.dtype,
        wanted: torch.dtype,
    ) -> torch.Tensor:
        """``[rows, in]`` to ``[rows, out]`` in ``wanted``; products are in ``dtype``.

        ``weight`` is ``[out, in]`` or packed, with the ``state`` that unpacks it; ``down`` is
        ``[r, in]``, ``up`` ``[out, r]``.
        """
        seen = (x if dropped is None else dropped).to(dtype)
        a, b = down.to(dtype), up.to(dtype)
        inner = product(seen, a)
        made = product(x.to(dtype), _unpacked(weight, state, dtype), bias)
        if wanted is dtype:
            made.addmm_(inner, b.t(), alpha=scaling)
        else:
            made = made.to(wanted).add_(product(inner, b), alpha=scaling)
        ctx.save_for_backward(seen, weight, inner, a, b)
        ctx.state, ctx.scaling, ctx.dropping = state, scaling, dropped is not None
        ctx.dtypes = x.dtype, down.dtype, up.dtype
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        with torch.autocast(gradients[0].device.type, enabled=False):
            return _gradients(ctx, gradients[0])


def _gradients(ctx: Any, given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Of each argument of ``_Fused.forward``, from that of its output, ``[rows, out]``."""
    seen, weight, inner, a, b = ctx.saved_tensors
    of_x, of_down, of_up = ctx.dtypes
    given = given.to(seen.dtype)
    # Of A x, as yet unscaled.
    narrow = product(given, b.t())
    up_gradient = (given.t() @ inner).to(of_up).mul_(ctx.scaling)
    down_gradient = (narrow.t() @ seen).to(of_down).mul_(ctx.scaling)
    x_gradient = dropped_gradient = None
    if ctx.needs_input_grad[0]:
        x_gradient = product(given, _unpacked(weight, ctx.state, seen.dtype).t())
        if not ctx.dropping:
            x_gradient.addmm_(narrow, a, alpha=ctx.scaling)
        x_gradient = x_gradient.to(of_x)
    if ctx.dropping and ctx.needs_input_grad[1]:
        dropped_gradient = (narrow @ a).mul_(ctx.scaling).to(of_x)
    nothing = (None,) * 3
    return x_gradient, dropped_gradient, *nothing, down_gradient, up_gradient, *nothing
