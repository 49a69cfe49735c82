"""The base model is lent: after a trial it is bit for bit what it was, or marked as spoiled."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from tiny_trials import EXPLODING, Outcome, checksum, go_on, make_config, stop
from transformers import Trainer
from tune_lora.trainer.adapter import attached
from tune_lora.trainer.base import BaseModel, BaseSpec, load_base
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.result import TrialState
from wide_models import save_wide

Trial = Callable[..., Outcome]

ALL = {"target_modules": "all-linear"}


def assert_bare(model: torch.nn.Module) -> None:
    """Nothing of peft or of training is left on it."""
    left = [
        name
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) or "lora" in name
    ]
    assert left == []
    assert not hasattr(model, "peft_config")
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == []
    assert not model.training
    assert not model.is_gradient_checkpointing


@pytest.mark.parametrize(
    ("lora", "train"),
    [
        ({}, {}),
        (ALL, {"gradient_checkpointing": True}),
        (ALL, EXPLODING),
        ({"use_dora": True}, {}),
        ({"use_rslora": True, "init_lora_weights": "gaussian"}, {}),
        ({"target_modules": ["embed_tokens", "q_proj"]}, {}),
        ({"modules_to_save": ["lm_head"]}, {}),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, {}),
        ({"trainable_token_indices": [1, 2]}, {}),
        ({"target_modules": ["missing"]}, {}),
    ],
)
def test_base_is_bit_identical_after_a_trial(
    trial: Trial, base: BaseModel, lora: dict[str, Any], train: dict[str, Any]
) -> None:
    before = checksum(base.model)
    trial(make_config(lora, **train))
    assert checksum(base.model) == before
    assert_bare(base.model)
    assert base.model.lm_head.weight is base.model.model.embed_tokens.weight
    assert not base.spoiled


def test_classifier_is_given_back_untrained(
    trial: Trial, new_base: Callable[..., BaseModel], tokenized: Callable[..., TokenizedData]
) -> None:
    base, data = new_base("bert"), tokenized("bert")
    before = checksum(base.model)
    config = make_config(task="SEQ_CLS", learning_rate=0.1)
    first = trial(config, base=base, data=data)
    assert checksum(base.model) == before
    assert_bare(base.model)
    assert trial(config, base=base, data=data).losses == first.losses


NF4 = {"quantization": "nf4"}
LENT = {
    "fp32": {"quantization": "none"},
    "packed": {**NF4, "quantization_compute": "bitsandbytes"},
    "unpacked": {**NF4, "quantization_compute": "dequantized"},
}
BROKEN = RuntimeError("broken step")
FULL = torch.OutOfMemoryError("CUDA out of memory")


def _raise_in_second_step(error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its backward pass: gradients are there, and the adapter is no longer a fresh one."""
    original = Trainer.training_step

    def step(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        loss = original(self, *args, **kwargs)
        if error is not None and self.state.global_step == 1:
            raise error
        return loss

    monkeypatch.setattr(Trainer, "training_step", step)


@pytest.fixture(scope="module", params=LENT)
def lent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """Loaded once for all trials here, wide enough that 4-bit products are right."""
    folder = tmp_path_factory.mktemp("wide") / "llama"
    save_wide(folder, "llama")
    return load_base(BaseSpec(str(folder), "wide", dtype="fp32", **LENT[request.param]))


@pytest.mark.parametrize(
    ("lora", "error", "report", "state"),
    [
        (ALL, None, go_on, TrialState.COMPLETE),
        (ALL, None, stop, TrialState.PRUNED),
        (ALL, BROKEN, go_on, TrialState.FAILED),
        (ALL, FULL, go_on, TrialState.OUT_OF_MEMORY),
        ({**ALL, "use_dora": True}, None, go_on, TrialState.COMPLETE),
        ({**ALL, "use_dora": True}, BROKEN, go_on, TrialState.FAILED),
        ({"modules_to_save": ["lm_head"]}, None, stop, TrialState.PRUNED),
        ({"modules_to_save": ["norm"]}, FULL, go_on, TrialState.OUT_OF_MEMORY),
    ],
)
def test_one_base_serves_trials_of_every_end(
    trial: Trial,
    lent: BaseModel,
    monkeypatch: pytest.MonkeyPatch,
    lora: dict[str, Any],
    error: Exception | None,
    report: Callable[..., bool],
    state: TrialState,
) -> None:
    before = checksum(lent.model)
    _raise_in_second_step(error, monkeypatch)
    config = make_config(lora, rungs=(1,), max_steps=2)
    assert trial(config, base=lent, report=report).result.state is state
    assert checksum(lent.model) == before
    assert_bare(lent.model)
    assert not lent.spoiled


@pytest.mark.parametrize(
    ("error", "report", "state"),
    [
        (None, stop, TrialState.PRUNED),
        (BROKEN, go_on, TrialState.FAILED),
        (FULL, go_on, TrialState.OUT_OF_MEMORY),
    ],
)
def test_classifier_is_given_back_at_every_end(
    trial: Trial,
    new_base: Callable[..., BaseModel],
    tokenized: Callable[..., TokenizedData],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None,
    report: Callable[..., bool],
    state: TrialState,
) -> None:
    base = new_base("bert")
    before = checksum(base.model)
    _raise_in_second_step(error, monkeypatch)
    config = make_config(task="SEQ_CLS", rungs=(1,), max_steps=2, learning_rate=0.1)
    found = trial(config, base=base, data=tokenized("bert"), report=report).result
    assert found.state is state
    assert checksum(base.model) == before
    assert_bare(base.model)


def test_base_is_bare_after_a_trial_that_raised_in_its_middle(
    trial: Trial, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 1:
            raise RuntimeError("broken step")
        return original(self, *args, **kwargs)

    before, original = checksum(base.model), Trainer.training_step
    monkeypatch.setattr(Trainer, "training_step", broken)
    outcome = trial(make_config(gradient_checkpointing=True))
    assert (outcome.result.state, outcome.result.step) == (TrialState.FAILED, 1)
    assert checksum(base.model) == before
    assert_bare(base.model)
    assert not base.spoiled


@pytest.mark.parametrize(
    "lora",
    [
        {"bias": "all"},
        {"bias": "lora_only"},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"layer_replication": [[0, 2], [0, 2]]},
        # Layer 0 gets its adapter before peft meets a module that can have none.
        {"target_modules": r"model\.layers\.1|.*q_proj"},
    ],
)
def test_base_that_is_changed_is_spoiled(
    trial: Trial, base: BaseModel, lora: dict[str, Any]
) -> None:
    trial(make_config(lora, max_steps=1))
    assert base.spoiled


def test_spoiled_stays_spoiled(trial: Trial, base: BaseModel) -> None:
    trial(make_config({"bias": "all"}, max_steps=1))
    trial(make_config(max_steps=1))
    assert base.spoiled


def test_adapter_starts_as_no_change(base: BaseModel, data: TokenizedData) -> None:
    ids = torch.tensor([data.validation[0]["input_ids"]])
    with torch.no_grad():
        bare = base.model(input_ids=ids).logits
        with attached(base, make_config(ALL)) as model:
            assert torch.equal(model(input_ids=ids).logits, bare)
