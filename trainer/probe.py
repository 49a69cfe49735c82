"""Measures how fast trials train on this machine: ``python -m tune_lora.trainer.probe``.

A question on stdin, an answer on the last line of stdout, both JSON. Of the question, ``spec`` is a
``BaseSpec``, ``trial`` a ``TrialConfig``, ``tokens`` the length of its rows, ``layouts`` pairs of
workers and threads with the most workers first, and ``packs`` how many trials to try in one pass.
The answer is a list of ``Measured``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from .adapter import attached
from .base import BaseModel, BaseSpec, load_base
from .config import TrialConfig
from .encode import IGNORE
from .joint import Request, joint_pass
from .loss import gathers, supervised_loss
from .memory import out_of_memory
from .pack import shadow

_PASSES, _SECONDS = 2, 1.0
"""At least so many passes, for at least so long, after one that warms caches up."""
_LONG = 1.0
"""Seconds of a pass from which packing is not tried: its overhead, which packing saves, is less."""


@dataclass(frozen=True)
class Measured:
    """How fast some trials train at once.

    Attributes:
        workers: processes, each with a base of its own.
        threads: of each.
        pack: trials that each trains in one pass.
        rate: forward and backward passes of a trial a second, of all together; 0 where memory was
            not enough.
    """

    workers: int
    threads: int
    pack: int
    rate: float


def measure(
    base: BaseModel,
    trial: TrialConfig,
    tokens: int,
    layouts: Sequence[tuple[int, int]],
    packs: Sequence[int],
) -> list[Measured]:
    """The layouts, as long as one is no slower than the one before; at the best of them, the packs.

    Args:
        base: bare; on a CPU, no thread but this one may have computed with it.
        trial: what each of them trains.
        tokens: of a row; the later half is supervised.
        layouts: workers and threads.
        packs: trials in a pass, ascending; the next is tried while they gain.
    """
    found: list[Measured] = []

    def better(workers: int, threads: int, pack: int) -> bool:
        best = max((one.rate for one in found), default=0.0)
        speed = rate(base, trial, tokens, workers, threads, pack)
        found.append(Measured(workers, threads, pack, speed))
        return speed > best or best == 0.0

    for workers, threads in layouts:
        if not better(workers, threads, 1):
            break
    best = max(found, key=lambda one: one.rate)
    if best.rate and best.workers / best.rate < _LONG:
        for pack in packs:
            if not better(best.workers, best.threads, pack):
                break
    return found


def rate(
    base: BaseModel, trial: TrialConfig, tokens: int, workers: int, threads: int, pack: int
) -> float:
    """Passes of a trial a second, of ``workers`` processes of ``threads`` threads at once.

    On a CPU the processes are forks, which share the base's memory; on GPUs, where workers do not
    get into each other's way, it is this process times ``workers``.

    Raises:
        RuntimeError: a process failed, and not for lack of memory.
    """
    if base.device.type != "cpu":
        return workers * _speed(base, trial, tokens, pack, lambda: None)
    forks = multiprocessing.get_context("fork")
    barrier = forks.Barrier(workers)
    began: list[Any] = []
    pipes: list[Any] = []

    def run(pipe: Connection) -> None:
        torch.set_num_threads(threads)
        pipe.send(_speed(base, trial, tokens, pack, barrier.wait))

    for _ in range(workers):
        here, there = forks.Pipe(duplex=False)
        process = forks.Process(target=run, args=(there,), daemon=True)
        process.start()
        there.close()
        began.append(process)
        pipes.append(here)
    try:
        return _sum(pipes)
    except EOFError:
        began[0].join(1)
        codes = [process.exitcode for process in began]
        # The kernel kills where memory is short.
        if -signal.SIGKILL in codes:
            return 0.0
        raise RuntimeError(f"a process ended with exit code {codes}") from None
    finally:
        for process in began:
            process.kill()
            process.join()


def _sum(pipes: Sequence[Any]) -> float:
    """Of what comes; 0 as soon as one says so.

    Raises:
        EOFError: a process ended and said nothing.
    """
    total, waiting = 0.0, list(pipes)
    while waiting:
        pipe: Any = wait(waiting)[0]
        speed = float(pipe.recv())
        if not speed:
            return 0.0
        total += speed
        waiting.remove(pipe)
    return total


def _speed(
    base: BaseModel, trial: TrialConfig, tokens: int, pack: int, together: Callable[[], Any]
) -> float:
    """Passes a second of one process, from when ``together`` returns; 0 without enough memory."""
    try:
        with ExitStack() as stack:
            members = [stack.enter_context(_Member(base, trial, tokens)) for _ in range(pack)]
            requests = [member.request for member in members]

            def run() -> None:
                if pack == 1:
                    members[0].alone()
                else:
                    joint_pass(base, requests)
                if base.device.type == "cuda":
                    torch.cuda.synchronize()

            run()
            together()
            start, passes, seconds = time.perf_counter(), 0, 0.0
            while passes < _PASSES or seconds < _SECONDS:
                run()
                passes += 1
                seconds = time.perf_counter() - start
            return pack * passes / seconds
    except Exception as error:
        if not out_of_memory(error):
            raise
        return 0.0


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
        ids = torch.randint(
            self._base.model.config.vocab_size, (rows, self._tokens), device=self._base.device
        )
        labels = ids.clone()
        labels[:, : self._tokens // 2] = IGNORE
        if self._trial.task == "SEQ_CLS":
            labels = torch.zeros(rows, dtype=torch.long, device=self._base.device)
        elif self._trial.task == "TOKEN_CLS":
            labels = labels.clamp(max=0)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        items = torch.as_tensor(rows * (self._tokens - self._tokens // 2), device=ids.device)
        checkpointing = bool(self._trial.train.get("gradient_checkpointing"))
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.request = Request(model, batch, items, checkpointing)
        return self

    def alone(self) -> None:
        """The pass that the trial would make by itself."""
        model, batch = self.request.model, self.request.batch
        with self._base.autocast():
            if gathers(model, self._trial.task):
                loss = supervised_loss(model, batch)[0] / self.request.items
            else:
                loss = model(**batch).loss
        loss.backward()  # type: ignore[no-untyped-call]

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def main() -> None:
    """Answer the question on stdin."""
    question = json.load(sys.stdin)
    # Of several threads, as of a GPU, a fork inherits none.
    torch.set_num_threads(1)
    base = load_base(BaseSpec.from_dict(question["spec"]))
    if base.device.type != "cpu":
        torch.set_num_threads(question["layouts"][0][1])
    trial = TrialConfig.from_dict(question["trial"])
    layouts = [(int(workers), int(threads)) for workers, threads in question["layouts"]]
    found = measure(base, trial, int(question["tokens"]), layouts, question["packs"])
    print(json.dumps([asdict(one) for one in found]))


if __name__ == "__main__":
    # numpy's threads, too, must not be there before a fork.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
