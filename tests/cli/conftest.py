"""What this room's tests share: the command line as a user calls it, and a finished run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# As the command line has it, whose errors are read here; tqdm looks when it is imported.
os.environ.setdefault("TQDM_DISABLE", "1")

import pytest

# The other rooms' makers of run folders.
sys.path.append(str(Path(__file__).parents[1] / "reports"))


class Answer(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


Tool = Callable[..., Answer]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny models gain nothing from threads, and lose much where other work holds the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tool:
    """``tool("validate", "llama")``: the entry point, in this process."""
    from tune_lora.cli import main

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["tune-lora", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        shown = capsys.readouterr()
        return Answer(code, shown.out, shown.err)

    return call
