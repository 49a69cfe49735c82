"""A checkpoint from someone else: what is pickled in it is not run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_trials import resumed
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.checkpoint import find, seal
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.folder import TrialFolder
from tune_lora.trainer.result import TrialState


class Bomb:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("torchs", [True, False], ids=["torch.save", "pickle"])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_states_run_nothing(
    cut: TrialFolder,
    lent: BaseModel,
    rows: TokenizedData,
    tmp_path: Path,
    name: str,
    torchs: bool,
) -> None:
    mark = tmp_path / "owned"
    known = find(cut.checkpoint)
    assert known is not None
    assert (cut.checkpoint / name).is_file()
    if torchs:
        torch.save(Bomb(mark), cut.checkpoint / name)
    else:
        (cut.checkpoint / name).write_bytes(pickle.dumps(Bomb(mark)))
    made = tmp_path / "made"
    cut.checkpoint.rename(made)
    seal(made, cut.checkpoint, known.result)
    result = resumed(cut, lent, rows).result
    assert result.state is TrialState.FAILED
    assert "weights_only" in (result.error or "").lower()
    assert not mark.exists()


def test_weights_beside_it_are_safetensors(cut: TrialFolder) -> None:
    pickled = {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    others = {path.suffix for path in cut.checkpoint.iterdir() if path.name not in pickled}
    assert others <= {".json", ".safetensors"}
