"""Which number formats the hardware at hand really has, with a logged fallback where it has not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def compute_dtype(requested: str, device: torch.device) -> torch.dtype:
    """The dtype that matrix products run in.

    Args:
        requested: ``auto``, ``fp32``, ``fp16`` or ``bf16``.
        device: where the model will stand.

    Returns:
        What was asked for if the device has it, else the nearest that it has, which is logged.
        ``auto`` is bf16 where the hardware has it, else fp16 on a GPU and fp32 on a CPU.
    """
    best = _best(device)
    if requested == "auto":
        return best
    wanted = _DTYPES[requested]
    if wanted is torch.float32 or wanted is best or (device.type == "cuda" and requested == "fp16"):
        return wanted
    logger.warning("%s is not supported on this %s: using %s", requested, device.type, best)
    return best


def _best(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float16
        )
    has = torch.cpu.get_capabilities()
    native = has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16")
    return torch.bfloat16 if native else torch.float32


def training_flags(
    dtype: torch.dtype, device: torch.device, asked: Mapping[str, Any]
) -> dict[str, bool]:
    """``bf16``, ``fp16`` and ``tf32`` of TrainingArguments.

    Args:
        dtype: from ``compute_dtype``.
        device: where the model stands.
        asked: the space's ``train`` fields; a flag given there wins where the hardware has it.

    Returns:
        The flags to pass, those that the hardware lacks turned off and logged.
    """
    flags = {"bf16": dtype is torch.bfloat16, "fp16": dtype is torch.float16}
    ampere = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if ampere:
        flags["tf32"] = True
    possible = {
        "bf16": _best(device) is torch.bfloat16,
        "fp16": device.type == "cuda",
        "tf32": ampere,
    }
    for name, supported in possible.items():
        if asked.get(name) is None:
            continue
        if asked[name] and not supported:
            logger.warning("train.%s: this %s does not support it: left off", name, device.type)
            flags.pop(name, None)
            continue
        flags[name] = bool(asked[name])
    if asked.get("fp16") and flags.get("fp16"):
        flags["bf16"] = bool(asked.get("bf16"))
    if asked.get("bf16") and flags.get("bf16"):
        flags["fp16"] = bool(asked.get("fp16"))
    return flags
