"""What one pass keeps in memory, found by running it without numbers.

The model's own forward and backward run on tensors that have shapes and no contents (torch's
``FakeTensorMode``, as ``torch.export`` uses it), and every tensor that comes into being is counted
from its birth to its release. The blocks of a model are alike, so that two depths tell what every
further block adds: a 70B model is traced in seconds.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers.trainer_pt_utils import LabelSmoother

from .loss import gathers, summed


@dataclass(frozen=True)
class Batch:
    """A made-up batch.

    Attributes:
        rows: of a pass.
        tokens: of each row.
        supervised: tokens of each row that have a label.
    """

    rows: int
    tokens: int
    supervised: int


@dataclass(frozen=True)
class Peak:
    """What was live at the moment when most was, in bytes; weights and gradients not counted.

    Attributes:
        activations: all but the logits.
        logits: whatever is as wide as the vocabulary: logits, their fp32 copy, their gradient.
    """

    activations: int
    logits: int

    @property
    def total(self) -> int:
        """Both."""
        return self.activations + self.logits


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of live storages, those that were ``known`` before left out."""

    def __init__(self, known: Iterable[torch.Tensor], vocabulary: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}
        self._vocabulary = vocabulary
        self._live = [0, 0]
        self.peak = Peak(0, 0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        made = func(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                self._enter(tensor)
        return made

    def _enter(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        kind, size = int(tensor.shape[-1:] == (self._vocabulary,)), storage.nbytes()
        self._seen.add(key)
        self._live[kind] += size
        weakref.finalize(storage, self._leave, key, kind, size)
        if sum(self._live) > self.peak.total:
            self.peak = Peak(*self._live)

    def _leave(self, key: int, kind: int, size: int) -> None:
        self._live[kind] -= size
        self._seen.discard(key)


def peak_of(
    model: Any,
    task: str,
    dtype: torch.dtype,
    batch: Batch,
    *,
    checkpointing: Mapping[str, Any] | None = None,
    train: bool = True,
    smoothing: float | None = None,
) -> Peak:
    """The peak of a training pass (or, without ``train``, of an evaluation's).

    Args:
        model: its weights on the meta device; trained are those that require gradients. Its
            weights are replaced, so that it is good for nothing else afterwards.
        task: peft's task type.
        dtype: of matrix products, as autocast makes it.
        batch: every row as long as the others.
        checkpointing: ``gradient_checkpointing_kwargs``; None checkpoints nothing.
        train: whether there is a backward pass.
        smoothing: ``label_smoothing_factor`` where the loss is the Trainer's own, of all logits;
            None where it is of supervised positions alone.
    """

    def work() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            loss = _loss(model, task, batch, _inputs(task, batch), smoothing)
        if train:
            loss.backward()

    return _counted(model, work, train=train, checkpointing=checkpointing)


def peak_of_answers(model: Any, task: str, dtype: torch.dtype, batch: Batch) -> Peak:
    """The peak of answering questions: keys and values of every layer are kept.

    Args:
        model: as in ``peak_of``.
        task: CAUSAL_LM or SEQ_2_SEQ_LM.
        dtype: as in ``peak_of``.
        batch: of questions; ``supervised`` is how many tokens an answer has at most.
    """
    causal = task == "CAUSAL_LM"
    head = model.get_output_embeddings()

    def last(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0][:, -1:], *args[1:])

    def work() -> None:
        width = batch.tokens + (batch.supervised if causal else 0)
        ids = torch.zeros(batch.rows, width, dtype=torch.long)
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if not causal:
            given["decoder_input_ids"] = ids[:, :1].expand(-1, batch.supervised)
        hook = head.register_forward_pre_hook(last)
        try:
            with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
                model(**given, use_cache=True)
        finally:
            hook.remove()

    return _counted(model, work, train=False, checkpointing=None)


def _counted(
    model: Any, work: Callable[[], None], *, train: bool, checkpointing: Mapping[str, Any] | None
) -> Peak:
    """What is live at most while ``work`` runs the model."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    with FakeTensorMode():
        _without_numbers(model)
        known = [*model.parameters(), *model.buffers()]
        if train:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    # Of accumulated batches the gradients are there from the one before.
                    parameter.grad = torch.zeros_like(parameter)
                    known.append(parameter.grad)
        model.train(train)
        if checkpointing is not None:
            model.gradient_checkpointing_enable(dict(checkpointing))
        live = _Live(known, vocabulary)
        with live, torch.set_grad_enabled(train):
            work()
    return live.peak


def _without_numbers(model: nn.Module) -> None:
    """Weights on the meta device become fake ones of the CPU; what is tied stays tied."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                    made[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _inputs(task: str, batch: Batch) -> dict[str, torch.Tensor]:
    ids = torch.zeros(batch.rows, batch.tokens, dtype=torch.long)
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if task == "SEQ_CLS":
        return {**found, "labels": torch.zeros(batch.rows, dtype=torch.long)}
    width = batch.supervised if task == "SEQ_2_SEQ_LM" else batch.tokens
    return {**found, "labels": torch.zeros(batch.rows, width, dtype=torch.long)}


def _loss(
    model: Any, task: str, batch: Batch, inputs: dict[str, torch.Tensor], smoothing: float | None
) -> Any:
    """The loss as ``trainer.loss`` and the Trainer compute it."""
    if smoothing:
        causal = task == "CAUSAL_LM"
        # The Trainer keeps the labels to itself; an encoder-decoder makes its input of them.
        labels = inputs.pop("labels") if causal else inputs["labels"]
        return LabelSmoother(smoothing)(model(**inputs), labels, shift_labels=causal)
    if smoothing is not None or not gathers(model, task):
        return model(**inputs).loss
    head = model.get_output_embeddings()

    def gather(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        # As many positions as have labels; which of them is all the same to memory.
        positions = torch.zeros(batch.rows * batch.supervised, dtype=torch.long)
        return (args[0].flatten(0, -2).index_select(0, positions).unsqueeze(0), *args[1:])

    hook = head.register_forward_pre_hook(gather)
    try:
        # A row's last token is predicted, and predicts nothing.
        given = {key: value[:, :-1] for key, value in inputs.items() if key != "labels"}
        logits = model(**given, use_cache=False)["logits"].flatten(0, -2)
    finally:
        hook.remove()
    targets = torch.zeros(logits.shape[0], dtype=torch.long)
    # Where there is autocast, accelerate converts a model's outputs.
    return summed(logits.float(), targets)


@dataclass(frozen=True)
class Stack:
    """A list of blocks in a model.

    Attributes:
        path: of the ``ModuleList``.
        length: how many blocks there are.
        distinct: how many from the first on are needed to have one of each kind: 1, or 2 where
            the first differs (T5's has the position bias).
    """

    path: str
    length: int
    distinct: int


def stacks(model: nn.Module, marked: Callable[[str], bool]) -> list[Stack]:
    """The outermost long lists of blocks that are all alike, from the second on at the latest.

    Args:
        model: its modules; weights may be on the meta device.
        marked: whether the module at a path gets an adapter: blocks differ where this does.
    """
    found: list[Stack] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{stack.path}.") for stack in found)
        if inside or not isinstance(module, nn.ModuleList) or len(module) < 2:
            continue
        shapes = [_shape(block, f"{path}.{index}", marked) for index, block in enumerate(module)]
        if len(set(shapes[1:])) == 1:
            distinct = 1 if shapes[0] == shapes[1] else 2
            # A stack of no more than that and one is as well measured whole.
            if len(module) > distinct + 1:
                found.append(Stack(path, len(module), distinct))
    return found


def _shape(block: nn.Module, path: str, marked: Callable[[str], bool]) -> tuple[Any, ...]:
    weights = tuple((name, tuple(p.shape)) for name, p in block.named_parameters())
    adapted = tuple(name for name, _ in block.named_modules() if marked(f"{path}.{name}"))
    return type(block), weights, adapted


def cut(model: nn.Module, lengths: Mapping[str, int]) -> Any:
    """A copy of the module tree, on the same weights, with the first so many blocks of a stack."""
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    for path, length in lengths.items():
        whole: Any = model.get_submodule(path)
        memo[id(whole)] = nn.ModuleList([copy.deepcopy(b, memo) for b in list(whole)[:length]])
    return copy.deepcopy(model, memo)


def at_full_depth(
    found: Sequence[Stack], measure: Callable[[Mapping[str, int]], Sequence[int]]
) -> list[int]:
    """Numbers of a whole model, from those of cut ones.

    Args:
        found: the model's stacks.
        measure: numbers of a model with so many blocks in each stack. They must grow by the same
            amount with every block.
    """
    fewest = {stack.path: stack.distinct for stack in found}
    base = list(measure(fewest))
    total = list(base)
    for stack in found:
        more = measure({**fewest, stack.path: stack.distinct + 1})
        rest = stack.length - stack.distinct
        total = [sum_ + rest * (b - a) for sum_, a, b in zip(total, base, more, strict=True)]
    return total
