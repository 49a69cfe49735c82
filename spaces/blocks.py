"""The blocks of a space file and what each of their keys means.

`model`, `data`, `search`, `resources` and `tracking` have fixed keys; `lora` and `train` hold
whatever keys peft and transformers know, each a constant or a domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from .domains import Value
from .fixed import Block, Count, Name, Share, without_password
from .metrics import MetricName, Objective
from .schedulers import AshaScheduler, Scheduler


class ModelBlock(Block):
    """The base model and how it is loaded."""

    name: Name
    """Hub id, local folder, *.gguf file, or `package:DIST/path` inside a Python package."""
    offline: Name | None = None
    """Another source of a model, used when the hub cannot be reached."""
    task: Literal["CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS"] = "CAUSAL_LM"
    """Kind of model, in peft's words."""
    quantization: Literal["none", "nf4"] = "nf4"
    """`nf4` keeps the frozen base in 4 bits (QLoRA); `none` in `dtype`."""
    double_quant: bool = True
    """Quantize the quantization constants too: about 0.4 bits less a weight."""
    quantization_compute: Literal["auto", "dequantized", "bitsandbytes"] = "auto"
    """`dequantized` unpacks nf4 weights once: the same numbers, faster, for more memory;
    `bitsandbytes` at each use; `auto` unpacks where memory allows."""
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Precision of the computation; `auto` takes the best that the device has."""
    attn_implementation: Name | None = None
    """As transformers' from_pretrained takes it, e.g. sdpa."""
    revision: Name | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models you trust."""
    num_labels: Annotated[int, Field(ge=2)] | None = None
    """Number of classes (SEQ_CLS, TOKEN_CLS); null counts those of the data."""


class Limits(Block):
    """At most so many rows of each split; null takes all."""

    train: Count | None = None
    """Rows to train on."""
    validation: Count | None = None
    """Rows that trials are compared on."""
    test: Count | None = None
    """Rows that only the best trials are scored on."""


class GeneralBlock(Block):
    """A text from elsewhere, by which it is measured what a model forgets."""

    source: Name
    """Hub id, jsonl, csv or parquet file, folder, `package:DIST/path`."""
    column: Name = "text"
    """Column that holds the text."""
    rows: Count = 64
    """Rows, the first that are not empty, each cut at data.max_length."""


def _spelled_out(value: Any) -> Any:
    """A source alone is one with defaults."""
    return {"source": value} if isinstance(value, str) else value


class DataBlock(Block):
    """The data and how it becomes examples."""

    train: Name
    """Hub id, jsonl, csv or parquet file, folder, `package:DIST/path`, `builtin:extraction`."""
    validation: Annotated[float, Field(gt=0, lt=1)] | Name = 0.1
    """Share split off the training rows, or a source of its own."""
    test: Share | Name = 0.1
    """Share split off the training rows (0 for none), or a source of its own."""
    format: Literal[
        "instruction",
        "chat",
        "completion",
        "text",
        "seq2seq",
        "classification",
        "token_classification",
    ] = "instruction"
    """What a row is. `instruction`, `chat` (by the tokenizer's own template) and `completion` train
    on the answers only, `text` on everything; the others each need a model.task of their own."""
    template: Name | None = None
    """Prompt with {instruction} and optionally {input}; null takes the built-in one."""
    fields: dict[str, Name] = Field(default_factory=dict)
    """Column of each role, where it has another name: instruction, input, response; messages;
    prompt, completion; text; source, target; text, label; tokens, tags."""
    max_length: Annotated[int, Field(ge=8)] = 512
    """Tokens of an example at most, prompt and response together; longer ones are cut."""
    duplicates: Literal["refuse", "drop", "allow"] = "refuse"
    """Rows that are in two splits: `refuse` them, or `drop` all copies but one, which is kept for
    test, else for validation. Copies in one source go into the same split unless `allow`ed."""
    limit: Limits = Field(default_factory=Limits)
    """At most so many rows of each split."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split."""
    general: Annotated[
        GeneralBlock | None,
        BeforeValidator(_spelled_out, json_schema_input_type=Name | GeneralBlock | None),
    ] = None
    """General text that no trial learns: what the base's loss on it rises by is `forgetting`."""


class WandbTracking(Block):
    """Weights & Biases: one run a trial, grouped by search."""

    project: Name = "tune-lora"
    """Project that the runs go to."""
    entity: Name | None = None
    """User or team; null takes the default of the account."""
    mode: Literal["auto", "online", "offline"] = "auto"
    """`auto` is online if the account is logged in; offline runs are kept for `wandb sync`."""
    adapter: bool = True
    """Keep the best adapter as an artifact of its trial's run, once the search has ended."""


class TensorboardTracking(Block):
    """TensorBoard: event files in the run folder, with hyperparameters."""


class MlflowTracking(Block):
    """MLflow: one run a search, with a nested one a trial."""

    tracking_uri: Annotated[Name, AfterValidator(without_password)] | None = None
    """Server or store; null keeps an SQLite file in the run folder."""
    experiment: Name = "tune-lora"
    """Experiment that the runs belong to."""
    adapter: bool = True
    """Keep the best adapter as an artifact of its trial's run, once the search has ended."""


class TrackingBlock(Block):
    """Where else the trials' metrics go: a word, a list of words, or words with settings."""

    wandb: WandbTracking | None = None
    """Weights & Biases."""
    tensorboard: TensorboardTracking | None = None
    """TensorBoard."""
    mlflow: MlflowTracking | None = None
    """MLflow."""

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, raw: Any) -> Any:
        if raw is None or raw == "none":
            return {}
        words = [raw] if isinstance(raw, str) else raw
        if isinstance(words, list):
            known = tuple(cls.model_fields)
            if not all(isinstance(word, str) and word in known for word in words):
                expected = ", ".join(f"'{word}'" for word in (*known, "none"))
                raise PydanticCustomError("unknown_word", "unknown", {"expected": expected})
            return {word: {} for word in words}
        if isinstance(raw, dict):
            return {word: {} if given is None else given for word, given in raw.items()}
        return raw

    def chosen(self) -> dict[str, Any]:
        """The settings of each tracker that is wanted, by its word, as plain data."""
        return {
            word: settings for word, settings in self.model_dump().items() if settings is not None
        }


TRACKERS: Final = tuple(TrackingBlock.model_fields)
"""The trackers' words in a space file."""


class GenerationBlock(Block):
    """What metrics of answers may cost."""

    rows: Count = 64
    """Validation rows, the first, that are answered at each evaluation."""
    max_new_tokens: Count = 128
    """Tokens of an answer at most."""
    batch_size: Count = 8
    """Rows that are answered at a time."""


class ConfirmBlock(Block):
    """The best configurations, trained again on fresh seeds once the search has ended."""

    top: Count = 3
    """How many configurations."""
    seeds: Annotated[int, Field(ge=2)] = 3
    """Seeds that each is trained with, to its horizon."""


class SearchBlock(Block):
    """How many trials, and how they are drawn and stopped."""

    trials: Count = 16
    """Trials in all, the baseline included."""
    metric: Objective = "eval_loss"
    """What trials are ranked by: `eval_loss`, `perplexity`, `exact_match`, `bleu`, `rouge1`,
    `rouge2`, `rougeL`, `json_valid`, `json_f1`, `accuracy`, `f1`, `forgetting`,
    `general_loss`, or your own `module:function`. A list of two or three, which may name
    `parameters`, `seconds` and `memory` behind the first, ranks by Pareto fronts."""
    metrics: list[MetricName] = Field(default_factory=list)
    """What else is measured at each evaluation, and shown."""
    generation: GenerationBlock = Field(default_factory=GenerationBlock)
    """How many answers such metrics are of, and how long these may be."""
    sampler: Literal["tpe", "gp", "cmaes", "random", "grid", "qmc"] = "tpe"
    """`tpe`, `gp` and `cmaes` learn from the trials so far; `grid` tries every combination."""
    scheduler: Scheduler = Field(default_factory=AshaScheduler)
    """`asha`, `hyperband` and `median` end poor trials early, `pbt` lets them take over from good
    ones; `none` trains each to max_steps."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of the sampler."""
    time_limit_minutes: Annotated[float, Field(gt=0)] | None = None
    """Start no trial, and end the search, after so many minutes."""
    keep_adapters: Count = 3
    """How many of the best trials keep their weights."""
    priors: bool = True
    """Begin with configurations that published measurements speak for."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    """At most between two checkpoints of a trial; every evaluation makes one too."""
    retries: Annotated[int, Field(ge=0)] = 3
    """How often a trial whose worker died is taken up again."""
    pack: Count | Literal["auto"] = "auto"
    """Trials that a worker (a GPU) trains in one pass; `auto` measures whether that is faster."""
    confirm: ConfirmBlock | None = None
    """Train the best again on fresh seeds, and rank them by what that gives; null does not."""
    baseline: bool = True
    """Run a published default configuration as trial 0, to have something to beat."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """What trials are ranked by; the first alone decides while they train."""
        return (self.metric,) if isinstance(self.metric, str) else tuple(self.metric)


class ResourcesBlock(Block):
    """What each trial gets of the machine."""

    workers: Count | Literal["auto"] = "auto"
    """Trials at a time; `auto` fits them to the devices and their memory."""
    threads: Count | Literal["auto"] = "auto"
    """CPU threads a worker; `auto` shares the cores out."""
    gpus_per_trial: Annotated[float, Field(gt=0)] = 1.0
    """GPUs a worker on a machine that has any; 0.5 puts two on one, each with a base of its own;
    2 spreads a base over both."""


@dataclass(frozen=True)
class ValueBlock:
    """A block whose keys are another library's fields.

    Attributes:
        values: Constants and domains by field name, the schema's defaults filled in.
    """

    values: Mapping[str, Value] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str, default: Value = None) -> Value:
        """The value of a field, or `default` if neither file nor schema gives one."""
        return self.values.get(name, default)


@dataclass(frozen=True)
class LoraBlock(ValueBlock):
    """Fields of peft's LoraConfig; `target_modules` may name a preset."""


@dataclass(frozen=True)
class TrainBlock(ValueBlock):
    """Fields of transformers' TrainingArguments, and the early-stopping keys."""

    @property
    def max_steps(self) -> int:
        """The horizon of every trial, in optimizer steps."""
        return cast(int, self.values["max_steps"])
