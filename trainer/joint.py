"""One pass of a frozen base for several trials: each row with its own trial's adapter on top."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from .base import BaseModel
from .encode import IGNORE
from .loss import row_losses

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Request:
    """One trial's part of a pass.

    Attributes:
        model: the trial's own, wearing its adapter.
        batch: ``input_ids``, ``attention_mask``, ``labels``, each ``[rows, tokens]``.
        items: supervised tokens of the whole optimizer step, which the loss is divided by.
        checkpointing: whether activations are computed again in the backward pass.
    """

    model: PeftModel
    batch: Batch
    items: torch.Tensor
    checkpointing: bool

    def parameters(self) -> list[nn.Parameter]:
        """What the trial trains."""
        return [p for p in self.model.parameters() if p.requires_grad]


def joint_pass(base: BaseModel, requests: Sequence[Request]) -> list[torch.Tensor]:
    """One forward and backward pass of the bare base, every row with its own trial's adapter.

    Adds to the gradients of the requests' parameters, unless it raises.

    Returns:
        Each request's loss, detached: of the pass, divided by its ``items``.
    """
    rows = [len(request.batch["input_ids"]) for request in requests]
    ends = np.cumsum(rows).tolist()
    slices = [slice(end - count, end) for end, count in zip(ends, rows, strict=True)]
    batch = _joined([request.batch for request in requests], base.tokenizer.pad_token_id)
    flat = [parameter for request in requests for parameter in request.parameters()]
    with _worn(base.model, requests, slices, batch["input_ids"].shape):
        with base.autocast():
            losses, owners = row_losses(base.model, batch)
            sums = [losses[(owners >= part.start) & (owners < part.stop)].sum() for part in slices]
            means = [total / request.items for total, request in zip(sums, requests, strict=True)]
        gradients = torch.autograd.grad(torch.stack(means).sum(), flat, allow_unused=True)
    for parameter, gradient in zip(flat, gradients, strict=True):
        if gradient is None:
            continue
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad.add_(gradient)
    return [mean.detach() for mean in means]


def _joined(batches: Sequence[Batch], pad: int) -> dict[str, torch.Tensor]:
    """The batches' rows under each other, padded to the longest."""
    fill = {"input_ids": pad, "attention_mask": 0, "labels": IGNORE}
    keys = [key for key in fill if key in batches[0]]
    return {
        key: pad_sequence(
            [row for batch in batches for row in batch[key]],
            batch_first=True,
            padding_value=fill[key],
        )
        for key in keys
    }


@contextmanager
def _worn(
    model: Any, requests: Sequence[Request], slices: Sequence[slice], shape: torch.Size
) -> Iterator[None]:
    """The bare model, its linear modules adding to every row what the row's adapter adds.

    Where one trial computes activations again to save memory, so does the pass: losses are the
    same either way.
    """
    layers: dict[str, list[tuple[slice, LoraLayer]]] = {}
    for request, part in zip(requests, slices, strict=True):
        inner = request.model.get_base_model()
        for path, module in inner.named_modules():
            if isinstance(module, LoraLayer):
                layers.setdefault(path, []).append((part, module))
    handles = [
        model.get_submodule(path).register_forward_hook(partial(_adapt, parts, shape))
        for path, parts in layers.items()
    ]
    training = model.training
    model.train()
    checkpointing = any(request.checkpointing for request in requests)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        if checkpointing:
            model.gradient_checkpointing_disable()
            # Enabling hooks the embeddings too.
            model.disable_input_require_grads()
        model.train(training)
        for handle in handles:
            handle.remove()


class _Given(nn.Module):
    """Stands for the base layer of a peft layer whose output is known already."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self._output = [output]

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        return self._output[0]


def _adapt(
    parts: Sequence[tuple[slice, LoraLayer]],
    shape: torch.Size,
    module: nn.Module,
    args: tuple[torch.Tensor, ...],
    output: torch.Tensor,
) -> torch.Tensor:
    """A forward hook: peft's own layers, each over its own rows of input and output."""
    every = 1
    if args[0].shape[:-1] != shape:
        # Some models flatten rows before they get here; those of a router are in no order.
        every = shape[1]
        if args[0].shape[:-1] != (shape[0] * shape[1],):
            raise ValueError(f"{type(module).__name__} is given {tuple(args[0].shape)}, not rows")
    done, pieces = 0, []
    for rows, layer in parts:
        part = slice(every * rows.start, every * rows.stop)
        if done < part.start:
            pieces.append(output[done : part.start])
        own = layer._modules["base_layer"]
        layer._modules["base_layer"] = _Given(output[part])
        try:
            pieces.append(layer(args[0][part]))
        finally:
            layer._modules["base_layer"] = own
        done = part.stop
    if done < len(output):
        pieces.append(output[done:])
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
