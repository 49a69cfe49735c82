"""What the trial tests share: configurations, and numbers taken without the code under test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.folder import TrialFolder
from tune_lora.trainer.result import TrialResult

TRAIN: Mapping[str, Any] = {
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 3,
    "gradient_accumulation_steps": 1,
    "optim": "adamw_torch",
    "seed": 0,
}
RISING: Mapping[str, Any] = {"learning_rate": 0.1, "max_steps": 3, "eval_steps": 1}
"""With all linear modules the loss is lowest after the first step."""
EXPLODING: Mapping[str, Any] = {"learning_rate": 1e36}
"""With all linear modules the first update makes every later loss NaN."""


def make_config(
    lora: Mapping[str, Any] | None = None,
    *,
    number: int = 0,
    task: str = "CAUSAL_LM",
    rungs: tuple[int, ...] = (),
    metric: str = "eval_loss",
    measures: Mapping[str, Any] | None = None,
    **train: Any,
) -> TrialConfig:
    """Rank 4 on query and value; evaluated at ``rungs`` and the horizon."""
    fields = {**TRAIN, **train}
    return TrialConfig(
        number=number,
        task=task,
        lora={"r": 4, "lora_alpha": 8, "target_modules": "qv", **(lora or {})},
        train=fields,
        rungs=(*rungs, int(fields["max_steps"])),
        metric=metric,
        measures=measures or {},
    )


@dataclass(frozen=True)
class Outcome:
    """A trial that has ended, and its folder."""

    result: TrialResult
    folder: TrialFolder

    @property
    def losses(self) -> list[float]:
        return [evaluation.eval_loss for evaluation in self.result.evaluations]

    def rows(self, key: str) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl that have ``key``."""
        lines = self.folder.metrics.read_text(encoding="utf-8").splitlines()
        return [row for row in map(json.loads, lines) if key in row]


def go_on(result: TrialResult) -> bool:
    """A report that never stops a trial."""
    return True


def stop(result: TrialResult) -> bool:
    """A report that stops a trial at its first evaluation."""
    return False


def checksum(model: torch.nn.Module) -> str:
    """Over the names and bits of all parameters and buffers, and of what unpacks 4-bit ones."""
    digest = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        state = getattr(tensor, "quant_state", None)
        scales = state.as_dict(packed=True).values() if state is not None else ()
        digest.update(name.encode())
        for part in (tensor, *scales):
            bits = part.detach().contiguous().reshape(-1).view(torch.uint8)
            digest.update(bits.numpy().tobytes())
    return digest.hexdigest()


def row_by_row(model: Any, rows: Iterable[Mapping[str, Any]], task: str = "CAUSAL_LM") -> float:
    """The mean loss of a supervised token, each row alone: no batches, no padding."""
    total, count = 0.0, 0
    model.eval()
    for row in rows:
        logits, targets = _predictions(model, row, task)
        total += float(functional.cross_entropy(logits, targets, reduction="sum"))
        count += int((targets != -100).sum())
    return total / count


def _predictions(
    model: Any, row: Mapping[str, Any], task: str
) -> tuple[torch.Tensor, torch.Tensor]:
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
    with torch.no_grad():
        if task == "SEQ_CLS":
            return model(input_ids=ids).logits, labels
        if task == "SEQ_2_SEQ_LM":
            return model(input_ids=ids, labels=labels).logits[0], labels[0]
        if task == "TOKEN_CLS":
            return model(input_ids=ids).logits[0], labels[0]
        return model(input_ids=ids).logits[0, :-1], labels[0, 1:]


def save_untrained(model: Any, folder: Path) -> Path:
    """A plain peft adapter, its weights drawn at random, as another tool would save it."""
    from peft import LoraConfig, get_peft_model

    wanted = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False)
    get_peft_model(model, wanted).save_pretrained(str(folder))
    return folder


def greedy(model: Any, folder: Path, prompt: str) -> str:
    """Six new tokens, by hand."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    ids = tokenizer(prompt)["input_ids"]
    own = model.generation_config.eos_token_id
    ends = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    made = list(ids)
    with torch.no_grad():
        for _ in range(6):
            made.append(int(model(input_ids=torch.tensor([made])).logits[0, -1].argmax()))
            if made[-1] in ends:
                break
    return str(tokenizer.decode(made[len(ids) :], skip_special_tokens=True))
