"""The masked loss, counted by hand token by token, against ours and against transformers'."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_models import TASKS, tiny_model, tiny_tokenizer
from transformers import PreTrainedModel, Trainer, TrainingArguments
from tune_lora.trainer.encode import causal_rows
from tune_lora.trainer.score import collator, score, supervised_count

TEXTS = ["1", '{"apples":12}', "a noun, defined at some length", "{}", '{"a":1,"b":[2,3,4]}']
CLASSES = 3


def _causal_rows() -> list[dict[str, Any]]:
    tokenizer = tiny_tokenizer()
    rows = []
    for index, text in enumerate(TEXTS):
        (row,) = causal_rows(tokenizer, [f"Define{' a noun' * index}: "], [text], 512)
        rows.append({"input_ids": row["input_ids"], "labels": row["labels"]})
    assert len({len(row["input_ids"]) for row in rows}) == len(rows)
    return rows


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    top = logits.max()
    return logits - top - math.log(np.exp(logits - top).sum())


def _by_hand(model: PreTrainedModel, rows: Sequence[dict[str, Any]]) -> tuple[float, int]:
    """Each row alone, unpadded; position i of the logits speaks of token i + 1."""
    losses = []
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0].double().numpy()
        for position, label in enumerate(row["labels"][1:]):
            if label != -100:
                losses.append(-_log_softmax(logits[position])[label])
    return sum(losses) / len(losses), len(losses)


def _score(
    model: PreTrainedModel, rows: Sequence[dict[str, Any]], task: str, batch_size: int
) -> tuple[float, int]:
    collate = collator(tiny_tokenizer(pad=None if task == "CAUSAL_LM" else "<pad>"), task)
    return score(
        model,
        Dataset.from_list(list(rows)),
        collate,
        task,
        batch_size=batch_size,
        autocast=contextlib.nullcontext(),
    )


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    """Sharpened, so that the tokens' losses differ widely."""
    model = tiny_model("llama").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def test_score_is_the_loss_counted_by_hand(llama: PreTrainedModel) -> None:
    rows = _causal_rows()
    loss, count = _score(llama, rows, "CAUSAL_LM", batch_size=len(rows))
    by_hand, tokens = _by_hand(llama, rows)
    assert count == tokens
    assert loss == pytest.approx(by_hand, abs=1e-5)
    # The mean of the rows' means, or a mean with the prompt in it, is another number.
    means = [_by_hand(llama, [row])[0] for row in rows]
    unmasked = [{**row, "labels": row["input_ids"]} for row in rows]
    assert abs(sum(means) / len(means) - by_hand) > 1e-3
    assert abs(_by_hand(llama, unmasked)[0] - by_hand) > 1e-3


def test_the_trainer_computes_the_same_on_one_batch(llama: PreTrainedModel, tmp_path: Path) -> None:
    rows = _causal_rows()
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_eval_batch_size=len(rows),
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    collate = collator(tiny_tokenizer(), "CAUSAL_LM")
    trainer = Trainer(
        model=llama, args=arguments, data_collator=collate, eval_dataset=Dataset.from_list(rows)
    )
    by_hand, _ = _by_hand(llama, rows)
    ours, _ = _score(llama, rows, "CAUSAL_LM", batch_size=len(rows))
    with torch.no_grad():
        batch_loss = float(trainer.compute_loss(llama, dict(collate(rows))))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(by_hand, abs=1e-5)
    assert batch_loss == pytest.approx(by_hand, abs=1e-5)
    assert ours == pytest.approx(batch_loss, abs=1e-5)


def _other_rows(task: str) -> list[dict[str, Any]]:
    if task == "SEQ_CLS":
        return [{"input_ids": [7] * (index + 2), "labels": index % 2} for index in range(5)]
    rows = [{"input_ids": [9] * (9 - n), "labels": [n + 3] * (n + 1)} for n in range(5)]
    return [{**row, "labels": [*row["labels"], 0]} for row in rows]


@pytest.mark.parametrize("architecture", ["llama", "t5", "bert"])
def test_the_batch_size_has_no_bearing(architecture: str) -> None:
    task = TASKS[architecture]
    rows = _causal_rows() if task == "CAUSAL_LM" else _other_rows(task)
    model = tiny_model(architecture)
    found = [_score(model, rows, task, size) for size in (1, 2, 3, 5, 64)]
    assert len({count for _, count in found}) == 1
    for loss, _ in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-6)


def _row(tokens: int, answer: int | None = None) -> dict[str, Any]:
    return {"input_ids": [7] * tokens, "labels": [8] * (tokens if answer is None else answer)}


def _asked(tokens: int, answer: int) -> dict[str, Any]:
    """A row of which only the last tokens have labels."""
    return {"input_ids": [7] * tokens, "labels": [-100] * (tokens - answer) + [8] * answer}


@pytest.mark.parametrize(
    ("task", "rows", "batches"),
    [
        # Twice twelve tokens, and no more in any other batch: 3 x 8, 6 x 4, and what is left.
        ("CAUSAL_LM", [_row(n) for n in (4, 12, 4, 8, 4, 12, 4, 8, 4, 8, 4, 2)], [2, 3, 6, 1]),
        ("CAUSAL_LM", [_row(5) for _ in range(5)], [2, 2, 1]),
        # Logits are as many as labels, which a row of few tokens may have more of.
        ("CAUSAL_LM", [_asked(12, 3), *(_asked(4, 3) for _ in range(5))], [2, 2, 2]),
        ("CAUSAL_LM", [_asked(12, 6), *(_asked(4, 3) for _ in range(5))], [2, 4]),
        # The longest source has the shortest answer.
        ("SEQ_2_SEQ_LM", [_row(12, 2), *(_row(2, 6) for _ in range(3))], [2, 2]),
    ],
)
def test_of_shorter_rows_there_are_more_in_a_batch(
    task: str, rows: list[dict[str, Any]], batches: list[int]
) -> None:
    seen: list[int] = []
    collate = collator(tiny_tokenizer(), task)

    def counted(given: list[dict[str, Any]]) -> Any:
        seen.append(len(given))
        return collate(given)

    model = tiny_model("t5" if task == "SEQ_2_SEQ_LM" else "llama")
    size = batches[0]
    _, count = score(
        model,
        Dataset.from_list(rows),
        counted,
        task,
        batch_size=size,
        autocast=contextlib.nullcontext(),
    )
    assert seen == batches
    skipped = 1 if task == "CAUSAL_LM" else 0
    assert count == sum(sum(x != -100 for x in row["labels"][skipped:]) for row in rows)


@pytest.mark.parametrize("architecture", ["t5", "bert"])
def test_other_tasks_by_hand(architecture: str) -> None:
    task, model = TASKS[architecture], tiny_model(architecture).eval()
    losses = []
    for row in _other_rows(task):
        labels = torch.tensor([row["labels"]])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).logits
        table = logits.double().numpy().reshape(-1, logits.shape[-1])
        for position, label in enumerate(labels.flatten().tolist()):
            losses.append(-_log_softmax(table[position])[label])
    loss, count = _score(model, _other_rows(task), task, batch_size=2)
    assert count == len(losses)
    assert loss == pytest.approx(sum(losses) / len(losses), abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_and_dropout_is_off(training: bool) -> None:
    model = tiny_model("gpt2").train(training)
    first, second = (_score(model, _causal_rows(), "CAUSAL_LM", 2) for _ in range(2))
    assert first == second
    assert model.training is training


def test_the_first_label_of_a_causal_row_is_never_predicted() -> None:
    labels = torch.tensor([[5, 6, -100], [-100, 7, 8]])
    assert supervised_count(labels, "CAUSAL_LM") == 3
    assert supervised_count(labels, "SEQ_2_SEQ_LM") == 4
    assert supervised_count(torch.tensor([0, 2, 1]), "SEQ_CLS") == 3
