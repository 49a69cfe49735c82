"""Answers in batches are those of each prompt alone, and questions are cut where they begin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_trials import go_on, make_config
from tune_lora.trainer.answers import answers, classes, question
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.encode import IGNORE
from tune_lora.trainer.folder import TrialFolder
from tune_lora.trainer.metrics import Measures
from tune_lora.trainer.run import run_trial, score_base

GENERATING = ["llama", "gpt2", "bloom", "falcon", "opt", "t5"]


@pytest.mark.parametrize("architecture", GENERATING)
def test_a_batch_gives_what_each_prompt_gives_alone(
    architecture: str,
    new_base: Callable[..., BaseModel],
    tokenized: Callable[..., TokenizedData],
) -> None:
    base, rows = new_base(architecture), tokenized(architecture).validation
    causal = base.spec.task == "CAUSAL_LM"
    ids = [question(row, base).prompt for row in rows]
    # Of unequal lengths and ends, so that some are padded and answers differ.
    prompts = [each[: len(each) - 2 * (index % 3) - 1] for index, each in enumerate(ids)]
    found = answers(base.model, base, prompts, max_new_tokens=6, batch_size=3)
    for prompt, answer in zip(prompts, found, strict=True):
        inputs = torch.tensor([list(prompt)])
        made = base.model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=base.tokenizer.pad_token_id,
        )[0]
        new = made[len(prompt) :] if causal else made
        assert answer == base.tokenizer.decode(new, skip_special_tokens=True)
    assert len(set(found)) > 1 or architecture == "t5"


def test_a_question_ends_where_its_answer_begins(base: BaseModel, data: TokenizedData) -> None:
    for row in data.validation:
        found = question(row, base)
        start = len(found.prompt)
        assert row["labels"][:start] == [IGNORE] * start
        assert row["labels"][start] != IGNORE
        assert base.tokenizer.decode(found.prompt).endswith("### Response:\n")
        assert found.reference.startswith('{"apples":')
        assert found.reference.endswith("}")


def test_of_several_answers_in_a_row_the_first_counts(base: BaseModel) -> None:
    ids = base.tokenizer("ab cd ef")["input_ids"]
    labels = [IGNORE, ids[1], IGNORE, *ids[3:]]
    found = question({"input_ids": ids, "labels": labels}, base)
    assert found.prompt == tuple(ids[:1])
    assert found.reference == base.tokenizer.decode(ids[1:2])


def test_a_classifier_s_classes_are_those_of_its_rows(
    new_base: Callable[..., BaseModel], tokenized: Callable[..., TokenizedData]
) -> None:
    base, rows = new_base("bert"), tokenized("bert").validation
    predicted, true = classes(base.model, base, rows, 3)
    assert true == [base.spec.labels[label] for label in rows["labels"]]
    for row, name in zip(rows, predicted, strict=True):
        logits = base.model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        assert name == base.spec.labels[int(logits.argmax())]


def test_a_trial_is_judged_by_its_metric_and_keeps_that_step_s_adapter(
    base: BaseModel, data: TokenizedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made up: the metric is best at the second of three evaluations, the loss at the last."""
    from tune_lora.trainer import run

    course = iter([{"exact_match": 0.2}, {"exact_match": 0.9}, {"exact_match": 0.5}])
    monkeypatch.setattr(run, "measured", lambda *_: next(course))
    config = make_config(rungs=(1, 2), metric="exact_match", max_steps=4)
    folder = TrialFolder(tmp_path / "trial")
    result = run_trial(config, base, data, go_on, folder)
    assert (result.score, result.best_step) == (0.9, 2)
    assert [e.metrics["exact_match"] for e in result.evaluations] == [0.2, 0.9, 0.5]
    assert (folder.adapter / "step.json").read_text("utf-8").strip() == "2"
    assert result.evaluations[2].eval_loss < result.evaluations[1].eval_loss
    assert result.cost == -0.9


def test_a_trial_without_the_metric_has_no_score(
    base: BaseModel, data: TokenizedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tune_lora.trainer import run

    monkeypatch.setattr(run, "measured", lambda *_: {})
    config = make_config(metric="exact_match")
    result = run_trial(config, base, data, go_on, TrialFolder(tmp_path / "trial"))
    assert (result.score, result.best_step) == (None, None)


def test_base_and_trial_are_measured_alike(
    base: BaseModel, data: TokenizedData, tmp_path: Path
) -> None:
    names = ["exact_match", "json_valid", "rougeL"]
    measures = {"names": names, "rows": 2, "max_new_tokens": 4, "batch_size": 2, "folder": ""}
    # With a rate of next to nothing a trial is the base model.
    config = make_config(learning_rate=1e-12, max_steps=1, measures=measures)
    before = score_base(base, data, config)
    result = run_trial(config, base, data, go_on, TrialFolder(tmp_path / "trial"), test=True)
    assert set(before.metrics) == set(names)
    assert result.evaluations[-1].metrics == before.metrics
    assert set(result.test) == {"eval_loss", *names}
    assert Measures.from_dict(config.measures).rows == 2
