"""GGUF models: dequantized once into a safetensors folder, which then loads in under a second.

transformers can read a GGUF file directly (``gguf_file=``), but that takes tens of seconds a
time, and without ``GgufConfig(dequantize=True)`` the Trainer refuses the result as quantized.
"""

from __future__ import annotations

import hashlib
import logging
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import TrialError
from .sources import cache_root

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# struct.error is what a file cut short within its header ends in.
_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, struct.error)


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


@contextmanager
def _alone(path: Path) -> Iterator[str]:
    """A folder that holds nothing but the file.

    Beside an adapter, which is where an export puts it, transformers would load that one's base.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / path.name).symlink_to(path.resolve())
        yield folder


def load_gguf(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The causal model in a GGUF file, its weights dequantized.

    transformers passes over the tensor that holds a Llama 3's frequency factors
    (``rope_freqs.weight``); they are taken from the file here.

    Raises:
        TrialError: the file is no GGUF model that transformers can read.
    """
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, GgufConfig

    try:
        with _alone(path) as folder:
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file=path.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=dtype,
            )
        tensors = GGUFReader(path).tensors
    except _UNREADABLE as error:
        raise TrialError(f"{path}: transformers cannot read this GGUF file: {error}") from error
    for tensor in tensors:
        if tensor.name == "rope_freqs.weight":
            model.model.rotary_emb.inv_freq /= torch.tensor(tensor.data)
    return model


def _convert_into(path: Path, target: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    try:
        with _alone(path) as folder:
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name)
    except _UNREADABLE as error:
        raise TrialError(f"{path}: transformers cannot read this GGUF file: {error}") from error
    model = load_gguf(path, torch.float32)
    # The header's free-text name is no path; leaving it in would mislead whoever reads config.json.
    model.config._name_or_path = path.stem
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
