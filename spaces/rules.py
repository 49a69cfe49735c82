"""What the schema knows of single keys beyond their types: defaults, bounds, reserved names.

Bounds hold alike for a constant, for every option of a choice and for both ends of a range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .domains import Constant

TARGET_PRESETS: Final = ("qv", "attention", "mlp", "all-linear")
TARGET_PARTS: Final = ("encoder", "decoder")
"""Of an encoder-decoder; each alone, or with a preset, as in `decoder.attention`."""
TARGET_WORDS: Final = (
    *TARGET_PRESETS,
    *TARGET_PARTS,
    *(f"{part}.{preset}" for part in TARGET_PARTS for preset in TARGET_PRESETS),
)

LORA_DEFAULTS: Final[Mapping[str, Constant]] = {
    "r": 16,
    "lora_alpha": 32,
    "target_modules": "all-linear",
    "lora_dropout": 0.0,
}
TRAIN_DEFAULTS: Final[Mapping[str, Constant]] = {
    "learning_rate": 2e-4,
    "max_steps": 200,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "per_device_eval_batch_size": 8,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "optim": "paged_adamw_8bit",
    "gradient_checkpointing": True,
    "seed": 0,
}

# Every trial of a search must agree on these, or its trials could not be compared.
CONSTANT_ONLY: Final = frozenset(
    {"train.max_steps", "train.eval_steps", "train.seed", "train.data_seed"}
)


@dataclass(frozen=True)
class Bounds:
    """The interval that a number must lie in; an open end leaves its bound out."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def holds(self, number: float) -> bool:
        """Whether the number lies in the interval."""
        above = number > self.low if self.low_open else number >= self.low
        below = number < self.high if self.high_open else number <= self.high
        return above and below

    def describe(self) -> str:
        """The interval in words."""
        parts = []
        if self.low > -math.inf:
            parts.append(f"{'above' if self.low_open else 'at least'} {self.low:g}")
        if self.high < math.inf:
            parts.append(f"{'below' if self.high_open else 'at most'} {self.high:g}")
        return "must be " + " and ".join(parts)

    def json_schema(self) -> dict[str, object]:
        """The interval in JSON Schema's keywords."""
        found: dict[str, object] = {}
        if self.low > -math.inf:
            found["exclusiveMinimum" if self.low_open else "minimum"] = self.low
        if self.high < math.inf:
            found["exclusiveMaximum" if self.high_open else "maximum"] = self.high
        return found


_POSITIVE: Final = Bounds(low=0, low_open=True)
_NOT_NEGATIVE: Final = Bounds(low=0)
_FROM_ONE: Final = Bounds(low=1)
_SHARE: Final = Bounds(low=0, high=1, high_open=True)
_SEED: Final = Bounds(low=0, high=2**32 - 1)  # what numpy takes

BOUNDS: Final[Mapping[str, Bounds]] = {
    "lora.r": _FROM_ONE,
    "lora.lora_alpha": _POSITIVE,
    "lora.lora_dropout": _SHARE,
    "lora.qalora_group_size": _FROM_ONE,
    "train.learning_rate": _POSITIVE,
    "train.max_steps": _FROM_ONE,
    "train.eval_steps": _FROM_ONE,
    "train.per_device_train_batch_size": _FROM_ONE,
    "train.per_device_eval_batch_size": _FROM_ONE,
    "train.gradient_accumulation_steps": _FROM_ONE,
    "train.eval_accumulation_steps": _FROM_ONE,
    "train.weight_decay": _NOT_NEGATIVE,
    "train.warmup_steps": _NOT_NEGATIVE,
    "train.warmup_ratio": _SHARE,
    "train.max_grad_norm": _NOT_NEGATIVE,
    "train.adam_beta1": _SHARE,
    "train.adam_beta2": _SHARE,
    "train.adam_epsilon": _POSITIVE,
    "train.label_smoothing_factor": _SHARE,
    "train.neftune_noise_alpha": _NOT_NEGATIVE,
    "train.dataloader_num_workers": _NOT_NEGATIVE,
    "train.early_stopping_patience": _FROM_ONE,
    "train.loraplus_lr_ratio": _FROM_ONE,
    "train.early_stopping_threshold": _NOT_NEGATIVE,
    "train.seed": _SEED,
    "train.data_seed": _SEED,
}

_RUNGS: Final = "is set by the harness: every trial is evaluated and saved at its rungs"
_TRACKING: Final = "is set by the harness: write tracking instead"
_RUN: Final = "is set by the harness: it trains, evaluates and resumes every trial itself"
_HUB: Final = "is set by the harness: trials are not pushed; push the exported adapter"
_LOGGING: Final = "is set by the harness: it logs every trial into the run folder"
_ONE_DEVICE: Final = "is not supported: a trial runs in one process on its own device"
_ADAPTER: Final = "is set by the harness"

RESERVED: Final[Mapping[str, str]] = {
    "lora.task_type": f"{_ADAPTER}: write model.task",
    "lora.base_model_name_or_path": f"{_ADAPTER}: write model.name",
    "lora.revision": f"{_ADAPTER}: write model.revision",
    "lora.peft_type": f"{_ADAPTER}: it is always LORA",
    "lora.peft_version": f"{_ADAPTER}: peft fills it in",
    "lora.auto_mapping": f"{_ADAPTER}: write model.task",
    "lora.inference_mode": f"{_ADAPTER}: a trial trains",
    "train.num_train_epochs": "has no place in a search: write train.max_steps, "
    "for every trial has the same horizon",
    "train.output_dir": "is set by the harness: it keeps each trial in the run folder",
    "train.report_to": _TRACKING,
    "train.run_name": _TRACKING,
    "train.project": "is set by the harness: write tracking.wandb.project",
    "train.eval_strategy": f"{_RUNGS}; train.eval_steps adds evaluations between them",
    "train.eval_delay": _RUNGS,
    "train.load_best_model_at_end": f"{_RUNGS}, and the best evaluation's adapter is the trial's",
    "train.metric_for_best_model": "is set by the harness: write search.metric",
    "train.greater_is_better": "is set by the harness: write search.metric",
    "train.resume_from_checkpoint": _RUN,
    "train.ignore_data_skip": f"{_RUN}, with the data in the same order",
    "train.restore_callback_states_from_checkpoint": _RUN,
    "train.auto_find_batch_size": "is set by the harness: after running out of memory it halves "
    "the micro-batch and doubles the accumulation",
    "train.remove_unused_columns": "is set by the harness: it tokenizes the data itself",
    "train.label_names": "is set by the harness: it tokenizes the data itself",
    "train.disable_tqdm": _LOGGING,
    "train.local_rank": _ONE_DEVICE,
    "train.deepspeed": _ONE_DEVICE,
    "train.fsdp": _ONE_DEVICE,
    "train.fsdp_config": _ONE_DEVICE,
    "train.parallelism_config": _ONE_DEVICE,
}
_RESERVED_PREFIXES: Final[Mapping[str, str]] = {
    "train.save_": _RUNGS,
    "train.logging_": _LOGGING,
    "train.log_": _LOGGING,
    "train.do_": _RUN,
    "train.push_to_hub": _HUB,
    "train.hub_": _HUB,
    "train.trackio_": _TRACKING,
}

# Keys that an installed version no longer has, and what took their place.
RENAMED: Final[Mapping[str, str]] = {
    "train.warmup_ratio": "is gone from transformers: write train.warmup_steps, of which a "
    "number below 1 is a share of max_steps",
    "train.evaluation_strategy": _RUNGS,
    "train.no_cuda": "is gone from transformers: write train.use_cpu",
    "train.group_by_length": "is gone from transformers: write train.train_sampling_strategy",
}

# What people call these keys elsewhere.
SYNONYMS: Final[Mapping[str, str]] = {
    "lr": "train.learning_rate",
    "steps": "train.max_steps",
    "epochs": "train.max_steps",
    "batch_size": "train.per_device_train_batch_size",
    "train_batch_size": "train.per_device_train_batch_size",
    "micro_batch_size": "train.per_device_train_batch_size",
    "eval_batch_size": "train.per_device_eval_batch_size",
    "grad_accum": "train.gradient_accumulation_steps",
    "optimizer": "train.optim",
    "warmup": "train.warmup_steps",
    "scheduler_type": "train.lr_scheduler_type",
    "rank": "lora.r",
    "lora_r": "lora.r",
    "alpha": "lora.lora_alpha",
    "dropout": "lora.lora_dropout",
    "targets": "lora.target_modules",
    "modules": "lora.target_modules",
    "dora": "lora.use_dora",
    "rslora": "lora.use_rslora",
    "loraplus": "train.loraplus_lr_ratio",
    "dataset": "data.train",
    "cutoff_len": "data.max_length",
    "max_seq_length": "data.max_length",
    "base_model": "model.name",
    "load_in_4bit": "model.quantization",
    "num_trials": "search.trials",
    "n_trials": "search.trials",
    "num_samples": "search.trials",
    "timeout": "search.time_limit_minutes",
    "wandb": "tracking.wandb",
    "tensorboard": "tracking.tensorboard",
    "mlflow": "tracking.mlflow",
}


def reserved(key: str) -> str | None:
    """Why a dotted key may not be given, and what to write instead; None if it may."""
    if key in RESERVED:
        return RESERVED[key]
    for prefix, reason in _RESERVED_PREFIXES.items():
        if key.startswith(prefix):
            return reason
    return None
