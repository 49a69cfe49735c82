"""``run_trial``: one configuration, trained and scored. It knows nothing of Ray."""

from __future__ import annotations

import logging
import math
import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
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
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..spaces.metrics import FORGETTING, LOSS
from .adapter import attached, fits, load_saved, save_adapter
from .base import BaseModel
from .batches import EpochSampler
from .checkpoint import Checkpoint, find, seal
from .config import TrialConfig
from .data import TokenizedData
from .errors import DiskFullError
from .folder import TrialFolder, disk_full
from .forgetting import after, before, of_base
from .inherit import come_into
from .joint import Request
from .loraplus import loraplus_optimizer
from .loss import gathers, supervised_loss
from .memory import out_of_memory
from .metrics import Measures, measured
from .precision import training_flags
from .recorder import Recorder, Report
from .result import BaseScore, TrialResult, TrialState
from .score import collator, score_on

logger = logging.getLogger(__name__)

_OWN_KEYS = {
    "early_stopping_patience",
    "early_stopping_threshold",
    "eval_steps",
    "loraplus_lr_ratio",
}
"""Fields of a space's ``train`` block that the harness itself acts on."""


def run_trial(
    config: TrialConfig,
    base: BaseModel,
    data: TokenizedData,
    report: Report,
    folder: TrialFolder,
    *,
    resume: bool = False,
    test: bool = False,
) -> TrialResult:
    """Train one configuration to its horizon, or until ``report`` says stop.

    The same config on the same base and data gives the same losses again, whether or not the
    trial was interrupted. When memory runs out, it goes on with fewer rows a forward pass and more
    of them a step (see ``TrialConfig.micro_batches``).

    Args:
        config: what to train.
        base: lent; it is bare again afterwards (see ``BaseModel.spoiled``).
        data: the search's splits.
        report: called at every evaluation before the horizon.
        folder: receives metrics, the best adapter and, while the trial runs, a checkpoint.
        resume: go on from the folder's checkpoint, if it holds one. The answer to the
            evaluation at that checkpoint is asked for again.
        test: score the adapter of the best evaluation on the test rows, if there are any, too.

    Returns:
        The result in its final state. A trial that fails is a result, never an exception:
        FAILED with its traceback, OUT_OF_MEMORY, or DIVERGED.

    Raises:
        DiskFullError: nothing more can be written; the trial can go on from its checkpoint.
    """
    if not resume:
        folder.clear()
    for micro_batch in config.micro_batches():
        with _blaming_a_full_disk(folder):
            recorder = _attempt(config, micro_batch, base, data, report, folder, test)
        # A base that the trial has changed is of no use for another attempt.
        if recorder.result.state is not TrialState.OUT_OF_MEMORY or base.spoiled:
            break
        logger.warning("trial %d: out of memory at micro-batch %d", config.number, micro_batch)
    if recorder.result.state is not TrialState.PRUNED:
        # One that was stopped may have been so for good, or only because the search was.
        folder.drop_checkpoint()
    return recorder.result


def _attempt(
    config: TrialConfig,
    micro_batch: int,
    base: BaseModel,
    data: TokenizedData,
    report: Report,
    folder: TrialFolder,
    test: bool,
) -> Recorder:
    come_into(folder, config)
    checkpoint = _take_up(folder, config)
    earlier = checkpoint.result if checkpoint else None
    recorder = Recorder(config, folder, _outside(base, report), earlier)
    try:
        if data.general is not None:
            before(base, data.general, _eval_batch(config))
        set_seed(int(config.train["seed"]))
        with attached(base, config) as model:
            recorder.save = lambda step: save_adapter(model, folder, step)
            trainable, total = model.get_nb_trainable_parameters()
            recorder.parameters(trainable, total, micro_batch)
            _train(model, config, base, data, recorder, folder, checkpoint)
            _measure_kept(model, config, base, data, recorder, folder, test)
        recorder.finished()
    except Exception as error:
        if disk_full(error, folder.root):
            raise
        failed = TrialState.OUT_OF_MEMORY if out_of_memory(error) else TrialState.FAILED
        recorder.finished(failed, traceback.format_exc())
    finally:
        shutil.rmtree(folder.scratch, ignore_errors=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return recorder


def _outside(base: BaseModel, report: Report) -> Report:
    """While a packed trial waits for its answer, the others go on."""
    pack = base.pack
    if pack is None:
        return report

    def ask(result: TrialResult) -> bool:
        with pack.away():
            return report(result)

    return ask


@contextmanager
def _blaming_a_full_disk(folder: TrialFolder) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if disk_full(error, folder.root):
            raise DiskFullError(f"{folder.root}: the disk is full; free some space") from error
        raise


def _take_up(folder: TrialFolder, config: TrialConfig) -> Checkpoint | None:
    """The checkpoint to go on from, with adapter and metrics as they were at its moment.

    None, and a folder as for a new trial, where there is no whole one, or one of what is no longer
    this trial's configuration.
    """
    found = find(folder.checkpoint)
    if found is not None and TrialConfig.from_dict(found.result.config).digest() != config.digest():
        found = None
    # A trial may be killed after a better evaluation's adapter has taken this one's place.
    if found is None or not fits(folder, found):
        folder.clear()
        return None
    folder.rewind_metrics(found.result.step)
    return found


def _measure_kept(
    model: PeftModel,
    config: TrialConfig,
    base: BaseModel,
    data: TokenizedData,
    recorder: Recorder,
    folder: TrialFolder,
    test: bool,
) -> None:
    """Measure the best evaluation's adapter on what has chosen nothing, once.

    That is the general text, for a trial that has come to its end, and the test rows for one that
    is to be scored on them.
    """
    best = recorder.result.best
    if best is None:
        return
    forgets = data.general is not None and recorder.complete and FORGETTING not in best.metrics
    tested = test and len(data.test) > 0
    if forgets or tested:
        load_saved(model, folder)
    if tested:
        recorder.tested(_evaluated(model, base, data.test, config))
    if forgets:
        recorder.measured(after(model, base, data.general, _eval_batch(config)))


def score_base(base: BaseModel, data: TokenizedData, config: TrialConfig) -> BaseScore:
    """The untouched base model on the validation rows, measured as a trial's evaluations are."""
    start, rows, batch = time.perf_counter(), data.validation, _eval_batch(config)
    loss, count = score_on(base.model, base, rows, batch)
    metrics = measured(base.model, base, rows, _measures(config), batch)
    if data.general is not None:
        metrics |= of_base(base, data.general, batch)
    return BaseScore(loss, len(rows), count, time.perf_counter() - start, metrics)


def _evaluated(model: Any, base: BaseModel, rows: Any, config: TrialConfig) -> dict[str, float]:
    """Loss and metrics of rows."""
    batch = _eval_batch(config)
    loss, _ = score_on(model, base, rows, batch)
    if not math.isfinite(loss):
        # A model that has diverged has no answers to give.
        return {LOSS: loss}
    return {LOSS: loss, **measured(model, base, rows, _measures(config), batch)}


def _measures(config: TrialConfig) -> Measures:
    return Measures.from_dict(config.measures) if config.measures else Measures()


def _eval_batch(config: TrialConfig) -> int:
    return int(config.train["per_device_eval_batch_size"])


def training_arguments(
    config: TrialConfig, base: BaseModel, scratch: Path, micro_batch: int
) -> TrainingArguments:
    """The space's ``train`` fields and what the harness sets itself.

    Evaluation, saving and reporting are ours (rungs, best adapter, trackers), so the Trainer's
    own are off. The learning-rate schedule always spans ``max_steps``.
    """
    fields = {key: value for key, value in config.train.items() if key not in _OWN_KEYS}
    flags = training_flags(base.dtype, base.device, fields)
    for flag in ("bf16", "fp16", "tf32"):
        fields.pop(flag, None)
    fields["per_device_train_batch_size"] = micro_batch
    fields["gradient_accumulation_steps"] = config.effective_batch // micro_batch
    if fields.get("gradient_checkpointing"):
        # The re-entrant kind needs inputs that require gradients, which a frozen base lacks.
        fields.setdefault("gradient_checkpointing_kwargs", {"use_reentrant": False})
    made = TrainingArguments(
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
    if made.n_gpu > 1:
        # The model is spread over them; the Trainer would copy one that is small enough for the
        # first to each.
        made._n_gpu = 1
    return made


def _train(
    model: PeftModel,
    config: TrialConfig,
    base: BaseModel,
    data: TokenizedData,
    recorder: Recorder,
    folder: TrialFolder,
    checkpoint: Checkpoint | None,
) -> None:
    micro_batch = recorder.result.micro_batch or 1
    trainer = TrialTrainer(
        base=base,
        config=config,
        recorder=recorder,
        folder=folder,
        general=data.general if _measures(config).general else None,
        model=model,
        args=training_arguments(config, base, folder.scratch, micro_batch),
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=collator(base.tokenizer, config.task),
        callbacks=[_Rungs(config, recorder)],
    )
    trainer.remove_callback(PrinterCallback)
    recorder.checkpoint = trainer.checkpoint
    if checkpoint is not None and recorder.at_evaluation:
        recorder.ask()
        if recorder.stopped:
            return
    trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)


class TrialTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer with whole checkpoints; a causal model's loss is ``supervised_loss``.

    The evaluation is weighted by token.
    """

    control: TrainerControl
    optimizer: Any

    def __init__(
        self,
        *,
        base: BaseModel,
        config: TrialConfig,
        recorder: Recorder,
        folder: TrialFolder,
        general: Any,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._base, self._config = base, config
        self._recorder, self._folder, self._general = recorder, folder, general
        # Smoothed labels need the logits whole, and a hook on the head would be compiled in.
        stock = self.label_smoother is not None or self.args.torch_compile
        self._gathers = gathers(self.model, base.spec.task) and not stock
        self._operations: float | None = None
        self._ratio: float | None = recorder.result.config["train"].get("loraplus_lr_ratio")

    def create_optimizer(self, model: Any = None) -> Any:
        """The Trainer's; with ``loraplus_lr_ratio``, peft's groups of parameters in it."""
        if self.optimizer is not None or self._ratio is None:
            return super().create_optimizer(model)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer = loraplus_optimizer(self.model, kind, options, self.args, self._ratio)
        return self.optimizer

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The Trainer's loss; 0, and not its 0/0, of a batch in which nothing is supervised."""
        if return_outputs or not self._gathers:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        total, count = supervised_loss(model, inputs)
        items = count if num_items_in_batch is None else num_items_in_batch
        return total / torch.as_tensor(items, device=total.device).clamp(min=1)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """The Trainer's, which at each step would count the model's weights anew."""
        tokens = int(inputs[self.model.main_input_name].numel())
        if self._operations is None:
            self._operations = super().floating_point_ops(inputs) / max(1, tokens)
        return round(self._operations * tokens)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            return EpochSampler(sampler, seed)
        return sampler

    def training_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Forward and backward: the Trainer's, or one together with other trials'."""
        pack = self._base.pack
        if pack is not None:
            loss = pack.run(self._request(model, inputs, num_items_in_batch))
            if loss is not None:
                return loss
        made: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        return made

    def _request(self, model: Any, inputs: dict[str, Any], items: Any) -> Request | None:
        """This trial's part of a joint pass; None where only the Trainer's own will do."""
        if items is None or not self._gathers:
            return None
        model.train()
        if callable(ready := getattr(self.optimizer, "train", None)):
            # A schedule-free optimizer has other weights in training.
            ready()
        count = torch.as_tensor(items, device=self.args.device).clamp(min=1)
        batch = self._prepare_inputs(inputs)
        return Request(model, batch, count, self.args.gradient_checkpointing)

    def checkpoint(self) -> None:
        """Write a checkpoint now."""
        self._save_checkpoint(self.model, None)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        made = self._folder.scratch / f"checkpoint-{self.state.global_step}"
        seal(made, self._folder.checkpoint, self._recorder.result)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As saved; of another trial's state, with this one's learning rate and so on."""
        fresh = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not self._recorder.result.config["lineage"]:
            return
        for index, (group, own) in enumerate(zip(self.optimizer.param_groups, fresh, strict=True)):
            scale = own["initial_lr"] / group["initial_lr"]
            if scale != 1.0:
                # The schedule's factor at this step stays, what it is a factor of changes.
                group["lr"] *= scale
                self.lr_scheduler.base_lrs[index] = own["initial_lr"]
                self.lr_scheduler._last_lr[index] = group["lr"]
            group.update({key: value for key, value in own.items() if key != "lr"})

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Mean loss of a supervised token over the validation rows, and what else is measured."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        found = _evaluated(self.model, self._base, rows, self._config)
        if self._general is not None and math.isfinite(found[LOSS]):
            found |= after(self.model, self._base, self._general, _eval_batch(self._config))
        metrics = {f"{metric_key_prefix}_loss": found.pop(LOSS), **found}
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
        self._pause = 60 * config.checkpoint_minutes
        self._began = self._kept = time.perf_counter()

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
        if control.should_evaluate:
            self._kept = time.perf_counter()
        elif time.perf_counter() - self._kept > self._pause:
            self._kept = time.perf_counter()
            control.should_save = True

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
        found = {key: value for key, value in metrics.items() if key != LOSS}
        self._recorder.evaluated(state.global_step, metrics[LOSS], found)
        control.should_training_stop |= self._recorder.stopped
