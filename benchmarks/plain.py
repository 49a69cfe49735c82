"""What a user of transformers and peft writes for one trial, shared by the peers and the floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from configurations import CONFIGURATIONS, TARGETS, Configuration, Workload
from datasets import Dataset, load_dataset
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

PROMPT = "### Instruction:\n{instruction}\n\n### Response:\n"
IGNORE = -100
SPLITS = ("train", "validation")


def load_tokenizer(work: Workload) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(work.model)


def tokenized(
    work: Workload, split: str, tokenizer: PreTrainedTokenizerBase, *, padded: bool
) -> Dataset:
    """Ids and labels of every row, the prompt masked; ``padded`` to ``max_length`` or as they are.

    Prompt and response are tokenized apart and the training rows shuffled, as tune-lora does, so
    that every contestant sees the same tokens in the same order.
    """

    def encode(row: dict[str, str]) -> dict[str, list[int]]:
        prompt = tokenizer(PROMPT.format(instruction=row["instruction"]))["input_ids"]
        response = [*tokenizer(row["response"])["input_ids"], tokenizer.eos_token_id]
        ids = [*prompt, *response][: work.max_length]
        labels = [*([IGNORE] * len(prompt)), *response][: work.max_length]
        missing = work.max_length - len(ids) if padded else 0
        return {
            "input_ids": ids + [tokenizer.pad_token_id] * missing,
            "attention_mask": [1] * len(ids) + [0] * missing,
            "labels": labels + [IGNORE] * missing,
        }

    rows = load_dataset("json", data_files=getattr(work, split), split="train")
    rows = rows.shuffle(seed=work.seed) if split == "train" else rows
    return rows.map(encode, remove_columns=rows.column_names)


def collator(tokenizer: PreTrainedTokenizerBase, *, padded: bool) -> Any:
    return default_data_collator if padded else DataCollatorForSeq2Seq(tokenizer)


def quantized(work: Workload) -> PreTrainedModel:
    """The base model in NF4, ready for LoRA."""
    dtype = torch.bfloat16 if work.bf16 else torch.float32
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        work.model, quantization_config=quantization, dtype=dtype, device_map={"": "cpu"}
    )
    for module in model.modules():
        if work.guarded and isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def adapted(model: PreTrainedModel, configuration: Configuration, work: Workload) -> PeftModel:
    """The model wearing LoRA, whose weights are drawn from the workload's seed."""
    set_seed(work.seed)
    config = LoraConfig(
        r=configuration.r,
        lora_alpha=configuration.lora_alpha,
        target_modules=TARGETS[configuration.target_modules],
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def arguments(work: Workload, **more: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(Path(work.folder) / "trainer"),
        max_steps=work.steps,
        per_device_train_batch_size=work.batch,
        per_device_eval_batch_size=work.eval_batch,
        lr_scheduler_type="cosine",
        optim="adamw_torch",
        seed=work.seed,
        bf16=work.bf16,
        use_cpu=True,
        eval_strategy="steps",
        eval_steps=work.every,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **more,
    )


class Noting(TrainerCallback):  # type: ignore[misc]
    """Writes every loss down; which configuration it is of, the learning rate says."""

    def __init__(self, work: Workload) -> None:
        self._work = work

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        number = [c.learning_rate for c in CONFIGURATIONS].index(args.learning_rate)
        kept = {key: float(logs[key]) for key in ("loss", "eval_loss") if key in logs}
        if kept:
            self._work.note(number, state.global_step, **kept)
