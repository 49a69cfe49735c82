"""Several trials on one frozen base, in one forward and backward pass.

Each trial is a whole ``run_trial`` in a thread of its own: Trainer, data order, optimizer,
schedule, clipping, evaluation and checkpoints are its own, and so is its adapter, on a copy of the
base's module tree that shares every weight. Only the pass itself is joint. When every trial that is
training has come to its ``training_step``, their rows go through the base together, each with its
own trial's adapter on top, and each trial gets the gradients of its own loss. Trials that cannot
share it keep pace, step for step, with passes of their own.

One thread runs at a time. Whoever goes on finds random states and accelerate's gradient state as it
left them, so a packed trial's losses are those of the same trial alone, up to rounding.
"""

from __future__ import annotations

import copy
import logging
import math
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

from .base import BaseModel
from .config import TrialConfig
from .joint import Request, joint_pass
from .packable import can_pack

logger = logging.getLogger(__name__)


def shadow(model: nn.Module) -> nn.Module:
    """A copy of the module tree in which every weight is the original's own."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        memo[id(tensor)] = tensor
        # bitsandbytes keeps the scales of 4-bit weights here.
        state = getattr(tensor, "quant_state", None)
        memo[id(state)] = state
    return copy.deepcopy(model, memo)


@dataclass
class _Turn:
    """A trial at its training step; ``loss`` stays None where it is to take the step alone."""

    request: Request | None
    loss: torch.Tensor | None = None
    done: bool = False


@dataclass(frozen=True)
class Member:
    """A trial's way to the others.

    Attributes:
        joins: whether its rows share the others' passes; else it has its passes to itself.
    """

    pack: Pack
    joins: bool

    def run(self, request: Request | None) -> torch.Tensor | None:
        """See ``Pack.run``."""
        return self.pack.run(request if self.joins else None)

    def away(self) -> AbstractContextManager[None]:
        """See ``Pack.away``."""
        return self.pack.away()


class Pack:
    """Where trials on one base meet.

    A pass that fails is made again in halves, down to trials alone, and none as large is tried
    later. Who runs is counted: the next pass waits until all of them have come to a step.

    Args:
        base: bare; nobody else may use it while trials run.
    """

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._first = _Context.now()
        self._changed = threading.Condition()
        self._held = False
        self._running = 0
        self._waiting: list[_Turn] = []
        self._too_large = math.inf
        self._closed = False
        self._engine = threading.Thread(target=self._serve, name="pack", daemon=True)
        self._engine.start()

    def close(self) -> None:
        """No more passes; every trial has left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._engine.join()

    @contextmanager
    def member(self, config: TrialConfig) -> Iterator[BaseModel]:
        """Take part: what runs inside is one trial, on the base that is yielded."""
        with self._changed:
            self._running += 1
        self._take(self._first)
        try:
            member = Member(self, joins=can_pack(config, self._base.model, self._base.dtype))
            yield replace(self._base, model=shadow(self._base.model), pack=member)
        finally:
            self._give()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let the others go on while this trial waits for an answer."""
        context = _Context.now()
        self._give()
        try:
            yield
        finally:
            with self._changed:
                self._running += 1
            self._take(context)

    def run(self, request: Request | None) -> torch.Tensor | None:
        """Forward and backward, together with whoever else is there.

        Args:
            request: None where the trial has its passes to itself, and only keeps pace.

        Returns:
            The loss, detached; None where the caller is to make the pass.
        """
        context, turn = _Context.now(), _Turn(request)
        with self._changed:
            self._waiting.append(turn)
        self._give()
        with self._changed:
            self._changed.wait_for(lambda: turn.done)
        self._take(context)
        return turn.loss

    def _take(self, context: _Context) -> None:
        """Run alone, from here on, as one that ``_running`` counts."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held)
            self._held = True
        context.restore()

    def _give(self) -> None:
        with self._changed:
            self._held = False
            self._running -= 1
            self._changed.notify_all()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or (self._waiting and not self._running and not self._held)
                )
                if self._closed:
                    return
                turns, self._waiting = self._waiting, []
                self._held = True
            self._pass([turn for turn in turns if turn.request is not None])
            with self._changed:
                for turn in turns:
                    turn.done = True
                self._running += len(turns)
                self._held = False
                self._changed.notify_all()

    def _pass(self, turns: Sequence[_Turn]) -> None:
        """Set the losses; of those that cannot share a pass, none."""
        requests = [turn.request for turn in turns if turn.request is not None]
        if len(requests) < 2:
            return
        rows = [row for request in requests for row in request.batch["input_ids"]]
        size = len(rows) * max(map(len, rows))
        if size < self._too_large:
            try:
                losses = joint_pass(self._base, requests)
            except Exception as error:
                # Out of memory, most likely; gradients have not been touched.
                self._too_large = size
                logger.warning("%d trials do not fit into one pass: %s", len(requests), error)
            else:
                for turn, loss in zip(turns, losses, strict=True):
                    turn.loss = loss
                return
        # Here the error is gone, and with it the activations that its traceback kept.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = len(turns) // 2
        self._pass(turns[:half])
        self._pass(turns[half:])


_SHARED = (PartialState, AcceleratorState, GradientState)
"""accelerate keeps one state of each for the whole process; every new Trainer clears them."""


@dataclass(frozen=True)
class _Context:
    """What a thread finds again when it goes on: states that there is one of in a process."""

    python: Any
    numpy: Any
    cpu: torch.Tensor
    gpu: torch.Tensor | None
    accelerate: tuple[Mapping[str, Any], ...]

    @classmethod
    def now(cls) -> _Context:
        return cls(
            random.getstate(),
            np.random.get_state(),
            torch.get_rng_state(),
            torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            tuple(dict(kind._shared_state) for kind in _SHARED),
        )

    def restore(self) -> None:
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu)
        for kind, state in zip(_SHARED, self.accelerate, strict=True):
            kind._shared_state.clear()
            kind._shared_state.update(state)
