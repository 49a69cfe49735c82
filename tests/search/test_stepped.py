"""A trial from evaluation to evaluation: the hand-over between two threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from tune_lora.search.stepped import SteppedTrial
from tune_lora.trainer.result import TrialResult, TrialState

Report = Callable[[TrialResult], bool]


def at(step: int, state: TrialState = TrialState.RUNNING) -> TrialResult:
    return TrialResult(0, state, {}, step=step)


class Script:
    """Reports steps 1 to ``last`` as long as it is told to go on, and notes what it was told."""

    def __init__(self, last: int, error: BaseException | None = None) -> None:
        self.last, self.error = last, error
        self.told: list[bool] = []
        self.cleaned = False

    def __call__(self, report: Report) -> TrialResult:
        try:
            for step in range(1, self.last + 1):
                self.told.append(report(at(step)))
                if not self.told[-1]:
                    return at(step, TrialState.PRUNED)
            if self.error is not None:
                raise self.error
            return at(self.last + 1, TrialState.COMPLETE)
        finally:
            self.cleaned = True


def trial_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "trial"]


def ended() -> bool:
    for thread in trial_threads():
        thread.join(5)
    return not trial_threads()


def test_nothing_runs_before_the_first_advance() -> None:
    script = Script(2)
    SteppedTrial(script)
    assert not trial_threads()
    assert (script.told, script.cleaned) == ([], False)


def test_one_advance_an_evaluation_then_the_end() -> None:
    script = Script(3)
    trial = SteppedTrial(script)
    seen = [trial.advance() for _ in range(4)]
    assert [result.step for result in seen] == [1, 2, 3, 4]
    assert [result.state.finished for result in seen] == [False, False, False, True]
    assert script.told == [True, True, True]
    assert ended()


def test_it_does_not_run_ahead() -> None:
    script = Script(3)
    trial = SteppedTrial(script)
    trial.advance()
    (thread,) = trial_threads()
    thread.join(0.2)
    assert thread.is_alive()
    assert script.told == []
    trial.stop()


def test_stop_lets_it_clean_up_and_waits_for_that() -> None:
    script = Script(3)
    trial = SteppedTrial(script)
    trial.advance()
    trial.stop()
    assert script.told == [False]
    assert script.cleaned
    assert not trial_threads()


@pytest.mark.parametrize("advances", [0, 3])
def test_stop_before_the_first_advance_or_after_the_end_is_nothing(advances: int) -> None:
    trial = SteppedTrial(Script(2))
    for _ in range(advances):
        trial.advance()
    trial.stop()
    trial.stop()
    assert ended()


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), SystemExit(3)])
def test_exceptions_pass_to_the_caller(error: BaseException) -> None:
    trial = SteppedTrial(Script(1, error))
    assert trial.advance().step == 1
    with pytest.raises(type(error)) as caught:
        trial.advance()
    assert caught.value is error
    assert ended()


def test_two_trials_one_after_the_other_do_not_mix() -> None:
    first, second = Script(5), Script(2)
    before = SteppedTrial(first)
    before.advance()
    before.stop()
    after = SteppedTrial(second)
    assert [after.advance().step for _ in range(3)] == [1, 2, 3]
    assert (first.told, second.told) == ([False], [True, True])
    assert ended()
