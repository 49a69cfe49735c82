"""What a trial needs of memory, before it is run: the formula of docs/plan.md, term by term."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..spaces.formats import CLASSIFIERS
from . import attention
from .base import BaseSpec, heads_of
from .errors import AdapterRefusedError, TrialError
from .fused import fuse
from .nf4 import HEADS, DequantizedLinear, unpacked_bytes
from .products import freeze_linears, prefers_onednn
from .targets import matches, resolve_targets
from .trace import Batch, Peak, at_full_depth, cut, peak_of, peak_of_answers, stacks

CPU_PROCESS = 640 * 2**20
"""Bytes of a search's worker that has trained next to nothing, on a CPU: Python, libraries and Ray;
measured. Ray is some 40 MiB of it."""
CPU_KERNELS = 384 * 2**20
"""Bytes of 1,024 kernels that oneDNN keeps, compiled for shapes that it has seen.

It does the products in bf16 on a CPU, and on some those in fp32. Fitted to two searches of
SmolLM2-135M in bf16, with rows of unequal length.
"""
RETAINED = 0.15
"""Of what a pass works with, what glibc's allocator holds besides, in holes between live pieces.

Fitted to measurements (docs/plan.md), with the settings that a search's workers have for it
(``search/ray_early.py``): with its own, it holds several times that.
"""
GPU_CONTEXT = 512 * 2**20
"""Bytes of a CUDA context with its kernels; not measured."""
NF4_BLOCK, SCALE_BLOCK = 64, 256
"""Weights to a scale, and scales to a scale of scales (QLoRA, https://arxiv.org/abs/2305.14314)."""
_SMALLEST_8BIT, _BLOCK_8BIT = 4096, 256
"""bitsandbytes keeps the state of smaller tensors in fp32; numbers to a scale of 8-bit state."""
_STATES = {"adamw": 2, "ademamix": 3, "lion": 1, "rmsprop": 1, "adagrad": 1, "sgd": 0}
"""Numbers of state a trained parameter, by an optimizer's family; of others two are assumed."""
_UNEVEN = ("layers_to_transform", "layer_replication", "rank_pattern", "target_parameters")
"""Fields of ``lora`` that make blocks unlike each other, or of which only peft knows where."""
_PATTERNS = ("exclude_modules", "modules_to_save")
"""Fields of ``lora`` that do so where they name a block by its number."""


@dataclass(frozen=True)
class Footprint:
    """Peak memory of a trial, in bytes by what it is for.

    Attributes:
        process: libraries and compiled kernels, or a CUDA context.
        weights: of the frozen base, packed or dequantized, as the spec says.
        mapped: pages of the checkpoint's file that stay in sight. The kernel counts them as the
            process's, and takes them back where memory is short.
        adapter: all that is trained, as it stands in memory.
        gradients: one number for each of them.
        optimizer: its state.
        activations: what a pass keeps for the backward one, and works with.
        logits: over the vocabulary, with their gradient.
        allocator: what it holds on to of what was freed; 0 on a GPU, where it was not measured.
        trainable: parameters that are trained.
    """

    process: int
    weights: int
    mapped: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    allocator: int
    trainable: int

    @property
    def total(self) -> int:
        """All of the memory, as the kernel counts it."""
        terms = {f.name: int(getattr(self, f.name)) for f in fields(self)}
        return sum(terms.values()) - self.trainable

    @property
    def held(self) -> int:
        """What the machine must have: all but what the kernel takes back."""
        return self.total - self.mapped


def weight_bytes(modules: nn.Module, spec: BaseSpec, width: int) -> int:
    """Bytes of the base's weights as ``load_base`` has them.

    Args:
        modules: the model's, weights on the meta device.
        spec: how it is loaded; ``quantization_compute: auto`` counts as packed.
        width: bytes of a number of the compute dtype.
    """
    numbers = sum(parameter.numel() for parameter in modules.parameters())
    if spec.quantization == "none":
        return numbers * width
    if spec.quantization_compute == "dequantized":
        return unpacked_bytes(modules, width)
    quantized = sum(int(module.weight.numel()) for module in _quantized(modules))
    return math.ceil(quantized * nf4_width(spec.double_quant)) + 4 * (numbers - quantized)


def nf4_width(double_quant: bool) -> float:
    """Bytes of a packed weight: half of one, and its share of a scale."""
    if double_quant:
        return 0.5 + 1 / NF4_BLOCK + 4 / (NF4_BLOCK * SCALE_BLOCK)
    return 0.5 + 4 / NF4_BLOCK


def optimizer_bytes(optim: str, sizes: Iterable[int], whole: Iterable[int] = ()) -> int:
    """State of an optimizer after a step.

    Args:
        optim: as in ``TrainingArguments``. Paged state counts whole: it can leave the GPU only
            while it is not needed.
        sizes: numbers in each trained tensor.
        whole: likewise, of embeddings, whose state the Trainer keeps in 32 bits.
    """
    family = optim.removeprefix("paged_").removeprefix("schedule_free_").split("_")[0]
    states = _STATES.get(family, 2)
    plain = 4 * states * sum(whole)
    if not optim.endswith("8bit"):
        return plain + 4 * states * sum(sizes)
    for size in sizes:
        small = size < _SMALLEST_8BIT
        plain += states * (4 * size if small else size + 4 * math.ceil(size / _BLOCK_8BIT))
    return plain


@dataclass(frozen=True)
class Surveyor:
    """Foretells what trials of one base need.

    Attributes:
        spec: how the base is loaded.
        modules: the model's, weights on the meta device; left as they are.
        dtype: of matrix products.
        gpu: whether trials run on one.
        uneven: whether rows are of unequal length, so that every batch has shapes of its own.
    """

    spec: BaseSpec
    modules: Any
    dtype: torch.dtype
    gpu: bool
    uneven: bool = False
    _scored: dict[str, Peak] = field(default_factory=dict)

    @property
    def process(self) -> int:
        """Bytes of libraries and compiled kernels, or of a CUDA context."""
        if self.gpu:
            return GPU_CONTEXT
        compiled = self.uneven and (self.dtype is torch.bfloat16 or prefers_onednn())
        return CPU_PROCESS + (CPU_KERNELS if compiled else 0)

    @property
    def weights(self) -> int:
        """Bytes of the frozen base's weights, those that are kept in two dtypes in both."""
        held = weight_bytes(self.modules, self.spec, self.dtype.itemsize)
        if self.gpu or self.spec.quantization == "none" or self.dtype is torch.float32:
            return held
        linear = (m for path, m in self.modules.named_modules() if not _is_quantized(path, m))
        heads = [module.weight.numel() for module in linear if type(module) is nn.Linear]
        return held + sum(heads) * self.dtype.itemsize

    def footprint(
        self,
        lora: Mapping[str, Any],
        train: Mapping[str, Any],
        batch: Batch,
        scored: Batch,
        answered: Batch | None = None,
    ) -> Footprint:
        """Of a trial.

        Args:
            lora: fields of ``LoraConfig``.
            train: fields of ``TrainingArguments``.
            batch: of a training pass.
            scored: of a pass of the evaluation.
            answered: of questions that the evaluation has answered at a time; None for none.

        Raises:
            SpaceError: no module of the model is targeted.
            AdapterRefusedError: peft refuses the combination of fields.
            TrialError: the model cannot be run without numbers.
        """
        found = _found(lora, self.modules)
        optim = str(train.get("optim", "adamw_torch"))
        options = {"checkpointing": _checkpointing(train), "smoothing": _smoothing(train)}

        def measure(lengths: Mapping[str, int]) -> list[int]:
            model = self._adapted(lora, lengths)
            adapter, whole, state = _trained(model, optim)
            training = self._peak(peak_of, model, batch, **options)
            answering = Peak(0, 0)
            if answered is not None:
                again = self._adapted(lora, lengths)
                answering = self._peak(peak_of_answers, again, answered)
            peaks = (training, answering)
            return [*adapter, whole, state, *(n for p in peaks for n in (p.activations, p.logits))]

        trainable, adapter, gradients, state, *peaks = at_full_depth(found, measure)
        fewest = {stack.path: stack.distinct for stack in found}
        candidates = [Peak(*peaks[:2]), Peak(*peaks[2:])]
        if not _within(scored, batch):
            candidates.append(self._scoring(lora, fewest, scored))
        peak = max(candidates, key=lambda one: one.total)
        activations = peak.activations + self._unpacked_at_use()
        retained = 0 if self.gpu else round(RETAINED * (activations + peak.logits))
        return Footprint(
            process=self.process,
            weights=self.weights,
            mapped=self._mapped(),
            adapter=adapter,
            gradients=gradients,
            optimizer=state,
            activations=activations,
            logits=peak.logits,
            allocator=retained,
            trainable=trainable,
        )

    def _scoring(self, lora: Mapping[str, Any], lengths: Mapping[str, int], batch: Batch) -> Peak:
        """Of an evaluation: it keeps nothing, so that depth adds nothing, and rank next to it."""
        key = repr((lora["target_modules"], lora.get("use_dora"), batch))
        if key not in self._scored:
            model = self._adapted(lora, lengths)
            self._scored[key] = self._peak(peak_of, model, batch, train=False)
        return self._scored[key]

    def _peak(self, of: Callable[..., Peak], model: Any, batch: Batch, **options: Any) -> Peak:
        """Some models look at numbers on their way (a router that picks experts, say)."""
        attention.register()
        try:
            with attention.meant_for_gpu(self.gpu):
                return of(model, self.spec.task, self.dtype, batch, **options)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise TrialError(f"its passes cannot be traced without numbers: {said}") from error

    def _mapped(self) -> int:
        """Of a checkpoint in fp32, embeddings and norms in fp32 are used where the file is mapped.

        So all of it stays mapped, the weights that were quantized too.
        """
        whole = self.dtype is torch.float32 and self.modules.config.dtype is torch.float32
        if self.gpu or self.spec.quantization == "none" or not whole:
            return 0
        return 4 * sum(int(module.weight.numel()) for module in _quantized(self.modules))

    def _unpacked_at_use(self) -> int:
        """bitsandbytes unpacks one packed weight at a time."""
        packed = self.spec.quantization != "none" and (
            self.spec.quantization_compute != "dequantized"
        )
        sizes = [module.weight.numel() for module in _quantized(self.modules)] if packed else []
        return max(sizes, default=0) * self.dtype.itemsize

    def _adapted(self, lora: Mapping[str, Any], lengths: Mapping[str, int]) -> Any:
        """The model on the meta device with so many blocks, in its dtypes, with the adapter on."""
        from peft import LoraConfig, get_peft_model

        model = cut(self.modules, lengths)
        if self.spec.attn_implementation == "eager":
            model.set_attn_implementation("eager")
        if self.spec.quantization == "none":
            model.to(self.dtype)
        else:
            _as_dequantized(model, self.dtype)
        model.requires_grad_(False)
        if not self.gpu:
            freeze_linears(model, self.dtype)
        wanted = dict(lora)
        wanted["target_modules"] = resolve_targets(lora["target_modules"], self.modules)
        if self.spec.task in CLASSIFIERS:
            # As `attached` does for heads that no checkpoint has weights for.
            wanted["modules_to_save"] = [*(lora.get("modules_to_save") or ()), *heads_of(model)]
        try:
            config = LoraConfig(task_type=self.spec.task, **wanted)
            self._check_init(config.init_lora_weights)
            # Of other initialisations the shapes are the same, and some take the weights' numbers.
            config.init_lora_weights = True
            with torch.device("meta"):
                adapted = get_peft_model(model, config, low_cpu_mem_usage=True)
        except (TypeError, ValueError, ImportError, RuntimeError) as error:
            if isinstance(error, AdapterRefusedError):
                raise
            raise AdapterRefusedError(f"peft refuses this LoraConfig: {error}") from error
        fuse(adapted)
        return adapted

    def _check_init(self, init: Any) -> None:
        """PiSSA takes a weight apart, and peft does so only with one that is not packed."""
        if self.spec.quantization != "none" and str(init).startswith("pissa"):
            said = f"lora.init_lora_weights {init} wants weights that are not in 4 bits"
            raise AdapterRefusedError(f"{said}: write model.quantization=none")


class _Hollow(DequantizedLinear):
    """A dequantized layer without numbers, with the forward of the real one."""

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, bias: bool) -> None:
        out, into = shape
        nn.Linear.__init__(self, into, out, bias, device="meta", dtype=dtype)
        self.compute_dtype = dtype


def _as_dequantized(model: nn.Module, dtype: torch.dtype) -> None:
    """Dtypes of a model in NF4: norms, embeddings and heads in fp32, linear layers as they compute.

    A packed layer keeps for the backward pass what a dequantized one does.
    """
    model.float()
    paths = [path for path, module in model.named_modules() if _is_quantized(path, module)]
    for path in paths:
        old: Any = model.get_submodule(path)
        shape = tuple(old.weight.shape)
        shape = shape[::-1] if isinstance(old, Conv1D) else shape
        model.set_submodule(path, _Hollow(shape, dtype, old.bias is not None))


def _is_quantized(path: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D) and path.rpartition(".")[2] not in HEADS


def _quantized(modules: nn.Module) -> list[Any]:
    return [module for path, module in modules.named_modules() if _is_quantized(path, module)]


def _found(lora: Mapping[str, Any], modules: nn.Module) -> list[Any]:
    """The stacks that can be cut; none where only the whole model will do."""
    numbered = any(re.search(r"\d", str(lora.get(field) or "")) for field in _PATTERNS)
    if numbered or any(lora.get(field) for field in _UNEVEN):
        return []
    targets = resolve_targets(lora["target_modules"], modules)
    if targets == "all-linear":
        return stacks(modules, lambda path: False)
    return stacks(modules, lambda path: matches(targets, path))


def _trained(model: Any, optim: str) -> tuple[tuple[int, int], int, int]:
    """Trained parameters and their bytes, the gradients' bytes, and the optimizer's."""
    trained = {id(p): p for p in model.parameters() if p.requires_grad}
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    embedded = {id(p) for module in tables for p in module.parameters()}
    held = sum(p.numel() * p.itemsize for p in trained.values())
    state = optimizer_bytes(
        optim,
        [p.numel() for key, p in trained.items() if key not in embedded],
        [p.numel() for key, p in trained.items() if key in embedded],
    )
    return (sum(p.numel() for p in trained.values()), held), held, state


def _within(scored: Batch, batch: Batch) -> bool:
    """Whether an evaluation goes through no more than a training pass, which keeps it, too."""
    tokens = scored.rows * scored.tokens <= batch.rows * batch.tokens
    return tokens and scored.rows * scored.supervised <= batch.rows * batch.supervised


def _checkpointing(train: Mapping[str, Any]) -> Mapping[str, Any] | None:
    # The second is its former name.
    if not (train.get("gradient_checkpointing") or train.get("activation_checkpointing")):
        return None
    given: Mapping[str, Any] | None = train.get("gradient_checkpointing_kwargs")
    return {"use_reentrant": False} if given is None else given


def _smoothing(train: Mapping[str, Any]) -> float | None:
    """Where the loss is the Trainer's own (see ``TrialTrainer``), the smoothing of its labels."""
    smoothing = float(train.get("label_smoothing_factor") or 0.0)
    return smoothing if smoothing or train.get("torch_compile") else None
