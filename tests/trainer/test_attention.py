"""Attention by products, against float64; and when it is left to PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from causal_models import causal_model
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from tune_lora.trainer import attention
from tune_lora.trainer.attention import LONGEST, Rows, attend, meant_for_gpu
from tune_lora.trainer.loss import _BY_POSITION, supervised_loss
from tune_lora.trainer.prefixes import trie

ROWS, TOKENS, WIDTH = 2, 12, 16
CAUSAL = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()[None, None]
PADDED = CAUSAL & (torch.arange(TOKENS) < torch.tensor([TOKENS, 7])[:, None])[:, None, None]
TREE = CAUSAL & (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS) != 3)
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def module(heads: int, groups: int, *, causal: bool = True) -> Any:
    return SimpleNamespace(is_causal=causal, num_key_value_groups=heads // groups, training=False)


def inputs(heads: int, groups: int, tokens: int = TOKENS, dtype: Any = torch.bfloat16) -> Inputs:
    dice = torch.Generator().manual_seed(heads)

    def made(count: int) -> torch.Tensor:
        values = torch.randn(ROWS, tokens, count, WIDTH, generator=dice)
        return values.to(dtype).transpose(1, 2).requires_grad_()

    return made(heads), made(groups), made(groups)


def pulled(found: torch.Tensor, given: Inputs) -> list[torch.Tensor]:
    """An output, and the gradients of what it was made of, in float64."""
    dice = torch.Generator().manual_seed(9)
    direction = torch.randn(found.shape, generator=dice, dtype=torch.float64).to(found.dtype)
    return [
        found.detach().double(),
        *(g.double() for g in torch.autograd.grad(found, given, direction)),
    ]


@pytest.fixture
def by_products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call had that products answered."""
    calls: list[int] = []
    real = attention._by_products

    def count(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(len(args[0]))
        return real(*args, **kwargs)

    monkeypatch.setattr(attention, "_by_products", count)
    return calls


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize(
    ("mask", "causal"), [(None, True), (None, False), (CAUSAL, True), (PADDED, True), (TREE, True)]
)
def test_it_is_as_near_to_float64_as_the_fused_kernel(
    by_products: list[int], heads: int, groups: int, mask: torch.Tensor | None, causal: bool
) -> None:
    layer = module(heads, groups, causal=causal)
    given = inputs(heads, groups)
    found = pulled(attend(layer, *given, mask, scaling=0.2)[0], given)
    assert by_products
    theirs = pulled(sdpa_attention_forward(layer, *given, mask, scaling=0.2)[0], given)
    exact = tuple(tensor.detach().double().requires_grad_() for tensor in given)
    expected = pulled(sdpa_attention_forward(layer, *exact, mask, scaling=0.2)[0], exact)
    for ours, fused, right in zip(found, theirs, expected, strict=True):
        assert ours.shape == right.shape
        error, other = (ours - right).norm() / right.norm(), (fused - right).norm() / right.norm()
        assert error < max(2 * other, 0.01)


ALIKE = [[7, 8, *range(20, 26)], [7, 8, *range(30, 36)], [7, 8, 20, 40], [7], [50, 8, 9, 7]]


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
def test_rows_that_lie_in_a_tree_attend_one_by_one(
    by_products: list[int], heads: int, groups: int, dtype: torch.dtype, bound: float
) -> None:
    tree = trie(ALIKE)
    tokens = len(tree.tokens)
    given = tuple(part[:1].detach() for part in inputs(heads, groups, tokens, dtype))
    given = tuple(part.requires_grad_() for part in given)
    mask = tree.sees()[None, None]
    exact = tuple(part.detach().double().requires_grad_() for part in given)
    layer = module(heads, groups)
    expected = pulled(sdpa_attention_forward(layer, *exact, mask, scaling=0.2)[0], exact)
    mask.rows = Rows.of(tree.paths)  # type: ignore[attr-defined]
    found = pulled(attend(layer, *given, mask, scaling=0.2)[0], given)
    assert by_products == [len(ALIKE)]
    for ours, right in zip(found, expected, strict=True):
        assert ours.shape == right.shape
        assert (ours - right).norm() / right.norm() < bound


@pytest.fixture
def registered() -> Iterator[None]:
    before = AttentionInterface()["sdpa"]
    attention.register()
    yield
    AttentionInterface.register("sdpa", before)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("kind", sorted(_BY_POSITION - {"falcon"}))
def test_models_hand_their_mask_on(by_products: list[int], kind: str) -> None:
    """That it is these rows' is lost with the mask, and all tokens are taken at once."""
    model = causal_model(kind, "sdpa").eval()
    ids = torch.tensor([[7, *range(20, 28)], [7, *range(30, 38)]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    supervised_loss(model, batch)
    assert by_products == [2] * model.config.num_hidden_layers


def test_long_rows_that_share_much_are_taken_at_once(by_products: list[int]) -> None:
    """Two rows of 11 tokens have 242 pairs, their 12 in a tree 144."""
    tree = trie([[*range(10), 10], [*range(10), 11]])
    given = tuple(part[:1] for part in inputs(4, 4, len(tree.tokens), torch.float32))
    mask = tree.sees()[None, None]
    mask.rows = Rows.of(tree.paths)  # type: ignore[attr-defined]
    attend(module(4, 4), *given, mask)
    assert not by_products


def test_a_row_of_padding_stays_finite(by_products: list[int]) -> None:
    given = inputs(4, 4)
    mask = CAUSAL.clone().expand(ROWS, 1, TOKENS, TOKENS).clone()
    mask[1, :, 5] = False
    for tensor in pulled(attend(module(4, 4), *given, mask, scaling=0.2)[0], given):
        assert tensor.isfinite().all()
    assert by_products


def test_without_a_scaling_it_is_that_of_the_width() -> None:
    given = inputs(4, 4)
    plain, named = (attend(module(4, 4), *given, None, scaling=s)[0] for s in (None, WIDTH**-0.5))
    assert torch.equal(plain, named)


def test_dropout_leaves_out_weights() -> None:
    query, key, value = (tensor.detach() for tensor in inputs(4, 4))
    torch.manual_seed(0)
    ones = torch.ones_like(value)
    found, _ = attend(module(4, 4), query, key, ones, None, dropout=0.5, scaling=0.2)
    # Each output is the sum of its weights, those that are left doubled.
    assert found.std() > 0.1
    assert found.float().mean() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (inputs(4, 4, dtype=torch.float32), {}),
        (inputs(4, 4, LONGEST[torch.bfloat16] + 1), {}),
        ((inputs(4, 4)[0][:, :, -1:], *inputs(4, 4)[1:]), {}),
        (inputs(4, 4), {"position_bias": torch.zeros(1, 4, TOKENS, TOKENS)}),
        (inputs(4, 4), {"attention_mask": torch.zeros(1, 1, TOKENS, TOKENS)}),
    ],
    ids=["fp32", "a long row", "one token", "a bias", "a mask of numbers"],
)
def test_the_rest_is_pytorchs(
    by_products: list[int], given: Inputs, options: dict[str, Any]
) -> None:
    options = {"attention_mask": None, "scaling": 0.2, **options}
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        found, _ = attend(module(4, 4), *given, **options)
        expected, _ = sdpa_attention_forward(module(4, 4), *given, **options)
    assert torch.equal(found, expected)
    assert not by_products


def test_a_pass_that_stands_for_a_gpus_is_pytorchs(by_products: list[int]) -> None:
    with meant_for_gpu(True):
        attend(module(4, 4), *inputs(4, 4), None)
    assert not by_products
    with meant_for_gpu(False):
        attend(module(4, 4), *inputs(4, 4), None)
    assert by_products


def test_under_autocast_it_is_in_autocasts_dtype(by_products: list[int]) -> None:
    given = inputs(4, 2, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attend(module(4, 2), *given, None, scaling=0.2)
    assert by_products
    assert found.dtype is torch.bfloat16
    expected = functional.scaled_dot_product_attention(
        *given, scale=0.2, is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(found.float(), expected.transpose(1, 2), rtol=3e-2, atol=3e-2)
