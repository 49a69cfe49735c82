"""Trials that are cut off at a chosen moment, and all that is left of a trial to compare."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tune_lora.spaces import DataBlock, ModelBlock
from tune_lora.trainer.base import BaseModel, BaseSpec, load_base
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.data import TokenizedData, tokenize
from tune_lora.trainer.folder import TrialFolder
from tune_lora.trainer.result import TrialResult, TrialState
from tune_lora.trainer.run import run_trial

RUNGS = (2, 5, 10, 12)
"""The first epoch ends after step 8."""
TRAIN: Mapping[str, Any] = {
    "learning_rate": 2e-2,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 4,
    "max_steps": RUNGS[-1],
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "optim": "adamw_torch",
    "seed": 3,
}
CONFIG = TrialConfig(
    number=0,
    task="CAUSAL_LM",
    lora={"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "lora_dropout": 0.2},
    train=TRAIN,
    rungs=RUNGS,
)
OFTEN = replace(CONFIG, checkpoint_minutes=1e-9)
"""With a checkpoint after every step."""


class CutError(BaseException):
    """The end of the process, as far as the trial can see: nothing may catch it."""


@dataclass(frozen=True)
class CuttingFolder(TrialFolder):
    """Cuts the trial off when it has written the given line: ``key`` at ``step``."""

    key: str
    step: int

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        super().append_metrics(row)
        if self.key in row and row["step"] == self.step:
            raise CutError


def cutting(folder: TrialFolder, key: str, step: int) -> CuttingFolder:
    """The same folder, in which a trial gets no further than this."""
    return CuttingFolder(folder.root, key, step)


def cut_at(step: int) -> Callable[[TrialResult], bool]:
    """A report that cuts the trial off at the evaluation after ``step``."""

    def report(result: TrialResult) -> bool:
        if result.step == step:
            raise CutError
        return True

    return report


def go_on(result: TrialResult) -> bool:
    """A report that never stops a trial."""
    return True


@dataclass(frozen=True)
class Left:
    """What a trial that has ended leaves behind."""

    result: TrialResult
    folder: TrialFolder

    @property
    def lines(self) -> list[dict[str, Any]]:
        """metrics.jsonl, without what depends on the clock."""
        text = self.folder.metrics.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        return [{key: row[key] for key in row if key != "seconds"} for row in rows]

    @property
    def weights(self) -> dict[str, Any]:
        return dict(load_file(self.folder.adapter / "adapter_model.safetensors"))

    def same_as(self, other: Left) -> None:
        """Fail unless the two are equal in all that a clock does not change."""
        assert self.result.state is TrialState.COMPLETE, self.result.error
        assert self.lines == other.lines
        ours, theirs = self.result, other.result
        assert [(e.step, e.eval_loss) for e in ours.evaluations] == [
            (e.step, e.eval_loss) for e in theirs.evaluations
        ]
        for name in ("score", "best_step", "step", "tokens", "micro_batch", "state"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert all((self.weights[key] == value).all() for key, value in other.weights.items())
        assert sorted(self.weights) == sorted(other.weights)
        kept = {path.name for path in self.folder.root.iterdir()}
        assert kept == {"adapter", "metrics.jsonl"}


def load_tiny(folder: Path) -> BaseModel:
    """The model at ``folder`` in fp32."""
    block = {"name": str(folder), "quantization": "none", "dtype": "fp32"}
    return load_base(BaseSpec.of(ModelBlock.model_validate(block)))


def tokenized(pairs: Path, base: BaseModel) -> TokenizedData:
    """The rows of a jsonl file."""
    return tokenize(DataBlock(train=str(pairs), max_length=128), "CAUSAL_LM", base.tokenizer)


def resumed(folder: TrialFolder, base: BaseModel, rows: TokenizedData, **options: Any) -> Left:
    """Begin, or go on with, the trial in ``folder``."""
    config = options.pop("config", CONFIG)
    report = options.pop("report", go_on)
    result = run_trial(config, base, rows, report, folder, resume=True, **options)
    return Left(result, folder)
