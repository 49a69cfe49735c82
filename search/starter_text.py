"""The text of a first space file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from ..reports.formats import printable
from ..spaces.formats import CLASSIFIERS
from .columns import Recognised

_EFFECTIVE = 16
"""Rows an optimizer step, in the measurements that the defaults go by."""
_SMALL, _FEW_STEPS, _MOST_STEPS = 1000, 20, 1000
_SMALL_MODEL = 500_000_000
_EPOCHS = 3
"""Passes over a small data set within the horizon."""
TRIALS = 16


@dataclass(frozen=True)
class Facts:
    """What a space file is made from.

    Attributes:
        model: as ``model.name`` takes it.
        kind: its ``model_type``.
        data: as ``data.train`` takes it.
        rows: of the data.
        form: its format and the model's task.
        tokens: that a row may have.
        cut: share of rows that are longer.
        parameters: of the model.
        batch: rows a pass.
        checkpointing: whether activations are computed again in the backward pass.
        trusted: whether the model's own code may run.
    """

    model: str
    kind: str
    data: str
    rows: int
    form: Recognised
    tokens: int
    cut: float
    parameters: int = 0
    batch: int = 1
    checkpointing: bool = True
    trusted: bool = False

    @property
    def steps(self) -> int:
        """The horizon, in optimizer steps."""
        wanted = math.ceil(round(_EPOCHS * 0.8 * self.rows / self.effective, 6))
        return max(_FEW_STEPS, min(_MOST_STEPS, wanted))

    @property
    def effective(self) -> int:
        """Rows an optimizer step: no more than an eighth of a tiny data set."""
        most = max(1, self.rows // 8)
        return next(n for n in (_EFFECTIVE, 8, 4, 2, 1) if n <= most)

    @property
    def quantization(self) -> str:
        """4 bits, except for encoders and T5s that are small enough to stay as they are."""
        causal = self.form.task == "CAUSAL_LM"
        return "nf4" if causal or self.parameters > _SMALL_MODEL else "none"


def space_text(facts: Facts) -> str:
    """A space file, with comments."""
    fields = "".join(f", {role}: {_quoted(name)}" for role, name in facts.form.fields.items())
    fields = f"\n  fields: {{{fields.removeprefix(', ')}}}" if fields else ""
    small, grace = facts.rows < _SMALL, max(1, facts.steps // 9)
    dropout = "{choice: [0.0, 0.05, 0.1]}   # so few rows are soon learned by heart"
    cut = f"the 99th percentile: {facts.cut:.1%} of rows are longer" if facts.cut else "the longest"
    return f"""\
# {facts.kind} with LoRA on {printable(facts.data.rpartition("/")[2])}, made by tune-lora init.
#
#   tune-lora plan THIS_FILE      what it will need, and what fits this machine
#   tune-lora search THIS_FILE

model:
  name: {_quoted(facts.model)}
  task: {facts.form.task}
  # nf4 keeps the frozen base in 4 bits (QLoRA); none in the dtype of the computation.
  quantization: {facts.quantization}{_dtype(facts)}{_trust(facts)}

data:
  train: {_quoted(facts.data)}
  format: {facts.form.format}{fields}
  max_length: {facts.tokens}      # {cut}; memory and time grow with it
  validation: 0.1      # shares of the {facts.rows} rows; trials are compared on these
  test: 0.1
  limit: {{validation: 256}}      # more rows judge better, and every evaluation takes longer

lora:
  # In published runs a higher rank was never worse by more than noise, and matters about five
  # times less than the learning rate.
  r: {{choice: [8, 16, 32, 64]}}
  # Alpha as a multiple of r keeps the update's scale alpha / r, whatever r is.
  lora_alpha: {{ratio_of: r, choice: [1, 2]}}
  target_modules: {{choice: [qv, attention, mlp, all-linear]}}
  lora_dropout: {dropout if small else "0.0"}

train:
  # Matters most; in published runs the best lay between 2e-4 and 1e-3, and 3e-3 diverged.
  learning_rate: {{log_uniform: [3.0e-5, 2.0e-3]}}
  max_steps: {facts.steps}      # every trial's horizon: {_passes(facts)} of the training rows
  per_device_train_batch_size: {facts.batch}      # what fits this machine
  gradient_accumulation_steps: {facts.effective // facts.batch}      # {facts.effective} rows a step
  gradient_checkpointing: {str(facts.checkpointing).lower()}      # true: less memory, more time
  lr_scheduler_type: cosine
  warmup_steps: 0.03      # a share of max_steps

search:
  trials: {TRIALS}
  # One trial in three goes on after each of these; more grace judges later and costs more.
  scheduler: {{asha: {{grace_steps: {grace}, reduction_factor: 3}}}}{_metrics(facts)}
"""


def _dtype(facts: Facts) -> str:
    wide = facts.kind in ("t5", "mt5", "umt5") and facts.quantization == "none"
    return (
        "\n  dtype: fp32          # T5 was trained in bfloat16 and overflows in fp16"
        if wide
        else ""
    )


def _trust(facts: Facts) -> str:
    return (
        "\n  trust_remote_code: true      # runs Python code of the model's"
        if facts.trusted
        else ""
    )


def _metrics(facts: Facts) -> str:
    if facts.form.task not in CLASSIFIERS:
        return ""
    return "\n  metrics: [accuracy, f1]      # shown; as search.metric, one of them decides"


def _passes(facts: Facts) -> str:
    found = facts.steps * facts.effective / max(1.0, 0.8 * facts.rows)
    return f"{found:.1f} passes"


def _quoted(text: str) -> str:
    """A YAML string in double quotes."""
    return json.dumps(text, ensure_ascii=False)
