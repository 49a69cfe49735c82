"""GGUF models: dequantized once into a safetensors folder, which then loads in under a second.

transformers can read a GGUF file directly (``gguf_file=``), but that takes tens of seconds a
time, and without ``GgufConfig(dequantize=True)`` the Trainer refuses the result as quantized.
"""

from __future__ import annotations

import hashlib
import logging
import struct
import tempfile
from pathlib import Path

from .errors import TrialError
from .sources import cache_root

logger = logging.getLogger(__name__)


def convert(path: Path) -> Path:
    """The folder with model and tokenizer of the GGUF file at ``path``, in 32-bit floats.

    The folder is named by the file's content, so it is made once a machine, and two
    searches that make it at the same moment end with one of the two equal results.

    Raises:
        TrialError: the file is no GGUF model that transformers can read.
    """
    target = cache_root() / "gguf" / f"{path.stem}-{_digest(path)}"
    if target.exists():
        return target
    logger.info("converting %s once into %s", path.name, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / "model"
        _convert_into(path, made)
        try:
            made.rename(target)
        except OSError:
            if not target.exists():
                raise
    return target


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _convert_into(path: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(
            str(path.parent),
            gguf_file=path.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
    except (OSError, ValueError, RuntimeError, KeyError, struct.error) as error:
        # struct.error is what a file cut short within its header ends in.
        raise TrialError(f"{path}: transformers cannot read this GGUF file: {error}") from error
    # The header's free-text name is no path; leaving it in would mislead whoever reads config.json.
    model.config._name_or_path = path.stem
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
