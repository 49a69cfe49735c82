"""What a trial forgets, against the loss of the text by transformers and peft alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from packs import Together
from peft import PeftModel
from tiny_trials import RISING, Outcome, make_config, stop
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer
from tune_lora.spaces import DataBlock
from tune_lora.trainer import forgetting
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.data import TokenizedData, tokenize
from tune_lora.trainer.result import TrialState
from tune_lora.trainer.run import score_base

Trial = Callable[..., Outcome]
TEXTS = [f"The {word} of the {index}th day. " * 3 for index, word in enumerate("abcdefgh")]
LENGTH = 48


@pytest.fixture(scope="module")
def general(
    tmp_path_factory: pytest.TempPathFactory, pairs: Path, new_base: Callable[..., BaseModel]
) -> TokenizedData:
    """The pairs with a text beside them, of which five rows count."""
    path = tmp_path_factory.mktemp("general") / "texts.jsonl"
    rows = ["", *TEXTS[:2], "  ", *TEXTS[2:]]
    path.write_text("".join(json.dumps({"body": row}) + "\n" for row in rows), encoding="utf-8")
    text = {"source": str(path), "column": "body", "rows": 5}
    block = DataBlock.model_validate({"train": str(pairs), "max_length": LENGTH, "general": text})
    base = new_base()
    return tokenize(block, base.spec.task, base.tokenizer)


def by_hand(folder: Path, adapter: Path | None, texts: Sequence[str]) -> float:
    """The mean loss of a token, text by text, with what someone else would load."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    model.eval()
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id][:LENGTH]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits
        total += float(functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
    return total / count


def test_the_loss_before_and_after_is_that_of_the_files(
    trial: Trial, base: BaseModel, general: TokenizedData, tiny: Callable[..., Path]
) -> None:
    assert general.stats["general"]["rows"] == 5
    assert general.stats["general"]["longest"] == LENGTH
    # The best evaluation is the first, and the weights at the end are others.
    config = make_config({"target_modules": "all-linear"}, **RISING)
    outcome = trial(config, data=general)
    result = outcome.result
    assert (result.best_step, result.step) == (1, 3)
    before = by_hand(tiny(), None, TEXTS[:5])
    after = by_hand(tiny(), outcome.folder.adapter, TEXTS[:5])
    assert result.best is not None
    assert result.best.metrics["general_loss"] == pytest.approx(after, abs=2e-5)
    assert result.best.metrics["forgetting"] == pytest.approx(after - before, abs=2e-5)
    assert abs(after - before) > 1e-3
    assert [bool(e.metrics) for e in result.evaluations] == [True, False, False]
    score = score_base(base, general, config)
    assert score.metrics["general_loss"] == pytest.approx(before, abs=2e-5)
    assert score.metrics["forgetting"] == 0.0


def test_a_text_changes_nothing_else_and_is_none_of_the_splits(
    trial: Trial, data: TokenizedData, general: TokenizedData
) -> None:
    plain, beside = (trial(make_config(rungs=(1,)), data=each) for each in (data, general))
    assert plain.losses == beside.losses
    assert plain.rows("loss") == beside.rows("loss")
    assert general.fingerprint != data.fingerprint
    assert list(general.validation) == list(data.validation)


def test_a_trial_that_is_stopped_is_not_asked_what_it_forgot(
    trial: Trial, general: TokenizedData
) -> None:
    result = trial(make_config(rungs=(1,)), data=general, report=stop).result
    assert result.state is TrialState.PRUNED
    assert [e.metrics for e in result.evaluations] == [{}]
    patient = make_config(rungs=(1, 2, 3), early_stopping_patience=1, early_stopping_threshold=9.0)
    ended = trial(patient, data=general).result
    assert (ended.state, ended.stopped_early) == (TrialState.COMPLETE, True)
    assert ended.best is not None
    assert "forgetting" in ended.best.metrics


def test_before_is_measured_once_a_base_and_after_once_a_trial(
    trial: Trial, general: TokenizedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    score_on = forgetting.score_on
    monkeypatch.setattr(
        forgetting,
        "score_on",
        lambda m, b, rows, size: seen.append(size) or score_on(m, b, rows, size),
    )
    for number in range(2):
        trial(make_config(number=number, rungs=(1, 2)), data=general)
    assert seen == [3, 3, 3]


def test_packed_trials_share_what_the_base_had(
    base: BaseModel,
    general: TokenizedData,
    trial: Trial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configs = [make_config({"r": 2**number}, number=number) for number in range(2)]
    alone = [trial(config, data=general).result.best for config in configs]
    base.bare.clear()
    seen: list[Any] = []
    score_on = forgetting.score_on
    monkeypatch.setattr(
        forgetting, "score_on", lambda m, *rest: seen.append(m) or score_on(m, *rest)
    )
    together = Together(base, general, tmp_path / "packed", monkeypatch)
    for config in configs:
        together.start(config)
    packed = together.end()
    assert len(seen) == 3
    for number, single in enumerate(alone):
        best = packed[number].result.best
        assert best is not None
        assert single is not None
        assert best.metrics == pytest.approx(dict(single.metrics), abs=1e-4)


def test_as_the_objective_it_is_measured_at_each_evaluation(
    trial: Trial, general: TokenizedData
) -> None:
    measures = {"names": [], "general": True}
    config = make_config(
        {"target_modules": "all-linear"},
        rungs=(1, 2, 3),
        metric="forgetting",
        measures=measures,
        learning_rate=0.05,
    )
    outcome = trial(config, data=general)
    found = [e.metrics["forgetting"] for e in outcome.result.evaluations]
    assert len(set(found)) == 4
    assert outcome.result.score == min(found)
    assert [row["forgetting"] for row in outcome.rows("eval_loss")] == found
    same = trial(make_config({"target_modules": "all-linear"}, learning_rate=0.05), data=general)
    assert same.result.evaluations[-1].metrics["forgetting"] == pytest.approx(found[-1], abs=1e-6)


def test_where_memory_runs_out_fewer_rows_go_through(
    base: BaseModel, general: TokenizedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    score_on = forgetting.score_on

    def short(model: Any, base: BaseModel, rows: Any, size: int) -> tuple[float, int]:
        sizes.append(size)
        if size > 2:
            raise torch.OutOfMemoryError("2 GiB")
        return score_on(model, base, rows, size)

    monkeypatch.setattr(forgetting, "score_on", short)
    loss = forgetting.before(base, general.general, 8)
    assert sizes == [8, 4, 2]
    assert math.isclose(loss, score_on(base.model, base, general.general, 8)[0], rel_tol=1e-5)

    def broken(*_: Any) -> tuple[float, int]:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(forgetting, "score_on", broken)
    base.bare.clear()
    with pytest.raises(RuntimeError, match="no such kernel"):
        forgetting.before(base, general.general, 8)


def test_a_loss_that_is_not_finite_is_no_number(
    base: BaseModel, general: TokenizedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgetting.before(base, general.general, 4)
    monkeypatch.setattr(forgetting, "score_on", lambda *_: (math.nan, 9))
    assert forgetting.after(base.model, base, general.general, 4) == {}
