"""Trials side by side on one base, and whether each is what it is alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_trials import Outcome, go_on
from tune_lora.trainer import pack
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.folder import TrialFolder
from tune_lora.trainer.joint import Request
from tune_lora.trainer.result import TrialResult
from tune_lora.trainer.run import run_trial

PATIENCE = 120
"""Seconds until a trial that does not end is taken for one that waits for ever."""
Report = Callable[[TrialResult], bool]


class Together:
    """A pack whose trials run in threads.

    Attributes:
        sizes: how many trials shared each joint pass that was made.
        outcomes: by number, of the trials that have ended.
        threads: in the order of their start.
    """

    def __init__(
        self, base: BaseModel, data: TokenizedData, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._base, self._data, self._folder = base, data, folder
        self.sizes: list[int] = []
        self.outcomes: dict[int, Outcome] = {}
        self.threads: list[threading.Thread] = []
        made = pack.joint_pass

        def counted(base: BaseModel, requests: Sequence[Request]) -> list[torch.Tensor]:
            losses = made(base, requests)
            self.sizes.append(len(requests))
            return losses

        monkeypatch.setattr(pack, "joint_pass", counted)
        self._pack = pack.Pack(base)

    def start(self, *configs: TrialConfig, **options: Any) -> None:
        """Run these one after another in a thread of their own."""
        thread = threading.Thread(target=self._run, args=(configs, options), daemon=True)
        self.threads.append(thread)
        thread.start()

    def _run(self, configs: Sequence[TrialConfig], options: Mapping[str, Any]) -> None:
        options = {"report": go_on, **options}
        for config in configs:
            folder = TrialFolder(self._folder / str(config.number))
            with self._pack.member(config) as lent:
                result = run_trial(config, lent, self._data, folder=folder, **options)
            self.outcomes[config.number] = Outcome(result, folder)

    def end(self) -> dict[int, Outcome]:
        """Wait for all of them; fail if one does not end."""
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a trial waits for ever"
        self._pack.close()
        assert not [t for t in threading.enumerate() if t.name == "pack"]
        return self.outcomes


def weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    """Of the adapter that was kept."""
    return dict(load_file(outcome.folder.adapter / "adapter_model.safetensors"))


def course(outcome: Outcome) -> list[dict[str, float]]:
    """metrics.jsonl, without what depends on the clock."""
    return [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in (*outcome.rows("loss"), *outcome.rows("eval_loss"))
    ]


def assert_same(packed: Outcome, alone: Outcome, tolerance: float) -> None:
    """Every loss, norm and learning rate, every evaluation, the adapter and the verdict."""
    ours, theirs = packed.result, alone.result
    for name in ("state", "best_step", "step", "tokens", "micro_batch", "stopped_early"):
        assert getattr(ours, name) == getattr(theirs, name), (name, ours.error, theirs.error)
    for mine, other in zip(course(packed), course(alone), strict=True):
        assert mine == pytest.approx(other, rel=tolerance, abs=tolerance)
    assert ours.score == pytest.approx(theirs.score, rel=tolerance)
    if theirs.score is None:
        return
    kept, expected = weights(packed), weights(alone)
    assert sorted(kept) == sorted(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(kept[name], tensor, rtol=tolerance, atol=5 * tolerance)


def assert_equal(packed: Outcome, alone: Outcome) -> None:
    """The same to the bit."""
    assert packed.result.state is alone.result.state, packed.result.error
    assert course(packed) == course(alone)
    kept, expected = weights(packed), weights(alone)
    assert sorted(kept) == sorted(expected)
    assert all(torch.equal(kept[name], tensor) for name, tensor in expected.items())


@contextmanager
def failing_above(most: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Passes of more trials than ``most`` run out of memory; the list is of what was tried."""
    tried: list[int] = []
    real = pack.joint_pass

    def scarce(base: BaseModel, requests: Sequence[Request]) -> list[torch.Tensor]:
        tried.append(len(requests))
        if len(requests) > most:
            raise torch.OutOfMemoryError("injected")
        return real(base, requests)

    with monkeypatch.context() as patch:
        patch.setattr(pack, "joint_pass", scarce)
        yield tried
