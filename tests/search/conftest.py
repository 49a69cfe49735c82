"""What this room's tests share: a space over a tiny model, loaded, and run folders for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tune_lora.spaces import Space, load_space
from tune_lora.trainer.folder import RunFolder, write_text


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny models gain nothing from threads, and lose much where other work holds the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def space_of(space_file: Callable[..., Path]) -> Callable[..., Space]:
    """``space_of("lora.r=4", search={...})``: the tiny space with overrides and blocks."""

    def load(*overrides: str, **blocks: dict[str, object]) -> Space:
        return load_space(space_file(**blocks), overrides)

    return load


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """An empty run folder."""
    folder = RunFolder(tmp_path / "run")
    write_text(folder.space, "")
    return folder
