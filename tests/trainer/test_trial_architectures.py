"""Every architecture trains, is saved and gives the same loss again; QLoRA really learns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_models import OTHERS, TASKS
from tiny_trials import Outcome, make_config, row_by_row
from tune_lora.trainer.base import AUTO_CLASSES, BaseModel
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.result import TrialState

Trial = Callable[..., Outcome]
NewBase = Callable[..., BaseModel]
Tokenized = Callable[..., TokenizedData]


def reloaded(base: BaseModel, folder: Path) -> Any:
    return PeftModel.from_pretrained(base.model, str(folder)).eval()


@pytest.mark.parametrize("preset", ["qv", "all-linear"])
@pytest.mark.parametrize("architecture", ["gpt2", "bloom", "falcon", "opt", "t5", "bert", *OTHERS])
def test_trains_and_reloads_to_the_same_loss(
    trial: Trial, new_base: NewBase, tokenized: Tokenized, architecture: str, preset: str
) -> None:
    data, task = tokenized(architecture), TASKS[architecture]
    config = make_config({"target_modules": preset}, task=task, max_steps=2)
    outcome = trial(config, base=new_base(architecture), data=data)
    assert outcome.result.state is TrialState.COMPLETE, outcome.result.error
    bare = new_base(architecture)
    untrained = row_by_row(bare.model, data.validation, task)
    loss = row_by_row(reloaded(bare, outcome.folder.adapter), data.validation, task)
    assert loss != pytest.approx(untrained, abs=1e-4)
    assert outcome.result.score == pytest.approx(loss, rel=2e-6)


@pytest.mark.parametrize("architecture", ["roberta", "distilbert", "tagger"])
def test_plain_peft_loads_the_fresh_head_too(
    trial: Trial, new_base: NewBase, tokenized: Tokenized, architecture: str
) -> None:
    """A base without a head for classes gets another one at every load, unless it is saved."""
    data, task, base = tokenized(architecture), TASKS[architecture], new_base(architecture)
    config = make_config({"target_modules": "all-linear"}, task=task, max_steps=2)
    outcome = trial(config, base=base, data=data)
    torch.manual_seed(123)
    other = AUTO_CLASSES[task].from_pretrained(base.spec.source, num_labels=len(data.labels))
    model = PeftModel.from_pretrained(other, str(outcome.folder.adapter)).eval()
    loss = row_by_row(model, data.validation, task)
    assert outcome.result.score == pytest.approx(loss, rel=2e-6)


@pytest.mark.parametrize("part", ["encoder.qv", "decoder.mlp", "decoder"])
@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_encoder_and_decoder_train_apart(
    trial: Trial, new_base: NewBase, tokenized: Tokenized, architecture: str, part: str
) -> None:
    config = make_config({"target_modules": part}, task="SEQ_2_SEQ_LM", max_steps=2)
    outcome = trial(config, base=new_base(architecture), data=tokenized(architecture))
    assert outcome.result.state is TrialState.COMPLETE, outcome.result.error
    names = load_file(outcome.folder.adapter / "adapter_model.safetensors")
    assert names
    assert all(f".{part.partition('.')[0]}." in name for name in names)


@pytest.mark.parametrize("architecture", ["gpt2", "t5", "bert"])
def test_other_architectures_repeat_too(
    trial: Trial, new_base: NewBase, tokenized: Tokenized, architecture: str
) -> None:
    base, data = new_base(architecture), tokenized(architecture)
    config = make_config(task=TASKS[architecture], max_steps=3, eval_steps=1)
    first = trial(config, base=base, data=data)
    assert len(first.losses) == 3
    assert trial(config, base=base, data=data).losses == first.losses


def test_classifier_learns_to_tell_the_classes(
    trial: Trial, new_base: NewBase, tokenized: Tokenized
) -> None:
    data = tokenized("bert")
    lora = {"target_modules": "all-linear"}
    config = make_config(lora, task="SEQ_CLS", max_steps=60, eval_steps=10)
    outcome = trial(config, base=new_base("bert"), data=data)
    model = reloaded(new_base("bert"), outcome.folder.adapter)
    with torch.no_grad():
        guesses = [
            int(model(input_ids=torch.tensor([row["input_ids"]])).logits.argmax())
            for row in data.validation
        ]
    assert guesses == data.validation["labels"][:]
    assert set(guesses) == {0, 1}


def test_qlora_learns(trial: Trial, new_base: NewBase, data: TokenizedData) -> None:
    base = new_base(quantization="nf4")
    before = row_by_row(base.model, data.validation)
    config = make_config(
        {"target_modules": "all-linear", "r": 8},
        rungs=(1, 8),
        max_steps=16,
        optim="paged_adamw_8bit",
        learning_rate=2e-2,
    )
    outcome = trial(config, base=base)
    assert outcome.result.state is TrialState.COMPLETE, outcome.result.error
    assert outcome.losses == sorted(outcome.losses, reverse=True)
    assert outcome.losses[-1] < before - 0.3
    model = reloaded(new_base(quantization="nf4"), outcome.folder.adapter)
    assert row_by_row(model, data.validation) == pytest.approx(outcome.result.score, rel=2e-6)


def test_qlora_weights_are_quantized(new_base: NewBase) -> None:
    from bitsandbytes.nn import Linear4bit

    base = new_base(quantization="nf4")
    projection = base.model.model.layers[0].self_attn.q_proj
    assert isinstance(projection, Linear4bit)
    assert projection.weight.dtype is torch.uint8
    assert projection.weight.quant_type == "nf4"


def test_qlora_trains_the_same_however_often_it_is_evaluated(
    trial: Trial, new_base: NewBase, data: TokenizedData
) -> None:
    """bitsandbytes has an inference kernel for CPUs that gives no gradient to later steps."""
    base = new_base(quantization="nf4")
    lora = {"target_modules": "all-linear", "init_lora_weights": "gaussian"}
    rare = trial(make_config(lora, learning_rate=0.05), base=base)
    often = trial(make_config(lora, learning_rate=0.05, eval_steps=1), base=base)
    assert len(often.losses) == 4
    assert [row["loss"] for row in often.rows("loss")] == [row["loss"] for row in rare.rows("loss")]
    assert [row["grad_norm"] for row in often.rows("loss")] == [
        row["grad_norm"] for row in rare.rows("loss")
    ]
