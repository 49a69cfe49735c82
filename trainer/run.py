"""``run_trial``: one configuration, trained and scored. It knows nothing of Ray."""

from __future__ import annotations

import shutil
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from .adapter import attached, save_adapter
from .base import BaseModel
from .config import TrialConfig
from .data import TokenizedData
from .folder import TrialFolder
from .precision import training_flags
from .recorder import Recorder, Report
from .result import BaseScore, TrialResult, TrialState
from .score import collator, score
from .tracking import Tracker

_OWN_KEYS = {"early_stopping_patience", "early_stopping_threshold", "eval_steps"}
"""Fields of a space's ``train`` block that the harness itself acts on."""


def run_trial(
    config: TrialConfig,
    base: BaseModel,
    data: TokenizedData,
    report: Report,
    folder: TrialFolder,
    tracker: Tracker | None = None,
) -> TrialResult:
    """Train one configuration to its horizon, or until ``report`` says stop.

    The same config on the same base and data gives the same losses again.

    Args:
        config: what to train.
        base: lent; it is bare again afterwards (see ``BaseModel.spoiled``).
        data: the search's splits.
        report: called at every evaluation before the horizon.
        folder: receives metrics and the best adapter.
        tracker: sees every log line.

    Returns:
        The result in its final state. A trial that fails is a result, never an exception:
        FAILED with its traceback, OUT_OF_MEMORY, or DIVERGED.
    """
    folder.clear()
    recorder = Recorder(config, folder, report, tracker)
    try:
        set_seed(int(config.train["seed"]))
        with attached(base, config) as model:
            recorder.save = lambda: save_adapter(model, folder.adapter)
            recorder.parameters(*model.get_nb_trainable_parameters())
            _train(model, config, base, data, recorder, folder)
        return recorder.finished()
    except (MemoryError, torch.OutOfMemoryError):
        return recorder.finished(TrialState.OUT_OF_MEMORY, traceback.format_exc())
    except Exception as error:
        # torch's CPU allocator has no exception of its own.
        out_of_memory = "DefaultCPUAllocator" in str(error)
        state = TrialState.OUT_OF_MEMORY if out_of_memory else TrialState.FAILED
        return recorder.finished(state, traceback.format_exc())
    finally:
        shutil.rmtree(folder.scratch, ignore_errors=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def score_base(base: BaseModel, data: TokenizedData, batch_size: int) -> BaseScore:
    """The untouched base model on the validation rows."""
    start = time.perf_counter()
    loss, count = score_on(base.model, base, data.validation, batch_size)
    return BaseScore(loss, len(data.validation), count, time.perf_counter() - start)


def score_on(model: Any, base: BaseModel, rows: Any, batch_size: int) -> tuple[float, int]:
    """``score`` in the precision of ``base``, whose model ``model`` is or wears."""
    return score(
        model,
        rows,
        collator(base.tokenizer, base.spec.task),
        base.spec.task,
        batch_size=batch_size,
        autocast=base.autocast(),
    )


def training_arguments(config: TrialConfig, base: BaseModel, scratch: Path) -> TrainingArguments:
    """The space's ``train`` fields and what the harness sets itself.

    Evaluation, saving and reporting are ours (rungs, best adapter, trackers), so the Trainer's
    own are off. The learning-rate schedule always spans ``max_steps``.
    """
    fields = {key: value for key, value in config.train.items() if key not in _OWN_KEYS}
    flags = training_flags(base.dtype, base.device, fields)
    for flag in ("bf16", "fp16", "tf32"):
        fields.pop(flag, None)
    if fields.get("gradient_checkpointing"):
        # The re-entrant kind needs inputs that require gradients, which a frozen base lacks.
        fields.setdefault("gradient_checkpointing_kwargs", {"use_reentrant": False})
    return TrainingArguments(
        output_dir=str(scratch),
        report_to="none",
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        remove_unused_columns=False,
        include_num_input_tokens_seen="non_padding",
        dataloader_pin_memory=base.device.type == "cuda",
        use_cpu=base.device.type == "cpu",
        **flags,
        **fields,
    )


def _train(
    model: PeftModel,
    config: TrialConfig,
    base: BaseModel,
    data: TokenizedData,
    recorder: Recorder,
    folder: TrialFolder,
) -> None:
    trainer = TrialTrainer(
        base=base,
        model=model,
        args=training_arguments(config, base, folder.scratch),
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=collator(base.tokenizer, config.task),
        callbacks=[_Rungs(config, recorder)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


class TrialTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer with an evaluation that is weighted by token (see ``score``)."""

    control: TrainerControl

    def __init__(self, *, base: BaseModel, **options: Any) -> None:
        super().__init__(**options)
        self._base = base

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Mean loss of a supervised token over the validation rows, as ``eval_loss``."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        loss, _ = score_on(self.model, self._base, rows, self.args.per_device_eval_batch_size)
        metrics = {f"{metric_key_prefix}_loss": loss}
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


class _Rungs(TrainerCallback):  # type: ignore[misc]
    """Evaluates at the rungs and tells the recorder what happens."""

    def __init__(self, config: TrialConfig, recorder: Recorder) -> None:
        self._rungs = set(config.rungs)
        self._every: int | None = config.train.get("eval_steps")
        self._recorder = recorder
        self._began = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._began = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        step: int = state.global_step
        seen = int(state.num_input_tokens_seen or 0)
        self._recorder.stepped(step, seen, time.perf_counter() - self._began)
        extra = self._every is not None and step % self._every == 0
        control.should_evaluate = step in self._rungs or extra

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if logs and "loss" in logs:
            shown: tuple[str, ...] = ("loss", "grad_norm", "learning_rate")
            row = {key: logs[key] for key in shown if key in logs}
            self._recorder.logged(state.global_step, row)
            if self._recorder.stopped:
                control.should_training_stop, control.should_evaluate = True, False

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        self._recorder.evaluated(state.global_step, metrics["eval_loss"])
        control.should_training_stop |= self._recorder.stopped
