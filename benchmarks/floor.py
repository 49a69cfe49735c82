"""The floor: a bare PyTorch loop over the same tokens, everything loaded before time is taken.

    python benchmarks/floor.py WORKLOAD.json [--supervised]

Two processes of one thread share the configurations. ``--supervised`` computes logits only where
there is a label; otherwise everywhere, as the model's own forward does. Time, CPU time and losses
go to ``floor.json`` and ``losses.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as processes
from configurations import CONFIGURATIONS, Workload
from peft import PeftModel
from plain import IGNORE, SPLITS, adapted, arguments, collator, load_tokenizer, quantized, tokenized
from torch.nn.functional import cross_entropy
from transformers import Trainer

Batch = dict[str, torch.Tensor]

_PATIENCE = 600.0
"""Seconds for all workers to have loaded everything."""


def loss_of(model: PeftModel, batch: Batch, *, supervised: bool) -> torch.Tensor:
    """Mean loss of a supervised token."""
    if not supervised:
        loss: torch.Tensor = model(**batch).loss
        return loss
    causal = model.get_base_model()
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    hidden = causal.model(**inputs).last_hidden_state[:, :-1]
    labels = batch["labels"][:, 1:]
    kept = labels != IGNORE
    return cross_entropy(causal.lm_head(hidden[kept]).float(), labels[kept])


def evaluated(
    model: PeftModel, batches: list[Batch], work: Workload, *, supervised: bool
) -> dict[str, float]:
    """Loss a token (as tune-lora has it) and the mean over rows of batch means (the Trainer's)."""
    losses, tokens, rows = [], [], []
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=work.bf16):
        for batch in batches:
            losses.append(float(loss_of(model, batch, supervised=supervised)))
            tokens.append(int((batch["labels"][:, 1:] != IGNORE).sum()))
            rows.append(len(batch["labels"]))
    model.train()

    def mean(weights: list[int]) -> float:
        return sum(map(float.__mul__, losses, map(float, weights))) / sum(weights)

    return {"eval_loss": mean(tokens), "eval_loss_of_rows": mean(rows)}


def train(
    base: Any, number: int, batches: tuple[list[Batch], ...], work: Workload, *, supervised: bool
) -> Any:
    """Train one configuration; the bare base model again."""
    configuration = CONFIGURATIONS[number]
    model = adapted(base, configuration, work)
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=configuration.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / work.steps))
    )
    for step, batch in enumerate(batches[0], start=1):
        with torch.autocast("cpu", torch.bfloat16, enabled=work.bf16):
            loss = loss_of(model, batch, supervised=supervised)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        work.note(number, step, loss=float(loss.detach()))
        if step % work.every == 0:
            work.note(number, step, **evaluated(model, batches[1], work, supervised=supervised))
    return model.unload()


def loaded(work: Workload) -> tuple[Any, tuple[list[Batch], ...]]:
    """The base, and the batches that a Trainer of the same arguments would draw."""
    base, tokenizer = quantized(work), load_tokenizer(work)
    rows = [tokenized(work, split, tokenizer, padded=False) for split in SPLITS]
    trainer = Trainer(
        # A Trainer takes no quantized model without an adapter; this one is thrown away.
        model=adapted(quantized(work), CONFIGURATIONS[0], work),
        args=arguments(work),
        train_dataset=rows[0],
        eval_dataset=rows[1],
        data_collator=collator(tokenizer, padded=False),
    )
    drawn = [*map(dict, trainer.get_train_dataloader())][: work.steps]
    assert len(drawn) == work.steps, "there are too few rows for one epoch"
    return base, (drawn, [*map(dict, trainer.get_eval_dataloader())])


def worker(work: Workload, supervised: bool, queue: Any, barrier: Any, spent: Any) -> None:
    torch.set_num_threads(1)
    base, batches = loaded(work)
    barrier.wait(_PATIENCE)
    began = time.process_time()
    while (number := queue.get()) is not None:
        base = train(base, number, batches, work, supervised=supervised)
    spent.put((time.process_time() - began, time.monotonic()))


def main(work: Workload, *, supervised: bool) -> None:
    context = processes.get_context("spawn")
    count = len(os.sched_getaffinity(0))
    queue, spent, barrier = context.Queue(), context.Queue(), context.Barrier(count + 1)
    for number in (*work.numbers, *[None] * count):
        queue.put(number)
    workers = [
        context.Process(target=worker, args=(work, supervised, queue, barrier, spent))
        for _ in range(count)
    ]
    for each in workers:
        each.start()
    barrier.wait(_PATIENCE)
    began = time.monotonic()
    for each in workers:
        each.join()
    if any(each.exitcode for each in workers):
        raise SystemExit("a worker of the floor has failed")
    cpu, ends = zip(*(spent.get() for _ in workers), strict=True)
    found = {"seconds": max(ends) - began, "cpu_seconds": sum(cpu)}
    (Path(work.folder) / "floor.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("workload")
    parser.add_argument("--supervised", action="store_true")
    given = parser.parse_args()
    main(Workload.load(given.workload), supervised=given.supervised)
