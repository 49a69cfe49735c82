"""What befalls one trial of a pack is its own affair; and nobody waits for ever."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packs import PATIENCE, Together, assert_equal, assert_same, failing_above
from tiny_trials import EXPLODING, Outcome, checksum, make_config
from transformers import Trainer
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.pack import Pack
from tune_lora.trainer.result import TrialResult, TrialState

Trial = Callable[..., Outcome]
ALL = {"target_modules": "all-linear"}


@pytest.fixture
def together(
    tmp_path: Path, base: BaseModel, data: TokenizedData, monkeypatch: pytest.MonkeyPatch
) -> Together:
    return Together(base, data, tmp_path / "packed", monkeypatch)


def test_one_that_diverges(trial: Trial, together: Together, base: BaseModel) -> None:
    before = checksum(base.model)
    exploding = make_config(ALL, number=0, max_steps=6, **EXPLODING)
    others = [make_config(ALL, number=n, seed=n, max_steps=6) for n in (1, 2)]
    expected = {c.number: trial(c) for c in others}
    for config in (exploding, *others):
        together.start(config)
    found = together.end()
    assert found[0].result.state is TrialState.DIVERGED
    for config in others:
        assert_same(found[config.number], expected[config.number], 2e-5)
    # It was in a pass with the others when its loss was no longer a number.
    assert together.sizes[:2] == [3, 3]
    assert checksum(base.model) == before


@pytest.mark.parametrize(("most", "tried"), [(3, [4, 2, 2]), (2, [4, 2, 2]), (1, [4, 2])])
def test_a_pass_that_does_not_fit_is_made_in_parts(
    trial: Trial,
    together: Together,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    tried: list[int],
) -> None:
    configs = [make_config(number=n, seed=n, gradient_accumulation_steps=2) for n in range(4)]
    expected = {c.number: trial(c) for c in configs}
    with failing_above(most, monkeypatch) as sizes, caplog.at_level(logging.WARNING):
        for config in configs:
            together.start(config)
        found = together.end()
    for number, outcome in found.items():
        if most == 1:
            assert_equal(outcome, expected[number])
        else:
            assert_same(outcome, expected[number], 2e-5)
    assert sizes[: len(tried)] == tried
    # Trials' batches differ in length; but a size that failed is not tried again.
    assert sizes.count(4) <= 2
    assert any("do not fit into one pass: injected" in text for text in caplog.messages)


def _fails_in_its_third_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = Trainer.training_step

    def broken(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self._recorder.result.number == number and self.state.global_step == 2:
            raise RuntimeError("broken step")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", broken)


@pytest.mark.parametrize(
    "fails",
    [
        make_config({"target_modules": ["missing"]}),
        # Refused by TrainingArguments, when accelerate's states have been cleared for it already.
        make_config(optim="nonsense"),
        make_config(lr_scheduler_type="cosine_with_min_lr"),
        make_config({"lora_dropout": 0.1}),
    ],
    ids=["adapter", "arguments", "schedule", "step"],
)
def test_one_that_fails(
    trial: Trial, together: Together, monkeypatch: pytest.MonkeyPatch, fails: Any
) -> None:
    others = [make_config(number=n, seed=n, max_steps=5) for n in (1, 2)]
    expected = {c.number: trial(c) for c in others}
    _fails_in_its_third_step(monkeypatch, 0)
    started = threading.Event()

    def come_late(result: TrialResult) -> bool:
        if not started.is_set():
            together.start(fails)
            started.set()
        return True

    together.start(make_config(number=3, rungs=(1,), max_steps=5), report=come_late)
    for config in others:
        together.start(config)
    started.wait(PATIENCE)
    found = together.end()
    assert found[0].result.state is TrialState.FAILED
    for config in others:
        assert_same(found[config.number], expected[config.number], 2e-5)


def test_the_others_go_on_while_one_waits_for_its_answer(trial: Trial, together: Together) -> None:
    """The first is answered only when the second has ended, the second when the first asks."""
    asked, ended = threading.Event(), threading.Event()

    def slow(result: TrialResult) -> bool:
        asked.set()
        return ended.wait(PATIENCE)

    def after(result: TrialResult) -> bool:
        return asked.wait(PATIENCE)

    first = make_config(number=0, rungs=(2,), max_steps=4)
    second, third = (make_config(number=n, seed=n, rungs=(1,), max_steps=6) for n in (1, 2))
    expected = {c.number: trial(c) for c in (first, second, third)}
    together.start(first, report=slow)
    together.start(second, report=after)
    together.start(third, report=lambda result: False)
    for thread in together.threads[1:]:
        thread.join(PATIENCE)
    assert sorted(together.outcomes) == [1, 2]
    ended.set()
    found = together.end()
    assert_same(found[0], expected[0], 2e-5)
    assert_same(found[1], expected[1], 2e-5)
    assert found[2].result.state is TrialState.PRUNED


def test_members_that_never_train_leave_nobody_waiting(base: BaseModel) -> None:
    pack = Pack(base)

    def come_and_go(at_once: bool) -> None:
        with contextlib.suppress(ZeroDivisionError), pack.member(make_config()) as lent:
            assert lent.pack is not None
            if not at_once:
                assert lent.pack.run(None) is None
            with lent.pack.away():
                raise ZeroDivisionError

    threads = [
        threading.Thread(target=come_and_go, args=(number % 2 == 0,), daemon=True)
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    pack.close()
