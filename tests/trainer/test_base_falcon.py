"""Falcon in 4 bits: its own class of linear layers is quantized like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from bitsandbytes.nn import Linear4bit
from tiny_models import tiny_model
from tune_lora.trainer.base import BaseSpec, load_base


def _packed(folder: Path) -> BaseSpec:
    packed = {"quantization": "nf4", "quantization_compute": "bitsandbytes"}
    return BaseSpec(str(folder), "falcon", dtype="fp32", **packed)


def test_falcon_is_quantized(tiny: Callable[..., Path]) -> None:
    base = load_base(_packed(tiny("falcon")))
    quantized = [n for n, m in base.model.named_modules() if isinstance(m, Linear4bit)]
    assert len(quantized) == 2 * 4


def test_falcon_computes_what_it_did_before(tiny: Callable[..., Path]) -> None:
    """Its linear layers are replaced by plain ones when something is quantized in the process."""
    load_base(_packed(tiny("falcon")))
    plain = load_base(BaseSpec(str(tiny("falcon")), "falcon", quantization="none", dtype="fp32"))
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        after = plain.model(input_ids=ids).logits
        weights = plain.model.state_dict()
        own = tiny_model("falcon")
        own.load_state_dict(weights)
        torch.testing.assert_close(own.eval()(input_ids=ids).logits, after)
