"""The base model: loaded and quantized once a worker, then lent to trial after trial."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..spaces import ModelBlock, SpaceError
from ..spaces.formats import CLASSIFIERS
from . import attention, nf4
from .errors import TrialError
from .precision import compute_dtype
from .products import freeze_linears
from .sources import resolve_model
from .unpacking import choose_unpacking, free_here

if TYPE_CHECKING:
    from .pack import Member

logger = logging.getLogger(__name__)

AUTO_CLASSES = {
    "CAUSAL_LM": AutoModelForCausalLM,
    "SEQ_2_SEQ_LM": AutoModelForSeq2SeqLM,
    "SEQ_CLS": AutoModelForSequenceClassification,
    "TOKEN_CLS": AutoModelForTokenClassification,
}
"""transformers' class for each of peft's task types."""


@dataclass(frozen=True)
class BaseSpec:
    """What to load; plain data, so that it can cross to a worker.

    Attributes:
        source: a folder that ``from_pretrained`` takes.
        name: what the user called the model.
        reference: what someone else would load: a hub id, or the folder.
        quantization_compute: of nf4; ``auto`` goes by the memory that is free where it is loaded.
        labels: class names, for SEQ_CLS and TOKEN_CLS.
    """

    source: str
    name: str
    reference: str = ""
    task: str = "CAUSAL_LM"
    quantization: str = "none"
    double_quant: bool = True
    quantization_compute: str = "auto"
    dtype: str = "auto"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    labels: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        block: ModelBlock,
        labels: Sequence[str] = (),
        *,
        trusted: bool = False,
        weights: bool = True,
    ) -> BaseSpec:
        """The spec of a space's model, which is found, and fetched or converted where need be.

        Args:
            block: of a space or an exported recipe.
            labels: class names, for SEQ_CLS and TOKEN_CLS.
            trusted: whether whoever runs this has said, himself, that the model's code may run.
            weights: without them it is good for ``meta_model`` and ``load_tokenizer`` only.

        Raises:
            SpaceError: the model's own code is wanted and not trusted; or see ``resolve_model``.
        """
        check_trust(block, trusted=trusted)
        found = resolve_model(block, weights=weights)
        return cls(
            source=found.folder,
            name=block.name,
            reference=found.reference,
            task=block.task,
            quantization=block.quantization,
            double_quant=block.double_quant,
            quantization_compute=block.quantization_compute,
            dtype=block.dtype,
            attn_implementation=block.attn_implementation,
            trust_remote_code=block.trust_remote_code,
            labels=tuple(labels),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "labels": list(self.labels)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BaseSpec:
        """The inverse of ``to_dict``."""
        return cls(**{**data, "labels": tuple(data["labels"])})

    def head_options(self) -> dict[str, Any]:
        """Config fields of a classification head."""
        if self.task not in CLASSIFIERS:
            return {}
        names = dict(enumerate(self.labels))
        return {
            "num_labels": len(names),
            "id2label": names,
            "label2id": {v: k for k, v in names.items()},
        }


@dataclass
class BaseModel:
    """A loaded base model with its tokenizer.

    Attributes:
        model: all parameters frozen.
        dtype: of matrix products.
        spoiled: set when a trial has changed the base weights themselves (trained biases,
            PiSSA-like initialisations); the next trial then needs a fresh one.
        fresh: modules that no checkpoint has weights for (a head for classes): they are trained
            whole and saved with each adapter.
        pack: the way to other trials on this base, for joint passes; None for a trial alone.
        bare: what has been measured of the bare model, by name; shared with whoever shares it.
    """

    spec: BaseSpec
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    spoiled: bool = False
    fresh: tuple[str, ...] = ()
    pack: Member | None = None
    bare: dict[str, float] = field(default_factory=dict)

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision as in training; does nothing for fp32."""
        enabled = self.dtype is not torch.float32
        return torch.autocast(self.device.type, self.dtype, enabled=enabled)


def check_trust(block: ModelBlock, *, trusted: bool) -> None:
    """Check that a model's own code may run, if it is wanted.

    Args:
        block: of a space or an exported recipe, which may be someone else's.
        trusted: whether whoever runs this has said so himself.

    Raises:
        SpaceError: it is wanted and not trusted.
    """
    if block.trust_remote_code and not trusted:
        rule = f"would run Python code that comes with {block.name}: say --trust-remote-code"
        raise SpaceError.single("model.trust_remote_code", True, rule)


def pick_device() -> torch.device:
    """The first GPU that this process was given (CUDA_VISIBLE_DEVICES), else the CPU.

    Of a model that is spread over several, it is where inputs go.
    """
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def device_map(gpus: int) -> str | dict[str, int | str]:
    """Where ``from_pretrained`` puts a model that has so many GPUs.

    On several, its layers are spread evenly and run one GPU after the other (accelerate's
    "balanced", https://huggingface.co/docs/accelerate/concept_guides/big_model_inference). The
    Trainer sees that from the model's ``hf_device_map`` and makes no copies of it.
    """
    if gpus > 1:
        return "balanced"
    return {"": 0 if gpus else "cpu"}


def check_on_gpus(name: str, placed: Mapping[str, Any]) -> None:
    """Check that a spread model is on GPUs as a whole: what is elsewhere has no gradients.

    Args:
        name: what the user calls the model.
        placed: its ``hf_device_map``.

    Raises:
        TrialError: the GPUs have too little room.
    """
    elsewhere = [part for part, device in placed.items() if str(device) in ("cpu", "disk")]
    if elsewhere:
        raise TrialError(
            f"{name}: does not fit onto the GPUs of a trial ({elsewhere[0]} and "
            f"{len(elsewhere) - 1} more part(s) would not be on one); give each trial more of them "
            "(resources.gpus_per_trial), or write model.quantization=nf4"
        )


def load_tokenizer(spec: BaseSpec) -> PreTrainedTokenizerBase:
    """The model's tokenizer, padding on the right, with a pad token.

    A tokenizer without one pads with its end token. That is safe here because padding is
    masked by position, never by token id.

    Raises:
        TrialError: the source has no tokenizer, or one without pad and end token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            spec.source, trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise TrialError(f"{spec.name}: no tokenizer could be loaded: {error}") from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise TrialError(f"{spec.name}: its tokenizer has neither a pad nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    if spec.task == "TOKEN_CLS":
        _space_words(tokenizer)
    return tokenizer


def _space_words(tokenizer: PreTrainedTokenizerBase) -> None:
    """Words given one by one get the space that a byte-level tokenizer has in front of a word."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and isinstance(backend.pre_tokenizer, ByteLevel):
        backend.pre_tokenizer.add_prefix_space = True
        # So that it is the same tokenizer when it is saved and loaded again.
        tokenizer.add_prefix_space = tokenizer.init_kwargs["add_prefix_space"] = True


def load_base(
    spec: BaseSpec, quantization: str | None = None, *, spread: bool = False
) -> BaseModel:
    """Load, quantize and freeze.

    4-bit weights are NF4 (QLoRA, https://arxiv.org/abs/2305.14314) through bitsandbytes, norms and
    embeddings then in fp32 (see ``nf4``). On a GPU the whole model goes to the first visible one,
    unless it is to be ``spread``.

    Args:
        spec: what to load.
        quantization: in place of ``spec.quantization`` (export merges into full precision).
        spread: over all visible GPUs, which are those of a trial (see ``device_map``).

    Raises:
        TrialError: the model cannot be loaded.
    """
    device = pick_device()
    gpus = 0 if device.type == "cpu" else torch.cuda.device_count() if spread else 1
    dtype = compute_dtype(spec.dtype, device)
    kind = spec.quantization if quantization is None else quantization
    attention.register()
    if kind == "nf4":
        nf4.plain_linears()
        unpack = _unpacks(spec, dtype, device, gpus)
    # A classification head starts random: seeded, every worker starts from the same one.
    transformers.set_seed(0)
    try:
        model, loaded = AUTO_CLASSES[spec.task].from_pretrained(
            spec.source,
            output_loading_info=True,
            **load_options(spec, kind, dtype, gpus),
            **spec.head_options(),
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise TrialError(f"{spec.name}: the model could not be loaded: {error}") from error
    if gpus:
        # Only a model that is on several devices has a map.
        check_on_gpus(spec.name, getattr(model, "hf_device_map", {}))
    if kind == "nf4":
        model = nf4.prepared(model, spec.name, unpack=unpack)
    elif getattr(model, "is_loaded_in_4bit", False):
        # Saved in 4 bits, whatever was asked for.
        nf4.never_repack(model)
    model.requires_grad_(False)
    model.eval()
    if device.type == "cpu":
        freeze_linears(model, dtype)
    tokenizer = load_tokenizer(spec)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    _stop_where_rows_end(model, tokenizer)
    anew = [*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])]
    missing = anew if spec.task in CLASSIFIERS else ()
    return BaseModel(spec, model, tokenizer, device, dtype, fresh=_fresh(model, missing))


def _fresh(model: PreTrainedModel, missing: Iterable[str]) -> tuple[str, ...]:
    """A classifier's heads, and modules (a pooler, say) that were drawn at random beside them.

    peft by itself saves modules of two names only, so that loaded again, the others would be drawn
    anew.
    """
    if not missing:
        return ()
    heads = heads_of(model)
    drawn = {key.rpartition(".")[0] for key in missing}
    return (*heads, *sorted(name for name in drawn if name.partition(".")[0] not in heads))


def heads_of(model: PreTrainedModel) -> list[str]:
    """The modules with weights that a model of a task has beside its backbone."""
    return [
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and next(child.parameters(), None) is not None
    ]


def _unpacks(spec: BaseSpec, dtype: torch.dtype, device: torch.device, gpus: int) -> bool:
    compute = spec.quantization_compute
    if compute == "auto":
        free = free_here(device) * max(1, gpus)
        chosen = choose_unpacking(meta_model(spec), dtype.itemsize, free)
        logger.info("%s: %s", spec.name, chosen.reason)
        compute = chosen.compute
    return compute == "dequantized"


def _stop_where_rows_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Generation stops at the tokenizer's end token too: rows are trained to end with it."""
    config = getattr(model, "generation_config", None)
    if config is None or tokenizer.eos_token_id is None:
        return
    known = config.eos_token_id
    ends = known if isinstance(known, list) else [known] if known is not None else []
    if tokenizer.eos_token_id not in ends:
        config.eos_token_id = [*ends, tokenizer.eos_token_id]


def load_options(
    spec: BaseSpec, quantization: str, dtype: torch.dtype, gpus: int
) -> dict[str, Any]:
    """Arguments of ``from_pretrained``, but for the source and a classification head's.

    Args:
        spec: what is loaded.
        quantization: ``nf4`` or none.
        dtype: of matrix products.
        gpus: how many it goes to; 0 for the CPU.
    """
    options: dict[str, Any] = {
        "dtype": dtype,
        "device_map": device_map(gpus),
        "trust_remote_code": spec.trust_remote_code,
    }
    if spec.task in CLASSIFIERS:
        # The head of a model that was a classifier for other classes makes way for a new one.
        options["ignore_mismatched_sizes"] = True
    if spec.attn_implementation is not None:
        options["attn_implementation"] = spec.attn_implementation
    if quantization == "nf4":
        options["quantization_config"] = nf4.quantization(spec.double_quant, dtype)
    return options


def meta_model(spec: BaseSpec) -> PreTrainedModel:
    """The model's modules without any weights (torch's meta device), to look at names and shapes.

    Raises:
        TrialError: there is no config, or none that the task's class takes.
    """
    try:
        config = AutoConfig.from_pretrained(
            spec.source, trust_remote_code=spec.trust_remote_code, **spec.head_options()
        )
        with torch.device("meta"):
            return AUTO_CLASSES[spec.task].from_config(
                config, trust_remote_code=spec.trust_remote_code
            )
    except (OSError, ValueError) as error:
        raise TrialError(f"{spec.name}: no model for {spec.task} here: {error}") from error
