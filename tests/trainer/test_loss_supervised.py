"""The loss from supervised positions against transformers' own forward with labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from causal_models import causal_model, embedded, gradients, wearing
from tiny_models import VOCABULARY, tiny_model
from torch import nn
from torch.nn import functional
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
)
from tune_lora.trainer import loss as module
from tune_lora.trainer.loss import gathers, supervised_loss

CAUSAL = ["llama", "gpt2", "bloom", "falcon", "opt"]
Batch = dict[str, torch.Tensor]


def _batch(supervised: Callable[[torch.Tensor], torch.Tensor] = lambda mask: mask) -> Batch:
    """Four rows of 4 to 10 tokens, padded; a prompt of two or more tokens is masked."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (4, 10), generator=draw)
    lengths, prompts = torch.tensor([4, 10, 7, 5]), torch.tensor([2, 6, 7, 0])
    place = torch.arange(10)
    attended = place < lengths[:, None]
    mask = supervised(attended & (place >= prompts[:, None]))
    labels = ids.masked_fill(~mask, -100)
    return {"input_ids": ids, "attention_mask": attended.long(), "labels": labels}


def _assert_as_stock(model: Any, batch: Batch) -> None:
    """Sum over tokens and gradients, to 1e-6 of the mean loss's."""
    found, count = supervised_loss(model, batch)
    ours = gradients(model, found / count)
    labels = batch["labels"]
    assert count == int((labels[:, 1:] != -100).sum())
    stock = model(**batch).loss
    assert found.item() / count == pytest.approx(stock.item(), abs=1e-6)
    theirs = gradients(model, stock)
    assert ours.keys() == theirs.keys()
    assert theirs
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def _rows_seen(model: Any) -> list[int]:
    """How many positions the output head has computed logits of, a call an entry."""
    seen: list[int] = []

    def note(head: nn.Module, args: Any, logits: torch.Tensor) -> None:
        seen.append(logits.shape[:-1].numel())

    model.get_output_embeddings().register_forward_hook(note)
    return seen


@pytest.mark.parametrize("architecture", CAUSAL)
def test_loss_and_gradients_are_those_of_the_stock_forward(architecture: str) -> None:
    model = wearing(tiny_model(architecture).eval())
    assert gathers(model, "CAUSAL_LM")
    _assert_as_stock(model, _batch())


@pytest.mark.parametrize("architecture", CAUSAL)
def test_the_head_sees_only_what_counts(architecture: str) -> None:
    model, batch = wearing(tiny_model(architecture)), _batch()
    seen = _rows_seen(model)
    _, count = supervised_loss(model, batch)
    assert seen == [count] == [2 + 4 + 4]
    model(**batch)
    assert seen == [count, batch["labels"].numel()]


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["lm_head"], "use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
)
def test_a_head_with_an_adapter_of_its_own(fields: dict[str, Any]) -> None:
    model = wearing(tiny_model("llama"), **fields)
    _assert_as_stock(model, _batch())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_what_a_model_does_to_its_logits_is_done() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 16, "num_hidden_layers": 1}
    config = Gemma2Config(
        vocab_size=VOCABULARY,
        num_attention_heads=2,
        num_key_value_heads=1,
        final_logit_softcapping=0.1,
        pad_token_id=None,
        **sizes,
    )
    _assert_as_stock(wearing(Gemma2ForCausalLM(config)), _batch())


def test_logits_made_without_the_head_are_picked_afterwards() -> None:
    """A model of foreign code may multiply by the embedding itself."""
    model = tiny_model("llama")

    class Foreign(type(model)):  # type: ignore[misc]
        def forward(self, labels: Any = None, **inputs: Any) -> Any:
            hidden = self.model(**inputs).last_hidden_state
            return (functional.linear(hidden, self.lm_head.weight),)

    batch = _batch()
    expected = model(**batch).loss.item()
    model.__class__ = Foreign
    found, count = supervised_loss(model, batch)
    assert found.item() / count == pytest.approx(expected, abs=1e-6)


def test_nothing_supervised_is_no_loss_and_no_gradient() -> None:
    model = wearing(tiny_model("llama"), target_modules=["q_proj", "lm_head"])
    first_only = _batch(lambda mask: mask & (torch.arange(10) == 0))
    found, count = supervised_loss(model, first_only)
    assert (found.item(), count) == (0.0, 0)
    left = gradients(model, found)
    assert left
    assert not any(gradient.any() for gradient in left.values())


def test_which_models_it_is_for() -> None:
    assert not gathers(tiny_model("t5"), "SEQ_2_SEQ_LM")
    assert not gathers(tiny_model("bert"), "SEQ_CLS")
    routed = tiny_model("llama")
    routed.config.output_router_logits = True
    assert not gathers(routed, "CAUSAL_LM")
    other = tiny_model("llama")
    other.loss_function = lambda *args, **options: None
    assert not gathers(other, "CAUSAL_LM")


def _reference(
    weight: torch.Tensor, hidden: torch.Tensor, target: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    logits = functional.linear(hidden, weight, bias)
    return functional.cross_entropy(logits.float(), target, reduction="sum")


def test_a_fused_loss_takes_the_place_of_head_and_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_fused_loss", lambda head, hidden, kind: _reference)
    model = wearing(tiny_model("llama"))
    seen = _rows_seen(model)
    supervised_loss(model, _batch())
    assert seen == [0]
    _assert_as_stock(model, _batch())


def test_fusing_is_for_plain_heads_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_liger", lambda: _reference)
    head, device = nn.Linear(4, 8), "cuda" if torch.cuda.is_available() else "cpu"
    wanted = _reference if device == "cuda" else None
    assert module._fused_loss(head, torch.ones(3, 4, device=device), "llama") is wanted
    assert module._fused_loss(head, torch.ones(3, 4, device=device), "gemma2") is None
    assert module._fused_loss(head, torch.ones(0, 4, device=device), "llama") is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Liger's kernels run on a GPU")
def test_ligers_loss_is_the_stock_one() -> None:
    pytest.importorskip("liger_kernel")
    batch = {key: value.cuda() for key, value in _batch().items()}
    _assert_as_stock(wearing(tiny_model("llama").cuda()), batch)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", sorted(module._BY_POSITION))
def test_rows_go_through_without_padding(kind: str, attention: str) -> None:
    """A window of three tokens, where a model has one, is counted in each document."""
    windows = {"sliding_window": 3} if kind in ("mistral", "phi3") else {}
    model = wearing(causal_model(kind, attention, **windows)).eval()
    seen = embedded(model)
    _assert_as_stock(model, _batch())
    # Of a row only what predicts: not the last token, and of the third, all prompt, just one.
    assert seen == [(1, 3 + 9 + 1 + 4), (4, 10)]


def test_a_row_does_not_see_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tokens of one row are, the other's loss is the same to the bit."""
    model, batch = tiny_model("llama").eval(), _batch()
    batch["labels"][:3] = -100
    first = supervised_loss(model, batch)[0]
    batch["input_ids"][:3] = 0
    assert torch.equal(supervised_loss(model, batch)[0], first)
    batch["input_ids"][3, 0] += 1
    assert not torch.equal(supervised_loss(model, batch)[0], first)


@pytest.mark.parametrize("architecture", ["bloom", "opt"])
def test_models_that_count_otherwise_get_rows(architecture: str) -> None:
    model = wearing(tiny_model(architecture)).eval()
    seen = embedded(model)
    supervised_loss(model, _batch())
    assert seen == [(4, 9)]


def test_alibi_gets_rows() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = FalconForCausalLM(FalconConfig(vocab_size=VOCABULARY, alibi=True, **sizes)).eval()
    seen = embedded(model)
    _assert_as_stock(model, _batch())
    assert seen[0] == (4, 9)


def test_noise_that_goes_by_a_rows_length_gets_rows() -> None:
    model = tiny_model("llama")
    seen = embedded(model)
    model.get_input_embeddings().neftune_noise_alpha = 5.0
    supervised_loss(model, _batch())
    assert seen == [(4, 10)]


def test_rotary_positions_that_go_by_a_rows_length_keep_it() -> None:
    model = tiny_model("llama")
    model.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    found, _ = module.laid_out(model, _batch())
    assert found["input_ids"].shape == (1, 4 + 10 + 7 + 5)


def test_noise_sees_a_batch_as_it_is() -> None:
    """It goes by the length of a row with its padding, however much that is."""
    model, batch = tiny_model("llama"), _batch()
    model.get_input_embeddings().neftune_noise_alpha = 5.0
    wide = {
        key: functional.pad(values, (0, 3), value=-100 if key == "labels" else 0)
        for key, values in batch.items()
    }
    found, targets = module.laid_out(model, wide)
    assert found["input_ids"].shape == targets.shape == (4, 13)


@pytest.mark.parametrize(("lengths", "flat"), [((600, 500), False), ((600, 100), True)])
def test_long_rows_stay_apart_where_attention_would_cost_more(
    lengths: tuple[int, int], flat: bool
) -> None:
    """With width 32, two rows of 600 padded are 2 x 599 x (192 + 599) = 947,618 units of work; in
    one row they are 1098 x (192 + 1098) = 1,416,420, or 698 x (192 + 698) = 621,220."""
    mask = (torch.arange(600) < torch.tensor(lengths)[:, None]).long()
    ids = torch.ones_like(mask)
    ids[1] = 2  # so that they share no beginning
    labels = ids.masked_fill(mask == 0, -100)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    found, _ = module.laid_out(tiny_model("llama"), batch)
    assert found["input_ids"].shape == ((1, sum(lengths) - 2) if flat else (2, 599))


def test_a_row_alone_ends_with_the_last_token_that_predicts() -> None:
    batch = {key: values[1:2] for key, values in _batch().items()}
    batch["labels"][0, 8:] = -100
    found, targets = module.laid_out(tiny_model("llama"), batch)
    assert found.keys() == {"input_ids", "attention_mask"}
    for key, values in found.items():
        assert torch.equal(values, batch[key][:, :7])
    # The labels of a prompt of six tokens are masked.
    assert targets.positions.tolist() == [5, 6]
    assert torch.equal(targets.tokens, batch["input_ids"][0, 6:8])


def test_a_loss_in_blocks_is_that_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(7, 50, generator=draw, requires_grad=True)
    tokens = torch.randint(50, (7,), generator=draw)
    whole = functional.cross_entropy(logits, tokens, reduction="sum")
    (expected,) = torch.autograd.grad(whole, logits)
    for rows in (1, 3, 7, 8):
        monkeypatch.setattr(module, "_BLOCK", rows * 50 * 4)
        found = module.summed(logits, tokens)
        torch.testing.assert_close(found, whole)
        torch.testing.assert_close(torch.autograd.grad(found, logits)[0], expected)
    assert float(module.summed(logits[:0], tokens[:0])) == 0.0
