"""Searches in this process, broken in on at a line of their display; and what they leave."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import optuna
from rich.console import Console
from tune_lora.search import driver
from tune_lora.spaces import Space
from tune_lora.trainer.folder import RunFolder


class Interjecting(Console):
    """Does something once, when a line that contains ``words`` is shown."""

    def __init__(self, words: str, act: Callable[[], object]) -> None:
        super().__init__(file=io.StringIO())
        self._words, self._act = words, act
        self.acted = False

    def print(self, *objects: Any, **options: Any) -> None:
        if not self.acted and any(self._words in str(shown) for shown in objects):
            self.acted = True
            self._act()


def search(space: Space, run: RunFolder, console: Console | None = None) -> driver.SearchOutcome:
    """Trial after trial in this process."""
    console = console or Console(file=io.StringIO())
    return driver.run_search(space, run, console, local=True)


def trial_rows(run: RunFolder) -> list[dict[str, str]]:
    """The trials' rows of the leaderboard file, the best first."""
    with run.leaderboard("csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["kind"] != "base"]


def numbers(run: RunFolder) -> list[int]:
    """The numbers of those trials, each as often as it is there."""
    return sorted(int(row["trial"]) for row in trial_rows(run))


def study_states(run: RunFolder) -> list[str]:
    """The states in the study on disk, as any other program would read them."""
    study = optuna.load_study(study_name=run.name, storage=f"sqlite:///{run.study}")
    return [trial.state.name for trial in study.trials]
