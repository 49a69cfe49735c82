"""A trial's adapter as a folder of its own: with its tokenizer, or merged into the base.

Whatever is written is loaded again from disk and scored on the validation rows before the folder
takes its name: 4-bit merges in particular lose quality without anybody noticing
(https://github.com/huggingface/transformers/issues/31293).
"""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoTokenizer

from ..spaces import ModelBlock
from .adapter import STEP
from .base import BaseModel, BaseSpec, load_base, load_tokenizer
from .data import IGNORE, TokenizedData
from .errors import TrialError
from .folder import read_json, write_json
from .run import score_on

MERGED = "merged"
"""The folder below the adapter's that holds the merged model."""
RECIPE = "tune_lora.json"
"""How prompts were made and the base was loaded: what ``tune-lora generate`` needs."""


@dataclass(frozen=True)
class Recipe:
    """What ``RECIPE`` holds.

    Attributes:
        model: the space's model block, from which the base is found on another machine too.
        template: of the prompt; None for the built-in one.
        labels: class names, for SEQ_CLS.
        merged: whether the folder beside it is a whole model.
    """

    model: ModelBlock
    template: str | None = None
    labels: tuple[str, ...] = ()
    merged: bool = False

    def write(self, folder: Path) -> None:
        """Put it into an exported folder."""
        data = {
            "model": self.model.model_dump(),
            "template": self.template,
            "labels": list(self.labels),
            "merged": self.merged,
        }
        write_json(folder / RECIPE, data)

    @classmethod
    def read(cls, folder: Path) -> Recipe:
        """The recipe of an exported folder.

        Raises:
            TrialError: there is none, or it is damaged.
        """
        data = read_json(folder / RECIPE)
        try:
            model = ModelBlock(**data["model"])
            return cls(model, data["template"], tuple(data["labels"]), bool(data["merged"]))
        except (KeyError, TypeError, ValueError) as error:
            raise TrialError(f"{folder / RECIPE}: is damaged: {error}") from error


@dataclass(frozen=True)
class Rescore:
    """Validation losses of what was exported, loaded again from disk; nats.

    Attributes:
        adapter: base, quantized as in training, and adapter.
        merged: the merged model; None if none was made.
    """

    adapter: float
    merged: float | None = None


def export_adapter(
    source: Path,
    target: Path,
    recipe: Recipe,
    data: TokenizedData,
    *,
    batch_size: int,
    merge: bool,
    finish: Callable[[Path, Rescore], None] = lambda folder, scores: None,
) -> Rescore:
    """Copy the adapter at ``source`` to ``target``, with tokenizer, and score it again.

    Args:
        source: an adapter as peft saved it.
        target: a folder that does not exist, or is empty.
        recipe: how it was trained.
        data: its validation rows are scored.
        batch_size: rows a forward pass.
        merge: whether ``target/merged`` is to hold base and adapter in one model. The adapter
            is merged into full-precision weights, not into the quantized ones.
        finish: given the folder before it takes its name, to add to it.

    Raises:
        TrialError: ``target`` holds something or cannot be written.
        SpaceError: the base model is no longer to be found.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise TrialError(f"{target}: is not empty; export to another folder (--to)")
    spec = BaseSpec.of(recipe.model, recipe.labels)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
            made = Path(scratch) / "export"
            _write_adapter(source, made, spec, recipe)
            scores = Rescore(_score_adapter(made, spec, data, batch_size))
            if merge:
                _write_merged(made, spec, recipe)
                scores = replace(
                    scores, merged=_score_merged(made / MERGED, spec, data, batch_size)
                )
            finish(made, scores)
            if target.exists():
                target.rmdir()
            made.rename(target)
    except OSError as error:
        raise TrialError(f"{target}: cannot be written: {error}") from error
    return scores


def sample_prompt(folder: Path, data: TokenizedData, task: str) -> str:
    """The first validation row's prompt as text, for examples of use.

    Args:
        folder: whose tokenizer turns ids into text.
        data: as trained on.
        task: peft's task type.
    """
    row = data.validation[0]
    ids = row["input_ids"]
    if task == "CAUSAL_LM":
        ids = ids[: next(i for i, label in enumerate(row["labels"]) if label != IGNORE)]
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def _write_adapter(source: Path, made: Path, spec: BaseSpec, recipe: Recipe) -> None:
    shutil.copytree(source, made, ignore=shutil.ignore_patterns(STEP))
    config = read_json(made / "adapter_config.json")
    config["base_model_name_or_path"] = spec.reference
    if spec.reference != spec.source:
        config["revision"] = recipe.model.revision
    write_json(made / "adapter_config.json", config)
    load_tokenizer(spec).save_pretrained(str(made))
    recipe.write(made)


def _score_adapter(folder: Path, spec: BaseSpec, data: TokenizedData, batch_size: int) -> float:
    base = load_base(spec)
    model = PeftModel.from_pretrained(base.model, str(folder)).eval()
    return _loss(model, base, data, batch_size)


def _write_merged(folder: Path, spec: BaseSpec, recipe: Recipe) -> None:
    base = load_base(spec, quantization="none")
    merged: Any = PeftModel.from_pretrained(base.model, str(folder)).merge_and_unload()
    merged.save_pretrained(str(folder / MERGED))
    base.tokenizer.save_pretrained(str(folder / MERGED))
    replace(recipe, merged=True).write(folder / MERGED)
    del base, merged
    gc.collect()


def _score_merged(folder: Path, spec: BaseSpec, data: TokenizedData, batch_size: int) -> float:
    base = load_base(replace(spec, source=str(folder)), quantization="none")
    return _loss(base.model, base, data, batch_size)


def _loss(model: Any, base: BaseModel, data: TokenizedData, batch_size: int) -> float:
    return score_on(model, base, data.validation, batch_size)[0]
