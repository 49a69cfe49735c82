"""Whole searches in this process, and what their leaderboard files say."""

from __future__ import annotations

import csv
import io

from rich.console import Console
from tune_lora.search import driver
from tune_lora.spaces import Space
from tune_lora.trainer.folder import RunFolder


def searched(space: Space, run: RunFolder) -> driver.SearchOutcome:
    """The search, trial after trial in this process."""
    return driver.run_search(space, run, Console(file=io.StringIO()), local=True)


def board(run: RunFolder) -> list[dict[str, str]]:
    """The trials' rows of the leaderboard file."""
    with run.leaderboard("csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["kind"] != "base"]


def numbers(run: RunFolder) -> list[int]:
    """The numbers of those trials, each as often as it is there."""
    return sorted(int(row["trial"]) for row in board(run))
