"""Rows that begin alike: the tree against its definition, the loss against the stock forward."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from causal_models import causal_model, embedded, gradients, wearing
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_model
from tune_lora.trainer import loss as module
from tune_lora.trainer.loss import laid_out, supervised_loss
from tune_lora.trainer.prefixes import trie

Rows = Sequence[Sequence[int]]

ALIKE: Rows = [
    [7, 8, 9, 20, 21, 22, 23],
    [7, 8, 9, 20, 21, 30],  # the same prompt, and answers that begin alike
    [7, 8, 9, 40, 41, 42, 43, 44, 45],
    [7, 8],  # where others only begin
    [7, 8, 9, 20, 21, 30],  # once more
    [50, 8, 9],
]


def used(rows: Rows, prompt: int = 3) -> list[list[int]]:
    """What of rows predicts: not their last token, and of a row that is all prompt just one."""
    return [list(row[:-1] if len(row) > prompt else row[:1]) for row in rows]


def nodes(rows: Rows) -> int:
    """How many different beginnings rows have."""
    return len({tuple(row[: end + 1]) for row in rows for end in range(len(row))})


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=6))
def test_a_node_is_a_beginning_and_sees_its_own(rows: Rows) -> None:
    tree = trie(rows)
    beginnings = {tuple(row[: end + 1]) for row in rows for end in range(len(row))}
    assert nodes(rows) == len(tree.tokens) == len(beginnings)
    named: dict[int, tuple[int, ...]] = {}
    for row, path in zip(rows, tree.paths, strict=True):
        assert tree.tokens[path].tolist() == list(row)
        assert tree.depths[path].tolist() == list(range(len(row)))
        for end, node in enumerate(path.tolist()):
            assert named.setdefault(node, tuple(row[: end + 1])) == tuple(row[: end + 1])
    assert len(named) == len(beginnings)
    sees = tree.sees()
    for one, mine in named.items():
        for other, theirs in named.items():
            assert bool(sees[one, other]) == (mine[: len(theirs)] == theirs)


def _batch(rows: Rows, prompt: int = 3) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[1] * (longest - len(row))] for row in rows])
    mask = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
    labels = ids.masked_fill(~mask | (torch.arange(longest) < prompt), -100)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


@pytest.mark.parametrize("prompt", [3, 1])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", sorted(module._BY_POSITION))
def test_what_rows_share_goes_through_once_at_the_same_loss(
    kind: str, attention: str, prompt: int
) -> None:
    """With a prompt of one token, what is shared is supervised too, once for each row."""
    model = wearing(causal_model(kind, attention)).eval()
    seen, batch = embedded(model), _batch(ALIKE, prompt)
    found, count = supervised_loss(model, batch)
    ours = gradients(model, found / count)
    stock = model(**batch).loss
    assert count == int((batch["labels"][:, 1:] != -100).sum())
    assert found.item() / count == pytest.approx(stock.item(), rel=1e-6)
    theirs = gradients(model, stock)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-6, rtol=1e-5, msg=name)
    assert seen == [(1, nodes(used(ALIKE, prompt))), (6, 9)]
    # The first row's, the third's answer, and the last row's.
    assert nodes(used(ALIKE)) == 6 + 5 + 1


def test_as_many_predictions_as_tokens() -> None:
    """Two rows of three tokens that share two, in a tree of four: each predicts two."""
    model, batch = tiny_model("llama").eval(), _batch([[5, 6, 7, 8], [5, 6, 9, 10]], prompt=2)
    found, count = supervised_loss(model, batch)
    inputs, targets = laid_out(model, batch)
    assert inputs["input_ids"].numel() == len(targets.positions) == count == 4
    assert found.item() / count == pytest.approx(model(**batch).loss.item(), rel=1e-6)


def test_a_row_alone_and_rows_that_share_nothing_go_as_before() -> None:
    model = tiny_model("llama").eval()
    alone, _ = laid_out(model, _batch(ALIKE[:1]))
    assert alone["input_ids"].shape == (1, 6)
    apart, _ = laid_out(model, _batch([[5, 6, 7], [6, 7]], prompt=1))
    assert apart["input_ids"].shape == (1, 3)
    assert "attention_mask" not in apart


def test_dropout_keeps_rows_whole_in_training_and_not_in_evaluation() -> None:
    """Whole, with their last tokens: what is dropped is drawn for as many as ever."""
    batch = _batch(ALIKE)
    whole = (1, sum(map(len, ALIKE)))
    for rate in ({"attention_dropout": 0.1}, {}):
        model = causal_model("llama")
        for name, value in rate.items():
            setattr(model.config, name, value)
        fields = {} if rate else {"lora_dropout": 0.05}
        adapter = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], **fields)
        model = get_peft_model(model, adapter)
        assert laid_out(model.train(), batch)[0]["input_ids"].shape == whole
        assert laid_out(model.eval(), batch)[0]["input_ids"].shape == (1, nodes(used(ALIKE)))


def test_a_window_shorter_than_a_row_keeps_rows_whole() -> None:
    model = causal_model("mistral").eval()
    for window, shape in ((8, (1, nodes(used(ALIKE)))), (7, (1, sum(map(len, used(ALIKE)))))):
        model.config.sliding_window = window
        assert laid_out(model, _batch(ALIKE))[0]["input_ids"].shape == shape
