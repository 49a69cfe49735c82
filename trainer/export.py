"""A trial's adapter as a folder of its own: with its tokenizer, or merged into the base.

A merged model is written in full precision, in 4 bits (NF4) or as a GGUF file. Whatever is written
is loaded again from disk and scored on the validation rows before the folder takes its name: 4-bit
merges in particular lose quality without anybody noticing
(https://github.com/huggingface/transformers/issues/31293).
"""

from __future__ import annotations

import gc
import math
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
from .base import BaseModel, BaseSpec, load_base, load_tokenizer, pick_device
from .data import TokenizedData
from .encode import IGNORE
from .errors import TrialError
from .folder import read_json, write_json
from .gguf import load_gguf
from .gguf_write import check_gguf, gguf_name, write_gguf
from .precision import compute_dtype
from .requantize import check_nf4, write_nf4
from .score import score_on

MERGED = "merged"
"""The folder below the adapter's that holds the merged model."""
MERGED_NF4 = "merged-nf4"
"""That of the merged model in 4 bits."""
RECIPE = "tune_lora.json"
"""How prompts were made and the base was loaded: what ``tune-lora generate`` needs."""


@dataclass(frozen=True)
class Recipe:
    """What ``RECIPE`` holds.

    Attributes:
        model: the space's model block, from which the base is found on another machine too.
        template: of the prompt; None for the built-in one.
        labels: class names, for SEQ_CLS and TOKEN_CLS.
        format: of the data, `data.format`.
        merged: whether the folder beside it is a whole model.
    """

    model: ModelBlock
    template: str | None = None
    labels: tuple[str, ...] = ()
    format: str = "instruction"
    merged: bool = False

    def write(self, folder: Path) -> None:
        """Put it into an exported folder."""
        data = {
            "model": self.model.model_dump(),
            "template": self.template,
            "labels": list(self.labels),
            "format": self.format,
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
            labels, form = tuple(data["labels"]), str(data["format"])
            return cls(model, data["template"], labels, form, bool(data["merged"]))
        except (KeyError, TypeError, ValueError) as error:
            raise TrialError(f"{folder / RECIPE}: is damaged: {error}") from error


@dataclass(frozen=True)
class Rescore:
    """Validation losses of what was exported, loaded again from disk; nats.

    Attributes:
        adapter: base, quantized as in training, and adapter.
        merged: the merged model; None if none was made.
        nf4: the merged model in 4 bits; None if none was made.
        gguf: the merged model as a GGUF file; None if none was made.
    """

    adapter: float
    merged: float | None = None
    nf4: float | None = None
    gguf: float | None = None


@dataclass(frozen=True)
class Forms:
    """What is to be made of an adapter besides its folder.

    Attributes:
        merge: base and adapter in one model, at ``MERGED``. The adapter is merged into
            full-precision weights, not into the quantized ones.
        quantize: the merged model quantized again, at ``MERGED_NF4``.
        gguf: the merged model as ``gguf_name(gguf)``, one of ``gguf_write.TYPES``; None for none.
    """

    merge: bool = False
    quantize: bool = False
    gguf: str | None = None

    def check(self, spec: BaseSpec) -> None:
        """Look whether they can be made of a model, before any work.

        Raises:
            TrialError: one cannot.
        """
        if self.quantize:
            check_nf4(spec)
        if self.gguf is not None:
            check_gguf(spec)


def export_adapter(
    source: Path,
    target: Path,
    recipe: Recipe,
    data: TokenizedData,
    *,
    batch_size: int,
    forms: Forms = Forms(),
    trusted: bool = False,
    finish: Callable[[Path, Rescore], None] = lambda folder, scores: None,
) -> Rescore:
    """Copy the adapter at ``source`` to ``target``, with tokenizer, and score it again.

    Args:
        source: an adapter as peft saved it.
        target: a folder that does not exist, or is empty.
        recipe: how it was trained.
        data: its validation rows are scored.
        batch_size: rows a forward pass.
        forms: what else to write.
        trusted: see ``BaseSpec.of``.
        finish: given the folder before it takes its name, to add to it.

    Raises:
        TrialError: ``target`` holds something or cannot be written; a form cannot be made of this
            model; or what was written has no finite loss.
        SpaceError: the base model is no longer to be found.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise TrialError(f"{target}: is not empty; export to another folder (--to)")
    spec = BaseSpec.of(recipe.model, recipe.labels, trusted=trusted)
    forms.check(spec)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
            made = Path(scratch) / "export"
            _write_adapter(source, made, spec, recipe)
            scorer = _Scorer(spec, data, batch_size)
            scores = Rescore(scorer.adapter(made))
            if forms != Forms():
                scores = _make(forms, made, recipe, scorer, scores, target.name)
            finish(made, scores)
            if target.exists():
                target.rmdir()
            made.rename(target)
    except OSError as error:
        raise TrialError(f"{target}: cannot be written: {error}") from error
    return scores


def _make(
    forms: Forms, made: Path, recipe: Recipe, scorer: _Scorer, scores: Rescore, name: str
) -> Rescore:
    """Write the forms into ``made``, one after the other, and score each."""
    spec, merged = scorer.spec, made / MERGED
    _write_merged(made, spec, recipe)
    if forms.merge:
        scores = replace(scores, merged=scorer.model(merged, "--merge"))
    if forms.quantize:
        write_nf4(merged, made / MERGED_NF4, spec)
        replace(recipe, merged=True).write(made / MERGED_NF4)
        scores = replace(scores, nf4=scorer.model(made / MERGED_NF4, "--quantize"))
    if forms.gguf is not None:
        path = made / gguf_name(forms.gguf)
        whole = load_base(replace(spec, source=str(merged)), quantization="none")
        # Two words at least: transformers takes a Llama by the name of "mistral" for another model.
        write_gguf(whole, merged, path, forms.gguf, f"{Path(spec.name).stem} {name}")
        del whole
        gc.collect()
        scores = replace(scores, gguf=scorer.gguf(path))
    if not forms.merge:
        shutil.rmtree(merged)
    return scores


@dataclass(frozen=True)
class _Scorer:
    """Loads what was written and scores it; losses in nats."""

    spec: BaseSpec
    data: TokenizedData
    batch_size: int

    def adapter(self, folder: Path) -> float:
        base = load_base(self.spec)
        model = PeftModel.from_pretrained(base.model, str(folder)).eval()
        return self._loss(model, base, "adapter", "export another trial (--trial)")

    def model(self, folder: Path, option: str) -> float:
        base = load_base(replace(self.spec, source=str(folder)), quantization="none")
        return self._loss(base.model, base, f"{folder.name} model", f"leave out {option}")

    def gguf(self, path: Path) -> float:
        device = pick_device()
        dtype = compute_dtype(self.spec.dtype, device)
        model = load_gguf(path, dtype).to(device).eval()
        base = BaseModel(self.spec, model, load_tokenizer(self.spec), device, dtype)
        return self._loss(model, base, path.name, "leave out --gguf")

    def _loss(self, model: Any, base: BaseModel, name: str, remedy: str) -> float:
        loss = score_on(model, base, self.data.validation, self.batch_size)[0]
        gc.collect()
        if not math.isfinite(loss):
            rule = f"has a loss of {loss}, so nothing is exported; {remedy}"
            raise TrialError(f"the {name}, loaded again from disk, {rule}")
        return loss


def sample_prompt(folder: Path, data: TokenizedData, task: str, *, special: bool = False) -> str:
    """The first validation row's prompt as text, for examples of use.

    Args:
        folder: whose tokenizer turns ids into text.
        data: as trained on.
        task: peft's task type.
        special: keep special tokens, without which a chat's prompt is none.
    """
    row = data.validation[0]
    ids = row["input_ids"]
    if task == "CAUSAL_LM":
        ids = ids[: next(i for i, label in enumerate(row["labels"]) if label != IGNORE)]
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return str(tokenizer.decode(ids, skip_special_tokens=not special))


def _write_adapter(source: Path, made: Path, spec: BaseSpec, recipe: Recipe) -> None:
    shutil.copytree(source, made, ignore=shutil.ignore_patterns(STEP))
    config = read_json(made / "adapter_config.json")
    config["base_model_name_or_path"] = spec.reference
    if spec.reference != spec.source:
        config["revision"] = recipe.model.revision
    write_json(made / "adapter_config.json", config)
    load_tokenizer(spec).save_pretrained(str(made))
    recipe.write(made)


def _write_merged(folder: Path, spec: BaseSpec, recipe: Recipe) -> None:
    base = load_base(spec, quantization="none")
    merged: Any = PeftModel.from_pretrained(base.model, str(folder)).merge_and_unload()
    merged.save_pretrained(str(folder / MERGED))
    base.tokenizer.save_pretrained(str(folder / MERGED))
    replace(recipe, merged=True).write(folder / MERGED)
    del base, merged
    gc.collect()
