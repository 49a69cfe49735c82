"""What each lever is worth: a training step of one worker with it and without, everything else on.

    python benchmarks/levers.py --data PAIRS.jsonl [--rounds 5] [--dtype fp32] [--out FILE.json]

SmolLM2-135M in NF4 and LoRA (r 16, all-linear) on one thread: forward and backward of batches of
four pairs, the same ones for every variant, variants taken in turn within a round. CPU seconds,
for this process has nothing to wait for.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from configurations import MODEL
from torch.nn.functional import cross_entropy
from tune_lora.spaces import ModelBlock, Space, load_space
from tune_lora.trainer import adapter, attention, products
from tune_lora.trainer import loss as losses
from tune_lora.trainer.adapter import attached
from tune_lora.trainer.base import BaseModel, BaseSpec, load_base, load_tokenizer
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.data import tokenize
from tune_lora.trainer.encode import IGNORE

STEPS, BATCH = 8, 4
SHARED, PADDED = (losses, "_shares"), (losses, "_tells_apart")
"""Whether rows may share beginnings, and whether they may do without padding."""
FUSED = (adapter, "fuse")
LIBRARY = (products, "prefers_onednn")
"""Whether oneDNN does products in fp32."""
TAILS = (losses, "_may_end_early")
ROWWISE, KERNEL = (attention, "_shorter"), (attention, "_suits")
"""Whether attention is done row by row, and whether short rows' is done by products at all."""
Lever = tuple[Any, str]
Batch = dict[str, torch.Tensor]
Step = Callable[[Any, Batch], torch.Tensor]


def space_of(data: Path, folder: Path) -> Space:
    path = folder / "space.yaml"
    blocks = {"model": {"name": MODEL}, "data": {"train": str(data), "max_length": 256}}
    path.write_text(json.dumps(blocks), encoding="utf-8")
    return load_space(path)


def batches_of(
    rows: list[Mapping[str, list[int]]], pad: int, length: int | None = None
) -> list[Batch]:
    """Rows in their order, so many a batch, padded to the longest or to ``length``."""
    made = []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        longest = length or max(len(row["input_ids"]) for row in part)
        filled: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
        for row in part:
            ids, missing = row["input_ids"], longest - len(row["input_ids"])
            filled["input_ids"].append([*ids, *[pad] * missing])
            filled["attention_mask"].append([1] * len(ids) + [0] * missing)
            filled["labels"].append([*row["labels"], *[IGNORE] * missing])
        made.append({key: torch.tensor(values) for key, values in filled.items()})
    return made


def ours(model: Any, batch: Batch) -> torch.Tensor:
    total, count = losses.supervised_loss(model, batch)
    return total / count


def everywhere(model: Any, batch: Batch) -> torch.Tensor:
    """Logits of every position."""
    inputs, targets = losses.laid_out(model, batch)
    logits = model(**inputs, use_cache=False).logits.flatten(0, 1)
    # Of all logits, as transformers has it, and not only of those that count.
    labels = torch.full((len(logits),), IGNORE).index_copy(0, targets.positions, targets.tokens)
    return cross_entropy(logits.float(), labels, ignore_index=IGNORE)


@contextmanager
def without(lever: Lever) -> Iterator[None]:
    """A question that a lever depends on, answered with no; or what pulls it, doing nothing."""
    module, name = lever
    real = getattr(module, name)
    setattr(module, name, lambda *_: False)
    try:
        yield
    finally:
        setattr(module, name, real)


def seconds(base: BaseModel, trial: TrialConfig, step: Step, batches: list[Batch]) -> float:
    """CPU seconds a step, after one that warms caches up."""
    with attached(base, trial) as model:
        model.train()

        def run(batch: Batch) -> None:
            with base.autocast():
                loss = step(model, batch)
            loss.backward()
            model.zero_grad()

        run(batches[0])
        start = time.process_time()
        for batch in batches:
            run(batch)
        return (time.process_time() - start) / len(batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="jsonl of pairs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    spec = BaseSpec.of(ModelBlock(name=MODEL, quantization="nf4", dtype=given.dtype))
    kinds = ("dequantized", "bitsandbytes")
    bases = {kind: load_base(replace(spec, quantization_compute=kind)) for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        space = space_of(given.data.resolve(), Path(folder))
        encoded = tokenize(space.data, spec.task, load_tokenizer(spec)).train
        picked = random.Random(0).sample(range(len(encoded)), 8 * STEPS * BATCH)
        rows: list[Any] = [encoded[index] for index in picked]
    pad = bases["dequantized"].tokenizer.pad_token_id
    mixed = batches_of(rows[: STEPS * BATCH], pad)
    by_length = sorted(rows[: STEPS * BATCH], key=lambda row: len(row["input_ids"]))
    grouped = batches_of(by_length, pad)
    fixed = batches_of(rows[: 2 * BATCH], pad, space.data.max_length)
    lora = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
    train = {"per_device_train_batch_size": BATCH, "max_steps": STEPS}
    trial = TrialConfig(0, "CAUSAL_LM", lora, train, (STEPS,))

    def measured(kind: str, step: Step, batches: list[Batch], *lacks: Lever) -> float:
        with ExitStack() as stack:
            for lever in lacks:
                stack.enter_context(without(lever))
            return seconds(bases[kind], trial, step, batches)

    none = (PADDED, TAILS, FUSED, LIBRARY, ROWWISE, KERNEL)
    variants: dict[str, Callable[[], float]] = {
        "all of them": lambda: measured("dequantized", ours, mixed),
        "shared beginnings in each row": lambda: measured("dequantized", ours, mixed, SHARED),
        "padded to the longest row": lambda: measured("dequantized", ours, mixed, PADDED),
        "the same, rows of like length": lambda: measured("dequantized", ours, grouped, PADDED),
        "with what predicts nothing": lambda: measured("dequantized", ours, mixed, TAILS),
        "logits of every position": lambda: measured("dequantized", everywhere, mixed),
        "NF4 dequantized at each use": lambda: measured("bitsandbytes", ours, mixed),
        "adapters left to peft": lambda: measured("dequantized", ours, mixed, FUSED),
        "products left to MKL": lambda: measured("dequantized", ours, mixed, LIBRARY),
        "attention of all tokens at once": lambda: measured("dequantized", ours, mixed, ROWWISE),
        "attention left to PyTorch": lambda: measured("dequantized", ours, mixed, ROWWISE, KERNEL),
        "none of them": lambda: measured("bitsandbytes", everywhere, mixed, *none),
        "none, padded to max_length 256": lambda: measured(
            "bitsandbytes", everywhere, fixed, *none
        ),
    }
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(given.rounds):
        for name, run in variants.items():
            found[name].append(run())
    whole = found["all of them"]
    print("| CPU seconds a step | median | range | against all |")
    print("| --- | ---: | ---: | ---: |")
    for name, values in found.items():
        ratio = statistics.median(v / w for v, w in zip(values, whole, strict=True))
        middle, low, high = statistics.median(values), min(values), max(values)
        print(f"| {name} | {middle:.2f} | {low:.2f}-{high:.2f} | {ratio:.2f} |")
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
