"""A merged model in 4 bits (NF4), saved as transformers saves one."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

from transformers import AutoConfig

from .base import AUTO_CLASSES, BaseSpec, load_options, load_tokenizer, pick_device
from .errors import TrialError
from .precision import compute_dtype


def check_nf4(spec: BaseSpec) -> None:
    """Look at a model's configuration, without loading its weights.

    Raises:
        TrialError: what would be saved in 4 bits, transformers alone could not load again.
    """
    try:
        config = AutoConfig.from_pretrained(spec.source, trust_remote_code=spec.trust_remote_code)
    except (OSError, ValueError) as error:
        raise TrialError(f"--quantize: {spec.name}: {error}") from error
    if config.model_type == "falcon":
        # Its linear layers are of a class of its own, which only ``nf4.plain_linears`` gets past.
        rule = "transformers cannot load a Falcon saved in 4 bits; export it with --merge"
        raise TrialError(f"--quantize: {spec.name}: {rule}")


def write_nf4(source: Path, target: Path, spec: BaseSpec) -> None:
    """Quantize the full-precision model at ``source`` into ``target``, tokenizer included.

    Args:
        source: a merged model.
        target: a folder that does not exist.
        spec: of the base model; its ``double_quant`` and ``dtype`` apply.

    Raises:
        TrialError: nothing in the model can be quantized.
    """
    from bitsandbytes.nn import Linear4bit

    device = pick_device()
    dtype = compute_dtype(spec.dtype, device)
    whole = replace(spec, source=str(source))
    model = AUTO_CLASSES[spec.task].from_pretrained(
        str(source), **load_options(whole, "nf4", dtype, int(device.type == "cuda"))
    )
    if not any(isinstance(module, Linear4bit) for module in model.modules()):
        raise TrialError(f"--quantize: {spec.name}: nothing in this model could be quantized")
    model.save_pretrained(str(target))
    load_tokenizer(whole).save_pretrained(str(target))
    del model
    gc.collect()
