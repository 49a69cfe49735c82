"""NF4: a base model's linear layers in 4 bits through bitsandbytes, packed or dequantized once.

bitsandbytes dequantizes a weight at each product. The same numbers, unpacked once after loading,
cost memory and save that work: the quantization, its error and every loss stay what they are.

bitsandbytes and peft are imported where they are used: a search's driver, which loads no weights,
does without the seconds that they take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .errors import TrialError
from .products import frozen_linear

if TYPE_CHECKING:
    from bitsandbytes.nn import Linear4bit

HEADS = ["lm_head", "classifier", "score", "qa_outputs"]
"""Modules that stay in full precision: a classifier is trained, and heads are few."""


def quantization(double_quant: bool, dtype: torch.dtype) -> BitsAndBytesConfig:
    """How transformers is to load the weights.

    Args:
        double_quant: quantize the quantization constants too.
        dtype: of matrix products.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=HEADS,
    )


def plain_linears() -> None:
    """Let transformers quantize Falcon, whose linear layers are of a class of its own.

    Only modules that are exactly ``nn.Linear`` are replaced by 4-bit ones. ``FalconLinear`` differs
    from it in the order of its operations alone.
    """
    from transformers.models.falcon import modeling_falcon

    modeling_falcon.FalconLinear = nn.Linear


def prepared(model: PreTrainedModel, name: str, *, unpack: bool) -> PreTrainedModel:
    """A model that transformers has just quantized, ready to be trained on: norms in fp32.

    Args:
        model: from ``from_pretrained``; it is changed.
        name: what the user calls it.
        unpack: dequantize its weights once and for all.

    Raises:
        TrialError: nothing in it is quantized.
    """
    from bitsandbytes.nn import Linear4bit
    from peft import prepare_model_for_kbit_training

    if not any(isinstance(module, Linear4bit) for module in model.modules()):
        rule = "nothing in this model could be quantized; write model.quantization=none"
        raise TrialError(f"{name}: {rule}")
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if unpack:
        _dequantize(model)
    else:
        never_repack(model)
    return model


def never_repack(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from changing 4-bit weights over to its inference kernel.

    On a CPU with AVX512-BF16 it does so at the first evaluation, for good. That kernel rounds to
    bf16 and has no gradient: whatever is trained afterwards learns from wrong gradients.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


class DequantizedLinear(nn.Linear):
    """What a ``Linear4bit`` computes, from its weight dequantized once.

    A plain ``nn.Linear`` would take its input as it is: here, as there, the product is in the
    compute dtype and the output in the input's, which under autocast is not the same.

    Args:
        packed: the layer whose place it takes.
    """

    def __init__(self, packed: Linear4bit) -> None:
        from bitsandbytes.functional import dequantize_4bit

        super().__init__(packed.in_features, packed.out_features, bias=False, device="meta")
        # peft asks a quantized layer by this name for the dtype of its adapter.
        self.compute_dtype: torch.dtype = packed.compute_dtype
        weight = dequantize_4bit(packed.weight.data, packed.weight.quant_state)
        self.weight = nn.Parameter(weight.to(self.compute_dtype), requires_grad=False)
        if packed.bias is not None:
            bias = packed.bias.data.to(self.compute_dtype)
            self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` to ``[..., out]``, in the dtype of ``input``."""
        made = frozen_linear(input.to(self.compute_dtype), self.weight, self.bias)
        return made.to(input.dtype)


def _dequantize(model: PreTrainedModel) -> None:
    """Replace layer by layer, so that packed and unpacked weights never stand side by side."""
    from bitsandbytes.nn import Linear4bit

    names = [name for name, module in model.named_modules() if isinstance(module, Linear4bit)]
    for name in names:
        model.set_submodule(name, DequantizedLinear(model.get_submodule(name)))


def unpacked_bytes(model: nn.Module, width: int) -> int:
    """What a model's weights take once they are dequantized, in bytes.

    Args:
        model: its modules as they are before quantization; weights may be on the meta device.
        width: bytes of a number of the compute dtype; norms, embeddings and heads are in fp32.
    """
    quantized = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.rpartition(".")[2] not in HEADS
    )
    rest = sum(parameter.numel() for parameter in model.parameters()) - quantized
    return quantized * width + rest * torch.float32.itemsize
