"""Target modules given by name or pattern: taken as peft takes them, or refused with advice."""

from __future__ import annotations

import pytest
from adapted_modules import adapted
from tiny_models import tiny_model
from torch import nn
from tune_lora.spaces import SpaceError
from tune_lora.trainer.targets import resolve_targets

FIRST = "model.layers.0.self_attn"


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        (["q_proj"], {f"model.layers.{n}.self_attn.q_proj" for n in (0, 1)}),
        (["self_attn.q_proj"], {f"model.layers.{n}.self_attn.q_proj" for n in (0, 1)}),
        ([f"{FIRST}.q_proj", f"{FIRST}.o_proj"], {f"{FIRST}.q_proj", f"{FIRST}.o_proj"}),
        (["embed_tokens"], {"model.embed_tokens"}),
        (r"model\.layers\.1\.mlp\.(up|down)_proj", {
            "model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"
        }),
        (r".*0\.self_attn\.[qk]_proj", {f"{FIRST}.q_proj", f"{FIRST}.k_proj"}),
    ],
)  # fmt: skip
def test_what_is_found_is_passed_on(value: str | list[str], paths: set[str]) -> None:
    model = tiny_model("llama")
    targets = resolve_targets(value, model)
    assert targets == value
    assert adapted(model, "CAUSAL_LM", targets) == paths


def test_a_list_is_copied() -> None:
    value = ["q_proj"]
    targets = resolve_targets(value, tiny_model("llama"))
    assert targets is not value


@pytest.mark.parametrize(
    ("architecture", "value", "near"),
    [
        ("llama", ["q_prj"], "q_proj"),
        ("llama", ["q_proj", "gate_prog"], "gate_proj"),
        ("gpt2", ["c_atn"], "c_attn"),
        ("bloom", ["query_key_values"], "query_key_value"),
        ("llama", "q_prj", "q_proj"),
        ("llama", "atention", "attention"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(
    architecture: str, value: str | list[str], near: str
) -> None:
    with pytest.raises(SpaceError) as caught:
        resolve_targets(value, tiny_model(architecture))
    fault = caught.value.faults[0]
    assert (fault.path, fault.value) == ("lora.target_modules", value)
    assert near in fault.suggestions


def test_a_name_from_another_architecture_lists_what_there_is() -> None:
    with pytest.raises(SpaceError, match=r"no such module 'q_proj'.*c_attn, c_fc, c_proj"):
        resolve_targets(["q_proj", "v_proj"], tiny_model("gpt2"))


@pytest.mark.parametrize("value", [["proj"], ["input_layernorm"], ["mlp"], "q_proj", ".*norm"])
def test_what_peft_could_not_adapt_is_refused(value: str | list[str]) -> None:
    """Parts of a name, modules without weights to adapt, patterns that fit no whole path."""
    with pytest.raises(SpaceError, match="target_modules"):
        resolve_targets(value, tiny_model("llama"))


def test_a_preset_without_modules_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(SpaceError, match="no modules of that kind"):
        resolve_targets("qv", model)
