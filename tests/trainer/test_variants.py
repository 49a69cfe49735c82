"""The variants of LoRA in docs/spaces.md: each can be searched, and does what it is said to."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from tiny_trials import TRAIN, Outcome, checksum, make_config, row_by_row
from tune_lora.spaces import Choice, Domain, Space, load_space
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.result import TrialState
from tune_lora.trainer.run import TrialTrainer

Trial = Callable[..., Outcome]
DOCUMENT = Path(__file__).parents[2] / "docs" / "spaces.md"
KEYS = (
    "lora.use_rslora",
    "lora.use_dora",
    "lora.init_lora_weights",
    "lora.bias",
    "lora.modules_to_save",
    "lora.rank_pattern",
    "train.loraplus_lr_ratio",
)


def blocks() -> list[str]:
    text = DOCUMENT.read_text(encoding="utf-8")
    return re.findall(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def loaded(text: str, path: Path) -> Space:
    body = {"model": {"name": "m"}, "data": {"train": "d.jsonl"}, **yaml.safe_load(text)}
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    return load_space(path)


@pytest.mark.parametrize("text", blocks())
def test_spaces_of_the_document_load(text: str, tmp_path: Path) -> None:
    assert loaded(text, tmp_path / "space.yaml").parameters()


@pytest.fixture
def config_of(tmp_path: Path) -> Callable[[str | None], TrialConfig]:
    """A trial of the document's space: the first options, but the last one of a key."""
    space = loaded(blocks()[-1], tmp_path / "variants.yaml")

    def suggest_with(varied: str | None) -> Callable[[str, Domain], Any]:
        def suggest(name: str, domain: Domain) -> Any:
            if isinstance(domain, Choice):
                return domain.labels[-1 if name == varied else 0]
            return domain.high

        return suggest

    def make(varied: str | None) -> TrialConfig:
        sample = space.sample(suggest_with(varied))
        own = {"learning_rate", "lr_scheduler_type", *sample["train"].keys() - TRAIN.keys()}
        wanted = {key: sample["train"][key] for key in own - {"gradient_checkpointing"}}
        return make_config(sample["lora"], **{**wanted, "max_steps": 2})

    return make


def weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(outcome.folder.adapter / "adapter_model.safetensors")
    return found


def test_the_document_has_them_all(tmp_path: Path) -> None:
    space = loaded(blocks()[-1], tmp_path / "variants.yaml")
    names = {parameter.name for parameter in space.parameters()}
    assert set(KEYS) <= names
    for key in KEYS:
        choice = space.values()[key]
        assert isinstance(choice, Choice)
        assert choice.options[-1].given


@pytest.mark.parametrize("key", KEYS)
def test_it_trains_and_loads_again(
    key: str,
    config_of: Callable[[str | None], TrialConfig],
    trial: Trial,
    new_base: Callable[..., BaseModel],
    data: TokenizedData,
) -> None:
    plain, config = config_of(None), config_of(key)
    changed = {k for k in config.lora if config.lora[k] != plain.lora[k]}
    changed |= {k for k in config.train if config.train.get(k) != plain.train.get(k)}
    assert key.partition(".")[2] in changed
    assert len(changed) > 1 or key in ("lora.use_rslora", "lora.use_dora", "lora.bias")
    outcome = trial(config, base=new_base())
    assert outcome.result.state is TrialState.COMPLETE, outcome.result.error
    bare = new_base().model
    loss = row_by_row(
        PeftModel.from_pretrained(bare, str(outcome.folder.adapter)).eval(), data.validation
    )
    tolerance = 1e-4 if key == "lora.init_lora_weights" else 2e-6
    assert outcome.result.score == pytest.approx(loss, rel=tolerance)
    _has_its_mark(key, outcome, config)


def _has_its_mark(key: str, outcome: Outcome, config: TrialConfig) -> None:
    saved = json.loads((outcome.folder.adapter / "adapter_config.json").read_text())
    names = weights(outcome)
    match key:
        case "lora.use_rslora":
            assert saved["use_rslora"] is True
        case "lora.use_dora":
            assert any("lora_magnitude_vector" in name for name in names)
        case "lora.modules_to_save":
            whole = [name for name in names if "lora_" not in name]
            assert len(whole) == 5
            assert all(name.endswith("norm.weight") for name in whole)
        case "lora.rank_pattern":
            ranks = {n: w.shape[0] for n, w in names.items() if "lora_A" in n}
            assert {r for n, r in ranks.items() if "layers.0." in n} == {4}
            assert {r for n, r in ranks.items() if "layers.1." in n} == {config.lora["r"]}


def test_rank_stabilized_scales_by_the_root(
    config_of: Callable[[str | None], TrialConfig], new_base: Callable[..., BaseModel]
) -> None:
    from tune_lora.trainer.adapter import attached

    for key, root in ((None, False), ("lora.use_rslora", True)):
        config = config_of(key)
        alpha, r = config.lora["lora_alpha"], config.lora["r"]
        with attached(new_base(), config) as model:
            scaling = model.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"]
        assert scaling == pytest.approx(alpha / (math.sqrt(r) if root else r))


@pytest.mark.parametrize("key", ["lora.init_lora_weights", "lora.bias", None])
def test_what_changes_the_base_says_so(
    key: str | None,
    config_of: Callable[[str | None], TrialConfig],
    trial: Trial,
    new_base: Callable[..., BaseModel],
) -> None:
    base = new_base()
    before = checksum(base.model)
    trial(config_of(key), base=base)
    assert base.spoiled is (key is not None)
    if key is None:
        assert checksum(base.model) == before


def test_matrices_b_learn_faster(
    config_of: Callable[[str | None], TrialConfig],
    trial: Trial,
    new_base: Callable[..., BaseModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[tuple[Any, Any]] = []
    create = TrialTrainer.create_optimizer

    def watched(self: Any, model: Any = None) -> Any:
        optimizer = create(self, model)
        made.append((dict(self.model.named_parameters()), optimizer))
        return optimizer

    monkeypatch.setattr(TrialTrainer, "create_optimizer", watched)
    config = config_of("train.loraplus_lr_ratio")
    trial(config, base=new_base())
    ((parameters, optimizer),) = made
    names = {id(parameter): name for name, parameter in parameters.items()}
    rates = {names[id(p)]: g["initial_lr"] for g in optimizer.param_groups for p in g["params"]}
    assert set(rates) == {name for name, p in parameters.items() if "lora_" in name}
    rate = config.train["learning_rate"]
    for name, found in rates.items():
        assert found == pytest.approx(16 * rate if "lora_B" in name else rate)


def test_an_optimizer_with_groups_of_its_own_is_named(
    trial: Trial, new_base: Callable[..., BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As transformers answers for GaLore, whose package need not be there."""
    answer = (torch.optim.AdamW, {"lr": 1e-3, "params": []})
    monkeypatch.setattr(TrialTrainer, "get_optimizer_cls_and_kwargs", lambda *_: answer)
    result = trial(make_config(loraplus_lr_ratio=4.0, max_steps=1), base=new_base()).result
    assert result.state is TrialState.FAILED
    assert "groups parameters in its own way" in str(result.error)
