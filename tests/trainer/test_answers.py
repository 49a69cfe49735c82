"""Answers in batches are those of each prompt alone, and questions are cut where they begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from packs import Together, assert_same
from tiny_trials import Outcome, go_on, make_config
from tune_lora.trainer.answers import Question, answers, classes, question
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.encode import IGNORE
from tune_lora.trainer.folder import TrialFolder
from tune_lora.trainer.metrics import Measures, measured
from tune_lora.trainer.run import run_trial, score_base

RATES = {"target_modules": "all-linear", "lora_dropout": 0.1}
MEASURES = {
    "names": ["exact_match", "json_valid", "rougeL"],
    "rows": 3,
    "max_new_tokens": 6,
    "batch_size": 2,
    "folder": "",
}
GENERATING = ["llama", "gpt2", "bloom", "falcon", "opt", "t5"]


def asked(row: Mapping[str, Any], base: BaseModel) -> Question:
    return question(row, base.tokenizer, base.spec.task)


@pytest.mark.parametrize("architecture", GENERATING)
def test_a_batch_gives_what_each_prompt_gives_alone(
    architecture: str,
    new_base: Callable[..., BaseModel],
    tokenized: Callable[..., TokenizedData],
) -> None:
    base, rows = new_base(architecture), tokenized(architecture).validation
    causal = base.spec.task == "CAUSAL_LM"
    ids = [asked(row, base).prompt for row in rows]
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
        found = asked(row, base)
        start = len(found.prompt)
        assert row["labels"][:start] == [IGNORE] * start
        assert row["labels"][start] != IGNORE
        assert base.tokenizer.decode(found.prompt).endswith("### Response:\n")
        assert found.reference.startswith('{"apples":')
        assert found.reference.endswith("}")


def test_of_several_answers_in_a_row_the_first_counts(base: BaseModel) -> None:
    ids = base.tokenizer("ab cd ef")["input_ids"]
    labels = [IGNORE, ids[1], IGNORE, *ids[3:]]
    found = asked({"input_ids": ids, "labels": labels}, base)
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


def test_a_row_that_is_supervised_from_its_first_token_is_asked_by_it(base: BaseModel) -> None:
    ids = base.tokenizer("abc")["input_ids"]
    found = asked({"input_ids": ids, "labels": ids}, base)
    assert found.prompt == tuple(ids[:1])
    assert found.reference == base.tokenizer.decode(ids[1:])


def test_answers_come_in_smaller_batches_where_memory_runs_out(
    base: BaseModel, data: TokenizedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [asked(row, base).prompt for row in data.validation]
    wanted = answers(base.model, base, prompts, max_new_tokens=4, batch_size=4)
    real, tried = base.model.generate, []

    def scarce(input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        tried.append(len(input_ids))
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError("injected")
        return real(input_ids=input_ids, **options)

    monkeypatch.setattr(base.model, "generate", scarce)
    assert answers(base.model, base, prompts, max_new_tokens=4, batch_size=4) == wanted
    assert tried == [4, 2, 1, 1, 1, 1]
    monkeypatch.setattr(base.model, "generate", lambda **_: pytest.fail("not this one"))
    with pytest.raises(pytest.fail.Exception):
        answers(base.model, base, prompts, max_new_tokens=4, batch_size=4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_trial_s_losses_are_the_same_whether_or_not_it_is_asked(
    trial: Callable[..., Outcome], checkpointing: bool
) -> None:
    """With dropout: answering draws no random number and leaves training as it was."""
    options: dict[str, Any] = {"rungs": (1, 2), "gradient_checkpointing": checkpointing}
    plain = trial(make_config(RATES, **options))
    both = trial(make_config(RATES, measures=MEASURES, **options))
    assert both.losses == plain.losses
    assert [r["loss"] for r in both.rows("loss")] == [r["loss"] for r in plain.rows("loss")]
    assert all(set(e.metrics) == set(MEASURES["names"]) for e in both.result.evaluations)
    assert both.rows("eval_loss")[0]["rougeL"] == both.result.evaluations[0].metrics["rougeL"]


def test_trials_in_one_pass_answer_as_they_do_alone(
    base: BaseModel,
    data: TokenizedData,
    tmp_path: Path,
    trial: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configs = [
        make_config(
            {"r": 2 + number, "target_modules": "all-linear"},
            number=number,
            rungs=(2,),
            metric="rougeL",
            measures=MEASURES,
            learning_rate=rate,
        )
        for number, rate in enumerate((1e-2, 3e-2))
    ]
    alone = [trial(config) for config in configs]
    together = Together(base, data, tmp_path / "packed", monkeypatch)
    for config in configs:
        together.start(config)
    packed = together.end()
    assert 2 in together.sizes
    for mine, other in zip((packed[0], packed[1]), alone, strict=True):
        assert_same(mine, other, 1e-4)
        assert [e.metrics for e in mine.result.evaluations] == [
            e.metrics for e in other.result.evaluations
        ]


def test_an_encoder_decoder_and_a_classifier_are_measured(
    new_base: Callable[..., BaseModel], tokenized: Callable[..., TokenizedData]
) -> None:
    base, rows = new_base("t5"), tokenized("t5").validation
    wanted = Measures(("rouge1", "exact_match"), rows=2, max_new_tokens=4)
    assert set(measured(base.model, base, rows, wanted, 2)) == {"rouge1", "exact_match"}
    base, rows = new_base("bert"), tokenized("bert").validation
    found = measured(base.model, base, rows, Measures(("accuracy", "f1")), 2)
    predicted, true = classes(base.model, base, rows, 8)
    right = sum(one == other for one, other in zip(predicted, true, strict=True))
    assert found["accuracy"] == right / len(rows)
