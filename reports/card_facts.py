"""``CardFacts``: what a model card says, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..spaces.metrics import LOSS

AUTO_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
}
"""Name of transformers' class for each of peft's task types."""

_QUANTIZATIONS = ("none", "nf4")


@dataclass(frozen=True)
class CardScores:
    """Losses on the validation rows, in nats, and further metrics; None for what was not measured.

    Attributes:
        eval_loss: the trial's best evaluation, of which this is the adapter.
        step: its optimizer step.
        horizon: optimizer steps that the trial was planned for.
        reloaded: scored again from the exported files.
        merged: scored after the adapter was added into the base weights.
        nf4: of the merged model in 4 bits.
        gguf: of the merged model as a GGUF file.
        expected: what trials were judged by (``CardFacts.metric``), its mean over fresh seeds.
        base: of the untouched base model.
        default: of the default configuration.
        further: by name, what else was measured of the adapter, the base model and the default
            configuration.
    """

    eval_loss: float
    step: int | None = None
    horizon: int | None = None
    reloaded: float | None = None
    merged: float | None = None
    nf4: float | None = None
    gguf: float | None = None
    expected: float | None = None
    base: float | None = None
    default: float | None = None
    further: Mapping[str, tuple[float | None, float | None, float | None]] = field(
        default_factory=dict
    )


@dataclass(frozen=True)
class CardFacts:
    """All that a card says, as plain data.

    Attributes:
        name: hub id or folder of the adapter, as code should load it.
        base_model: hub id or folder of the base model, as code should load it.
        task: peft's task type: CAUSAL_LM, SEQ_2_SEQ_LM, SEQ_CLS or TOKEN_CLS.
        scores: see ``CardScores``.
        quantization: of the base during training: ``none`` or ``nf4``.
        double_quant: whether nf4's own constants were quantized too.
        dtype: ``fp32``, ``fp16`` or ``bf16``; anything else loads as ``auto``.
        merged: whether the merged model was exported too.
        nf4: whether the merged model was exported in 4 bits too.
        gguf: the GGUF file's name; empty if there is none.
        on_hub: whether ``name`` is a hub id.
        lora: fields of peft's ``LoraConfig``.
        train: fields of transformers' ``TrainingArguments``.
        data: ``source``, ``fingerprint`` and ``stats`` (by split), as in ``run.json``.
        versions: by distribution.
        search: how it was found, by heading; ``name`` is the search's.
        labels: class names in order, for SEQ_CLS and TOKEN_CLS.
        prompt: what the code to load it runs the model on.
        homepage: where the word tune-lora links to; no link if empty.

    Raises:
        ValueError: an unknown task or quantization.
    """

    name: str
    base_model: str
    task: str
    scores: CardScores
    quantization: str = "none"
    double_quant: bool = True
    dtype: str = "auto"
    merged: bool = False
    nf4: bool = False
    gguf: str = ""
    on_hub: bool = False
    lora: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    prompt: str = "Hello"
    homepage: str = ""

    @property
    def metric(self) -> str:
        """What trials were judged by."""
        return str(self.search.get("metric", LOSS))

    def __post_init__(self) -> None:
        for key, value, valid in (
            ("task", self.task, tuple(AUTO_CLASSES)),
            ("quantization", self.quantization, _QUANTIZATIONS),
        ):
            if value not in valid:
                raise ValueError(f"{key}: {value!r}: must be one of {', '.join(valid)}")
