"""The doctor on GPUs and on 4-bit arithmetic."""

from __future__ import annotations

from pathlib import Path

import torch

from ..reports.formats import size
from ..trainer.base import pick_device
from .doctor_finding import Finding, failed, ok, warning

_DRIVER = Path("/proc/driver/nvidia/version")
_WRONG = 0.15
"""Of the numbers' own size: NF4 of normal numbers is off by about a tenth."""


def check_gpus() -> list[Finding]:
    """Each GPU that torch sees, and whether it sees those that there are."""
    if not torch.cuda.is_available():
        if _DRIVER.is_file():
            said = f"there is an NVIDIA driver, and torch {torch.__version__} sees no GPU"
            remedy = "install PyTorch's CUDA build for this driver; look at CUDA_VISIBLE_DEVICES"
            return [failed("gpu", said, remedy)]
        return [ok("gpu", "none: trials train on the CPU")]
    return [_gpu(index) for index in range(torch.cuda.device_count())]


def _gpu(index: int) -> Finding:
    about = torch.cuda.get_device_properties(index)
    free, _ = torch.cuda.mem_get_info(index)
    said = (
        f"{index}: {about.name}, {size(about.total_memory)}, {size(free)} free, "
        f"driver {_driver()}, CUDA {torch.version.cuda}"
    )
    if free < about.total_memory / 2:
        return warning("gpu", said, "another process holds most of it: see nvidia-smi")
    with torch.cuda.device(index):
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            return warning("gpu", f"{said}, no bf16", "nothing: trials compute in fp16 there")
    return ok("gpu", f"{said}, bf16")


def _driver() -> str:
    import pynvml

    try:
        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        return "unknown"
    return version.decode() if isinstance(version, bytes) else str(version)


def check_bitsandbytes() -> list[Finding]:
    """Numbers to NF4 and back, on the device that trials would use."""
    remedy = "pip install --force-reinstall bitsandbytes, or write model.quantization=none"
    device = pick_device()
    try:
        import bitsandbytes
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        numbers = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(device)
        packed, scales = quantize_4bit(numbers, quant_type="nf4", compress_statistics=True)
        off = (dequantize_4bit(packed, scales) - numbers).abs().mean() / numbers.abs().mean()
    except Exception as error:
        said = f"4-bit weights do not work on {device.type}: {type(error).__name__}: {error}"
        return [failed("bitsandbytes", said, remedy)]
    if not float(off) < _WRONG:
        said = f"4-bit weights come back wrong on {device.type}: off by {float(off):.0%}"
        return [failed("bitsandbytes", said, remedy)]
    version = bitsandbytes.__version__
    return [ok("bitsandbytes", f"{version}: NF4 on {device.type}, off by {float(off):.0%}")]
