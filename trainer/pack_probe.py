"""Measures what packing gains: ``python -m tune_lora.trainer.pack_probe``, a question on stdin.

The question is JSON: ``spec`` (``BaseSpec``), ``trial`` (``TrialConfig``), ``tokens`` a row,
``threads``, and ``most``, how many trials together at most. The answer, on the last line of stdout,
is JSON too: by number of trials, forward and backward passes a second against one trial at a time.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from .adapter import attached
from .base import BaseModel, BaseSpec, load_base
from .config import TrialConfig
from .data import IGNORE
from .joint import Request, joint_pass
from .loss import supervised_loss
from .memory import out_of_memory
from .pack import shadow

_ROUNDS = 3


def gains(base: BaseModel, trial: TrialConfig, tokens: int, most: int) -> dict[int, float]:
    """Passes a second of 2, 4, ... ``most`` trials together, against the same one by one.

    Of those only that memory is enough for.

    Args:
        base: bare.
        trial: whose adapter and batch size each of them has.
        tokens: of a row; the later half is supervised.
        most: trials together.
    """
    found: dict[int, float] = {}
    for count in sorted({2, most}):
        try:
            found[count] = _gain(base, trial, tokens, count)
        except Exception as error:
            if not out_of_memory(error):
                raise
            break
    return found


def _gain(base: BaseModel, trial: TrialConfig, tokens: int, count: int) -> float:
    joint, apart = [], []
    with ExitStack() as stack:
        members = [stack.enter_context(_Member(base, trial, tokens)) for _ in range(count)]
        requests = [member.request for member in members]

        def one_by_one() -> None:
            for member in members:
                member.alone()

        for _ in range(_ROUNDS + 1):
            apart.append(_seconds(base, one_by_one))
            joint.append(_seconds(base, lambda: joint_pass(base, requests)))
    # The first of each warms caches up.
    return statistics.median(apart[1:]) / statistics.median(joint[1:])


def _seconds(base: BaseModel, run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    if base.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class _Member:
    """A trial with made-up rows, while its adapter is on its own module tree.

    Attributes:
        request: its part of a joint pass.
    """

    request: Request

    def __init__(self, base: BaseModel, trial: TrialConfig, tokens: int) -> None:
        self._base = replace(base, model=shadow(base.model))
        self._trial, self._tokens = trial, tokens
        self._stack = ExitStack()

    def __enter__(self) -> _Member:
        model = self._stack.enter_context(attached(self._base, self._trial))
        model.train()
        rows = int(self._trial.train["per_device_train_batch_size"])
        words = self._base.model.config.vocab_size
        ids = torch.randint(words, (rows, self._tokens), device=self._base.device)
        labels = ids.clone()
        labels[:, : self._tokens // 2] = IGNORE
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        items = torch.as_tensor(rows * (self._tokens - self._tokens // 2), device=ids.device)
        checkpointing = bool(self._trial.train.get("gradient_checkpointing"))
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.request = Request(model, batch, items, checkpointing)
        return self

    def alone(self) -> None:
        """The pass that the trial would make by itself."""
        with self._base.autocast():
            loss, _ = supervised_loss(self.request.model, self.request.batch)
        (loss / self.request.items).backward()  # type: ignore[no-untyped-call]

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def main() -> None:
    """Answer the question on stdin."""
    question = json.load(sys.stdin)
    torch.set_num_threads(int(question["threads"]))
    base = load_base(BaseSpec.from_dict(question["spec"]))
    trial = TrialConfig.from_dict(question["trial"])
    answer = gains(base, trial, int(question["tokens"]), int(question["most"]))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
