"""What is shown while a search runs: numbers, plain lines, the table."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from tune_lora.reports.formats import clock
from tune_lora.search.live import LiveTable, PlainLines, Progress, describe, make_display
from tune_lora.spaces import Space
from tune_lora.trainer.result import Evaluation, TrialResult, TrialState


def moved(
    number: int, state: str = "RUNNING", step: int = 0, loss: float | None = None, **config: Any
) -> TrialResult:
    fields = {
        "lora": {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]},
        "train": {"learning_rate": 3.1e-4},
        **config,
    }
    found = () if loss is None else (Evaluation(step, loss, 1.0),)
    return TrialResult(
        number, TrialState(state), fields, score=loss, best_step=step, step=step, evaluations=found
    )


def progress_of(*results: TrialResult, trials: int = 4, seconds: float = 0.0) -> Progress:
    """With a clock that stands ``seconds`` after the start."""
    progress = Progress(trials, 10)
    progress._start = time.monotonic() - seconds
    for result in results:
        progress.update(result)
    return progress


def test_there_is_no_eta_before_a_trial_has_ended() -> None:
    assert progress_of(moved(0, step=5, loss=1.0), seconds=60).eta() is None


@pytest.mark.parametrize(
    ("results", "left"),
    [
        ([moved(0, "COMPLETE", 10, 1.0)], 300.0),  # 1 of 4 in 100 s
        ([moved(0, "PRUNED", 2, 1.0), moved(1, "FAILED")], 100.0),  # 2 of 4
        ([moved(0, "COMPLETE", 10, 1.0), moved(1, step=5, loss=1.0)], 2.5 / 1.5 * 100),
        ([moved(n, "COMPLETE", 10, 1.0) for n in range(4)], 0.0),
    ],
)
def test_eta_is_the_pace_so_far(results: list[TrialResult], left: float) -> None:
    assert progress_of(*results, seconds=100).eta() == pytest.approx(left, rel=1e-3, abs=0.1)


def test_trials_of_an_earlier_part_count_but_set_no_pace() -> None:
    earlier = {n: moved(n, "COMPLETE", 10, 1.0 + n) for n in range(2)}
    progress = Progress(5, 10, earlier)
    progress._start = time.monotonic() - 60
    assert (progress.ended, progress.eta()) == (2, None)
    progress.update(moved(2, "COMPLETE", 10, 3.0))
    assert progress.eta() == pytest.approx(120, rel=1e-2)
    assert progress.best is earlier[0]


def test_best_is_the_lowest_of_those_that_can_be_ranked() -> None:
    progress = progress_of(moved(0, "DIVERGED", 2, 0.1), moved(1, "LOST", 2, 0.2))
    assert progress.best is None
    for result in (moved(2, "PRUNED", 2, 0.9), moved(3, step=2, loss=0.8)):
        progress.update(result)
        assert progress.best is result


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (247, "4:07"), (3599.6, "1:00:00"), (3723, "1:02:03")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_describe() -> None:
    assert describe(moved(0).config) == "r=16 alpha=32 q_proj,v_proj lr=3.1e-04"


def lines(*results: TrialResult) -> list[str]:
    console = Console(file=io.StringIO(), width=40)
    with PlainLines(Progress(2, 10), console) as display:
        for result in results:
            display.update(result)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.strip() for line in text.splitlines()]


def test_plain_lines_are_one_an_event_however_narrow() -> None:
    assert lines(
        moved(0, baseline=True),
        moved(0, step=2, loss=1.5),
        moved(0, "PRUNED", 2, 1.5),
        moved(1),
        moved(1, "FAILED"),
    ) == [
        "0:00  trial-0000  started   r=16 alpha=32 q_proj,v_proj lr=3.1e-04"
        "  (the default configuration)",
        "0:00  trial-0000  step   2/10  eval_loss 1.5000",
        "0:00  trial-0000  step   2/10  eval_loss 1.5000  PRUNED  best so far 1.5000  1/2 ended"
        "  0:00 to go",
        "0:00  trial-0001  started   r=16 alpha=32 q_proj,v_proj lr=3.1e-04",
        "0:00  trial-0001  step   0/10  FAILED  best so far 1.5000  2/2 ended",
    ]


def test_where_a_trial_has_come_to_run_is_a_line() -> None:
    begun, on = moved(0), {"place": "gpu-3 GPU 0,1"}
    seen = lines(begun, replace(begun, **on), replace(moved(0, step=2, loss=1.5), **on))
    assert seen[1:] == [
        "0:00  trial-0000  runs on   gpu-3 GPU 0,1",
        "0:00  trial-0000  step   2/10  eval_loss 1.5000",
    ]
    # Seen by a watcher: both at once, of which the evaluation is said.
    assert lines(begun, replace(moved(0, step=2, loss=1.5), **on))[1:] == seen[2:]


def test_the_table_has_places_where_there_are_any() -> None:
    console = Console(record=True, force_terminal=True, width=120, file=io.StringIO())
    with LiveTable(Progress(10, 10), console) as display:
        display.update(replace(moved(0), place="gpu-3 GPU 0"))
        display.update(moved(1))
    rows = [line.split() for line in console.export_text().splitlines() if "r=16" in line][-2:]
    assert [row[2:-6] for row in rows] == [["gpu-3", "GPU", "0", "r=16"], ["waiting", "r=16"]]


def test_the_table_shows_every_state() -> None:
    console = Console(record=True, force_terminal=True, width=120, file=io.StringIO())
    states = ["COMPLETE", "PRUNED", "DIVERGED", "OUT_OF_MEMORY", "FAILED", "LOST", "RUNNING"]
    progress = Progress(10, 10)
    with LiveTable(progress, console) as display:
        for number, state in enumerate(states):
            loss = None if state == "FAILED" else 2.0 - number / 10
            display.update(moved(number, state, 4, loss, baseline=number == 0))
    shown = console.export_text().splitlines()
    (title,) = {line.strip() for line in shown if "trials ended" in line and "6 of 10" in line}
    assert "best eval_loss 1.4000" in title
    rows = [line.split() for line in shown if "r=16" in line][-7:]
    assert [row[1] for row in rows] == states
    assert [row[0] for row in rows] == ["default", "1", "2", "3", "4", "5", "6"]
    assert rows[4][-3:] == ["4/10", "-", "-"]
    assert rows[6][-3:] == ["4/10", "1.4000", "1.4000"]


@pytest.mark.parametrize("display", [LiveTable, PlainLines])
def test_a_note_is_a_line_of_its_own(display: type[LiveTable | PlainLines]) -> None:
    console = Console(record=True, force_terminal=True, width=120, file=io.StringIO())
    with display(progress_of(moved(0), seconds=62), console) as shown:
        shown.note(3, "its worker died [again]")
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert "  1:02  trial-0003  its worker died [again]" in lines


@pytest.mark.parametrize(("terminal", "kind"), [(True, LiveTable), (False, PlainLines)])
def test_lines_where_there_is_no_terminal(
    space_of: Callable[..., Space], terminal: bool, kind: type
) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal)
    assert isinstance(make_display(space_of(), {}, console), kind)
