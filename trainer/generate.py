"""An exported adapter at work: prompts in, answers out."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftConfig, PeftModel

from ..spaces import ModelBlock
from .adapter import changes_base
from .base import BaseModel, BaseSpec, load_base
from .chat import prompt_of
from .encode import prompt_ids
from .errors import TrialError
from .export import RECIPE, Recipe
from .foreign import check_adapter
from .template import render_prompt


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen (https://huggingface.co/docs/transformers/generation_strategies).

    Attributes:
        max_new_tokens: at most, the end token included.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn.
        top_p: drawn from the likeliest tokens that together have this probability.
        seed: of the draws.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def options(self) -> dict[str, Any]:
        """Arguments of ``generate``."""
        if self.temperature == 0:
            return {"max_new_tokens": self.max_new_tokens, "do_sample": False}
        return {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }


@dataclass(frozen=True)
class Answerer:
    """A model with its adapter, and the template that it was trained with.

    Attributes:
        recipe: of the export; None for an adapter that other tools made, whose prompts are
            taken as they are.
    """

    model: Any
    base: BaseModel
    recipe: Recipe | None

    def answer(self, row: Mapping[str, str], decoding: Decoding, *, raw: bool = False) -> str:
        """The model's answer to one row.

        Args:
            row: ``instruction`` and, optionally, ``input``.
            decoding: how tokens are chosen; a classifier needs none.
            raw: take the instruction for the whole prompt, without the template.

        Returns:
            The new text, special tokens left out; of a classifier ``label (probability)``, or of
            words each with its tag, a line each.
        """
        transformers.set_seed(decoding.seed)
        if self.base.spec.task == "SEQ_CLS":
            return self._classify(row["instruction"])
        if self.base.spec.task == "TOKEN_CLS":
            return self._tag(row["instruction"])
        return self._generate(self._prompt(row, raw), decoding)

    def _prompt(self, row: Mapping[str, str], raw: bool) -> list[int]:
        """The prompt's tokens, as those of the rows that it was trained on."""
        tokenizer, recipe = self.base.tokenizer, self.recipe
        text, form = row["instruction"], None if raw or recipe is None else recipe.format
        if recipe is not None and form == "instruction":
            text = render_prompt(recipe.template, row)
        elif form is not None and row.get("input"):
            text = f"{text}\n\n{row['input']}"
        if form == "chat":
            return prompt_of(tokenizer, [{"role": "user", "content": text}])
        causal = self.base.spec.task == "CAUSAL_LM"
        found: list[int] = prompt_ids(tokenizer, text) if causal else tokenizer(text)["input_ids"]
        return found

    def _generate(self, ids: list[int], decoding: Decoding) -> str:
        tokenizer = self.base.tokenizer
        causal = self.base.spec.task == "CAUSAL_LM"
        inputs = torch.tensor([ids], device=self.base.device)
        with torch.no_grad(), self.base.autocast():
            made = self.model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                pad_token_id=tokenizer.pad_token_id,
                **decoding.options(),
            )[0]
        return str(tokenizer.decode(made[len(ids) if causal else 0 :], skip_special_tokens=True))

    def _classify(self, text: str) -> str:
        inputs = self.base.tokenizer(text, return_tensors="pt").to(self.base.device)
        with torch.no_grad(), self.base.autocast():
            shares = self.model(**inputs).logits[0].float().softmax(-1)
        index = int(shares.argmax())
        return f"{self.base.spec.labels[index]} ({float(shares[index]):.1%})"

    def _tag(self, text: str) -> str:
        words = text.split()
        inputs = self.base.tokenizer([words], is_split_into_words=True, return_tensors="pt")
        places = inputs.word_ids(0)
        with torch.no_grad(), self.base.autocast():
            tags = self.model(**inputs.to(self.base.device)).logits[0].argmax(-1)
        return "\n".join(
            f"{word}\t{self.base.spec.labels[int(tags[places.index(number)])]}"
            for number, word in enumerate(words)
            if number in places
        )


def load_answerer(folder: Path, *, trusted: bool = False) -> Answerer:
    """The model at ``folder``: an exported adapter, a merged model, or any peft LoRA adapter.

    Args:
        folder: of the model.
        trusted: see ``BaseSpec.of``.

    Raises:
        TrialError: there is no adapter and no merged model.
        SpaceError: the base model is not to be found.
    """
    recipe = Recipe.read(folder) if (folder / RECIPE).is_file() else None
    if recipe is not None and recipe.merged:
        block = recipe.model.model_copy(update={"name": str(folder.resolve()), "revision": None})
        base = load_base(BaseSpec.of(block, recipe.labels, trusted=trusted), quantization="none")
        return Answerer(base.model, base, recipe)
    if not (folder / "adapter_config.json").is_file():
        raise TrialError(f"{folder}: holds no adapter (it has no adapter_config.json)")
    check_adapter(folder)
    spec = BaseSpec.of(recipe.model, recipe.labels, trusted=trusted) if recipe else _foreign(folder)
    base = load_base(spec)
    return Answerer(PeftModel.from_pretrained(base.model, str(folder)).eval(), base, recipe)


@dataclass(frozen=True)
class Comparison:
    """One prompt, two answers.

    Attributes:
        adapter: what the export answers.
        base: what the base model answers.
        base_name: what the user called the base model; of a classifier, that its head is random.
    """

    adapter: str
    base: str
    base_name: str


def answer_both(
    folder: Path,
    row: Mapping[str, str],
    decoding: Decoding,
    *,
    raw: bool = False,
    trusted: bool = False,
) -> Comparison:
    """The answers of an export and of its base model, by the same template and seed.

    The base is the loaded model with its adapter disabled. Where that is not the untouched base (a
    merged model, trained biases, PiSSA), the base takes the export's place in memory, in the same
    precision.

    Args:
        folder: see ``load_answerer``.
        row: see ``Answerer.answer``.
        decoding: how tokens are chosen.
        raw: take the instruction for the whole prompt, without the template.
        trusted: see ``BaseSpec.of``.

    Raises:
        TrialError: there is no adapter and no merged model.
        SpaceError: the base model is not to be found.
    """
    answerer = load_answerer(folder, trusted=trusted)
    spec, recipe = answerer.base.spec, answerer.recipe
    if recipe is not None:
        # Looked for before anything is generated.
        spec = BaseSpec.of(recipe.model, recipe.labels, trusted=trusted)
    answer = answerer.answer(row, decoding, raw=raw)
    model, name = answerer.model, spec.name
    if spec.task == "SEQ_CLS":
        name += ", its head untrained"
    if isinstance(model, PeftModel) and not changes_base(model.active_peft_config.to_dict()):
        with model.disable_adapter():
            return Comparison(answer, answerer.answer(row, decoding, raw=raw), name)
    quantized = getattr(model, "is_loaded_in_4bit", False)
    del answerer, model
    gc.collect()
    base = load_base(spec, "nf4" if quantized else "none")
    other = Answerer(base.model, base, recipe).answer(row, decoding, raw=raw)
    return Comparison(answer, other, name)


def _foreign(folder: Path) -> BaseSpec:
    config = PeftConfig.from_pretrained(str(folder))
    if not config.base_model_name_or_path:
        raise TrialError(f"{folder}: its adapter_config.json names no base model")
    task = str(config.task_type or "CAUSAL_LM")
    if task not in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        raise TrialError(f"{folder}: nothing can be generated with a {task} adapter of other tools")
    block = ModelBlock.model_validate(
        {"name": config.base_model_name_or_path, "task": task, "quantization": "none"}
    )
    return BaseSpec.of(block)
