"""A digest of all that tokenized rows depend on: a resumed search need not make them again."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path

from ..spaces import DataBlock
from .sources import local_path

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}
_VERSIONED = ("tune-lora", "transformers", "tokenizers")


def inputs_digest(block: DataBlock, task: str, model: Path) -> str | None:
    """Equal for equal rows, tokenizer, settings and versions.

    Args:
        block: the space's data.
        task: peft's task type.
        model: folder with the tokenizer's files; those of weights are not looked at.

    Returns:
        None where a source is no file of this machine, so that only reading it tells what it is.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([block.model_dump(), task], sort_keys=True).encode())
    for name in _VERSIONED:
        digest.update(f"{name} {metadata.version(name)}|".encode())
    general = None if block.general is None else block.general.source
    named = (block.train, block.validation, block.test, general)
    sources = [source for source in named if isinstance(source, str)]
    files = [_file(source) for source in sources]
    if not model.is_dir():
        return None
    files += sorted(p for p in model.iterdir() if p.is_file() and p.suffix not in _WEIGHTS)
    for path in files:
        if path is None:
            return None
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _file(source: str) -> Path | None:
    path = local_path(source, "data.train")
    return path if path.is_file() else None
