"""Score and adapter are of the best step, which is checked by loading the adapter with peft."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from safetensors.torch import load_file
from tiny_trials import RISING, Outcome, checksum, go_on, make_config, row_by_row
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.folder import TrialFolder
from tune_lora.trainer.result import TrialResult, TrialState
from tune_lora.trainer.run import run_trial, score_base

Trial = Callable[..., Outcome]

ALL = {"target_modules": "all-linear"}


@pytest.fixture
def reloaded_loss(
    new_base: Callable[..., BaseModel], data: TokenizedData
) -> Callable[[Outcome], float]:
    """The validation loss of a trial's adapter on a base loaded anew."""

    def loss(outcome: Outcome) -> float:
        model = PeftModel.from_pretrained(new_base().model, str(outcome.folder.adapter))
        return row_by_row(model, data.validation)

    return loss


@pytest.mark.parametrize(
    ("lora", "train"),
    [
        ({}, {}),
        (ALL, {"eval_steps": 1}),
        (ALL, RISING),
        ({"use_dora": True}, {}),
        ({"use_rslora": True, "rank_pattern": {"v_proj": 2}}, {}),
        ({"modules_to_save": ["lm_head"]}, {}),
        ({"bias": "all"}, {}),
        ({"init_lora_weights": "pissa"}, {}),
    ],
)
def test_score_is_the_loss_of_the_saved_adapter(
    trial: Trial,
    reloaded_loss: Callable[[Outcome], float],
    lora: dict[str, Any],
    train: dict[str, Any],
) -> None:
    outcome = trial(make_config(lora, **train))
    assert outcome.result.state is TrialState.COMPLETE
    assert outcome.result.score == pytest.approx(reloaded_loss(outcome), rel=1e-6)


@pytest.mark.parametrize(
    ("lora", "train"),
    [
        (ALL, RISING),
        ({"use_dora": True}, {}),
        ({"modules_to_save": ["lm_head"]}, {}),
        ({"bias": "all"}, {}),
        ({"init_lora_weights": "pissa"}, {}),
    ],
)
def test_the_test_rows_are_scored_with_the_saved_adapter(
    base: BaseModel,
    data: TokenizedData,
    new_base: Callable[..., BaseModel],
    tmp_path: Path,
    lora: dict[str, Any],
    train: dict[str, Any],
) -> None:
    folder = TrialFolder(tmp_path / "trial")
    config = make_config(lora, **train)
    result = run_trial(config, base, data, go_on, folder, test=True)
    assert result.best_step is not None
    assert result.step >= result.best_step
    model = PeftModel.from_pretrained(new_base().model, str(folder.adapter))
    assert result.test_score == pytest.approx(row_by_row(model, data.test), rel=1e-6)
    assert result.score == pytest.approx(row_by_row(model, data.validation), rel=1e-6)


def test_the_test_rows_are_left_alone_unless_asked_for(
    base: BaseModel, data: TokenizedData, tmp_path: Path
) -> None:
    class Forbidden:
        def __len__(self) -> int:
            raise AssertionError("the test rows were looked at")

    result = run_trial(
        make_config(),
        base,
        replace(data, test=Forbidden()),  # type: ignore[arg-type]
        go_on,
        TrialFolder(tmp_path / "trial"),
    )
    assert (result.state, result.test) == (TrialState.COMPLETE, {})


def test_adapter_of_the_best_step_is_kept_not_of_the_last(
    trial: Trial, reloaded_loss: Callable[[Outcome], float]
) -> None:
    outcome = trial(make_config(ALL, **RISING))
    losses, result = outcome.losses, outcome.result
    assert losses[0] < losses[-1] - 0.01
    assert result.score == min(losses)
    assert result.best_step == 1 + losses.index(min(losses))
    assert result.best_step < result.step == len(losses)
    assert reloaded_loss(outcome) == pytest.approx(min(losses), rel=1e-6)


def test_falling_loss_keeps_the_last(trial: Trial) -> None:
    outcome = trial(make_config(ALL, rungs=(1, 3), max_steps=6))
    assert outcome.losses == sorted(outcome.losses, reverse=True)
    assert (outcome.result.best_step, outcome.result.score) == (6, outcome.losses[-1])


def test_adapter_is_on_disk_whenever_report_is_asked(trial: Trial, tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path / "watched")
    norms: list[float] = []

    def report(result: TrialResult) -> bool:
        weights = load_file(folder.adapter / "adapter_model.safetensors")
        norms.append(sum(float(w.norm()) for name, w in weights.items() if "lora_B" in name))
        return True

    trial(make_config(rungs=(1, 2), max_steps=4), folder=folder, report=report)
    assert len(norms) == 2
    assert 0 < norms[0] < norms[1]


def test_only_the_adapter_is_kept(trial: Trial) -> None:
    outcome = trial(make_config(rungs=(1, 2)))
    assert sorted(path.name for path in outcome.folder.root.iterdir()) == [
        "adapter",
        "metrics.jsonl",
    ]
    assert sorted(path.name for path in outcome.folder.adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "step.json",
    ]


def test_trial_that_starts_over_leaves_nothing_of_its_first_run(trial: Trial) -> None:
    first = trial(make_config())
    (first.folder.adapter / "stale").write_text("x", encoding="utf-8")
    again = trial(make_config(), folder=first.folder)
    assert first.folder.adapter.is_dir()
    assert not (first.folder.adapter / "stale").exists()
    assert again.rows("loss") == first.rows("loss")
    assert len(again.rows("loss")) == 4


def test_base_score_is_that_of_the_bare_model(base: BaseModel, data: TokenizedData) -> None:
    before = checksum(base.model)
    scored = score_base(base, data, make_config())
    assert scored.eval_loss == pytest.approx(row_by_row(base.model, data.validation), rel=1e-6)
    assert scored.rows == len(data.validation)
    assert scored.tokens == data.stats["validation"]["supervised"]
    assert checksum(base.model) == before
