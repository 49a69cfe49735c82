"""The README.md of an exported adapter: what it is, its scores, and how to load it.

The front matter follows https://huggingface.co/docs/hub/model-cards. The hub refuses a card
whose ``base_model`` is no model id, so a local base model is named in the text only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from ..spaces.metrics import FORGETTING, GENERAL, LOSS
from ..trainer.result import perplexity
from . import formats
from .card_facts import CardFacts, CardScores
from .differences import large_differences, not_what_was_ranked
from .loading import loading_code, merged_code
from .markdown import Align, escape, table

__all__ = ["CardFacts", "CardScores", "is_hub_id", "model_card"]

_PIPELINES = {
    "CAUSAL_LM": "text-generation",
    "SEQ_2_SEQ_LM": "text2text-generation",
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
}
_FRESH = "its configuration on fresh seeds, the mean"
_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)


def model_card(facts: CardFacts) -> str:
    """The card's text, front matter included."""
    title = escape(facts.name.rstrip("/").rpartition("/")[2] or "adapter")
    sections = [
        f"---\n{yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True)}---\n",
        f"# {title}\n\n{_what_it_is(facts)}\n",
        f"## Scores\n\n{_scores(facts)}",
        f"## How to load it\n\n{_loading(facts)}",
        f"## Hyperparameters\n\n### LoRA\n\n{_pairs(facts.lora)}",
        f"### Training\n\n{_pairs(facts.train)}",
        f"## Data\n\n{_data(facts.data)}",
        f"## How it was found\n\n{_found(facts)}",
        f"## Versions\n\n{_pairs(facts.versions)}",
    ]
    return "\n".join(sections)


def is_hub_id(name: str) -> bool:
    """Whether the hub would take ``name`` for a model id; a relative folder may look like one."""
    plausible = _HUB_ID.fullmatch(name) is not None and ".." not in name and "--" not in name
    return plausible and not name.endswith((".gguf", ".git"))


def _front_matter(facts: CardFacts) -> dict[str, Any]:
    known = is_hub_id(facts.base_model)
    tags = ["lora", "tune-lora"]
    return {
        **({"base_model": facts.base_model} if known else {}),
        "library_name": "peft",
        "pipeline_tag": _PIPELINES[facts.task],
        "tags": [*tags, f"base_model:adapter:{facts.base_model}"] if known else tags,
    }


def _what_it_is(facts: CardFacts) -> str:
    base = escape(facts.base_model)
    quantized = (
        ", trained on a base quantized to 4 bits (NF4)" if facts.quantization == "nf4" else ""
    )
    forms = {
        "merged": facts.merged and "with the adapter added into the weights",
        "merged-nf4": facts.nf4 and "the same in 4 bits (NF4)",
        facts.gguf: facts.gguf and "as a GGUF file, for llama.cpp and what builds on it",
    }
    made = [f"**{escape(name)}** ({words})" for name, words in forms.items() if words]
    whole = f" Beside it, the whole model: {', '.join(made)}." if made else ""
    return f"A LoRA adapter for {base} ({facts.task}){quantized}.{whole}"


def _scores(facts: CardFacts) -> str:
    scores = facts.scores
    step = f", step {scores.step} of {scores.horizon}" if scores.step is not None else ""
    measured = [
        (f"this adapter{step}", scores.eval_loss),
        ("scored again after reload", scores.reloaded),
        ("merged, scored again", scores.merged),
        ("merged-nf4, scored again", scores.nf4),
        (f"{facts.gguf}, scored again", scores.gguf),
        (_FRESH, scores.expected if facts.metric == LOSS else None),
        ("base model", scores.base),
        ("default configuration", scores.default),
    ]
    rows = [_score_row(name, loss, scores.eval_loss) for name, loss in measured if loss is not None]
    headings = ("validation", "loss", "perplexity", "difference")
    text = table(headings, rows, ("left", "right", "right", "right"))
    other = not_what_was_ranked(scores)
    if other is not None:
        text += f"\n**{other}**\n"
    for words in large_differences(scores, facts.quantization):
        text += f"\n- {words}"
    return text.rstrip("\n") + f"\n{_further(scores, facts.metric)}"


def _further(scores: CardScores, metric: str) -> str:
    """Metrics beyond the loss."""
    rows = [(_measure(name, metric), *values) for name, values in scores.further.items()]
    if metric != LOSS and scores.expected is not None:
        rows.append((f"{metric}, {_FRESH}", scores.expected, None, None))
    if not rows:
        return ""
    cells = [(name, *map(formats.loss, values)) for name, *values in rows]
    headings = ("validation", "this adapter", "base model", "default configuration")
    return f"\n{table(headings, cells, ('left', 'right', 'right', 'right'))}"


def _measure(name: str, metric: str) -> str:
    """A metric's name, and what a reader must know of it."""
    notes = ["what trials were judged by"] * (name == metric)
    notes += ["on the general text, in nats a token"] * (name in (FORGETTING, GENERAL))
    return f"{name} ({'; '.join(notes)})" if notes else name


def _score_row(name: str, loss: float, adapter: float) -> tuple[str, str, str, str]:
    difference = "" if name.startswith("this adapter") else f"{loss - adapter:+.4f}"
    return name, formats.loss(loss), formats.short(perplexity(loss)), difference


def _loading(facts: CardFacts) -> str:
    text = f"```python\n{loading_code(facts)}```\n"
    if facts.merged:
        text += f"\nMerged, without peft:\n\n```python\n{merged_code(facts, 'merged')}```\n"
    if facts.nf4:
        code = merged_code(facts, "merged-nf4")
        text += f"\nMerged, in 4 bits (bitsandbytes must be installed):\n\n```python\n{code}```\n"
    if facts.gguf:
        text += (
            f"\nPrompts for {escape(facts.gguf)} are made as above: the chat template in the file "
            "is the base model's, which the adapter was not trained with.\n"
        )
    return text


def _pairs(values: Mapping[str, Any]) -> str:
    if not values:
        return "Not recorded.\n"
    rows = [(str(key), formats.plain(value)) for key, value in values.items()]
    return table(("name", "value"), rows)


def _data(data: Mapping[str, Any]) -> str:
    stats = data.get("stats") or {}
    text = _pairs({key: value for key, value in data.items() if key != "stats"})
    if not stats:
        return text
    names = list(dict.fromkeys(name for split in stats.values() for name in split))
    rows = [
        (str(split), *(formats.plain(counts.get(name)) for name in names))
        for split, counts in stats.items()
    ]
    right: list[Align] = ["right"] * len(names)
    return f"{text}\n{table(('split', *names), rows, ['left', *right])}"


def _found(facts: CardFacts) -> str:
    tool = f"[tune-lora]({facts.homepage})" if facts.homepage else "tune-lora"
    name = facts.search.get("name")
    search = f" in the search {escape(str(name))}" if name else ""
    rest = {key: value for key, value in facts.search.items() if key != "name"}
    return f"Found by {tool}{search}.\n" + (f"\n{_pairs(rest)}" if rest else "")
