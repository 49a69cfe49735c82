"""Run folders with made-up results, written as a search writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.folder import RunFolder, write_json
from tune_lora.trainer.result import BaseScore, Evaluation, TrialResult, TrialState

HORIZON = 27


def result(
    number: int,
    score: float | None = None,
    state: TrialState = TrialState.COMPLETE,
    *,
    step: int = HORIZON,
    trainable: int = 1_000_000,
    baseline: bool = False,
    error: str | None = None,
    lora: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    metric: str = "eval_loss",
    objectives: tuple[str, ...] = (),
    loss: float = 1.0,
    metrics: Mapping[str, float] | None = None,
    **measured: Any,
) -> TrialResult:
    """A trial that took ``step`` steps, its best evaluation the last.

    Judged by another metric than the loss, it has this loss there; ``metrics`` are further ones.
    """
    config = TrialConfig(
        number=number,
        task="CAUSAL_LM",
        lora={"r": 8, "lora_alpha": 16, "target_modules": "qv", **(lora or {})},
        train={"learning_rate": 2e-4, "max_steps": HORIZON, "seed": 0, **(train or {})},
        rungs=(3, 9, HORIZON),
        metric=metric,
        objectives=objectives,
        baseline=baseline,
    )
    others = dict(metrics or {})
    if metric != "eval_loss" and score is not None:
        others[metric] = score
    fields: dict[str, Any] = {
        "tokens": 40_000,
        "seconds": 125.5,
        "tokens_per_second": 318.25,
        "peak_memory_bytes": 1_342_177_280,
        **measured,
    }
    return TrialResult(
        number=number,
        state=state,
        config=config.to_dict(),
        score=score,
        best_step=None if score is None else step,
        step=step,
        evaluations=()
        if score is None
        else (Evaluation(step, score if metric == "eval_loss" else loss, 60.0, others),),
        trainable_parameters=trainable,
        total_parameters=200_000_000 if trainable else 0,
        error=error,
        **fields,
    )


def make_run(
    root: Path,
    results: Iterable[TrialResult],
    *,
    base: float | None = 2.34,
    base_metrics: Mapping[str, float] | None = None,
    fingerprint: str | None = "f" * 64,
    adapters: Iterable[int] = (),
) -> RunFolder:
    """A run folder at ``root`` that holds ``results``."""
    run = RunFolder(root)
    for each in results:
        run.trial(each.number).write_result(each)
    for number in adapters:
        run.trial(number).adapter.mkdir(parents=True)
    if base is not None:
        measured = dict(base_metrics or {})
        run.write_base(BaseScore(base, rows=64, tokens=900, seconds=12.0, metrics=measured))
    data = {"source": "builtin:extraction"}
    if fingerprint is not None:
        data["fingerprint"] = fingerprint
    write_json(run.about, {"space": "llama", "data": data, "versions": {"torch": "2.13.0"}})
    return run


def mixed_run(root: Path) -> RunFolder:
    """One trial of every kind: scores, ties, and every way not to have a score."""
    oom = 'Traceback (most recent call last):\n  File "a.py", line 1\ntorch.OutOfMemoryError: 2 GiB'
    results = [
        result(0, 1.02, baseline=True, lora={"lora_dropout": 0.05}),
        result(1, 0.75, lora={"r": 32}, trainable=4_000_000),
        result(2, 0.75, lora={"r": 16}, trainable=2_000_000),
        result(3, 2.9, TrialState.PRUNED, step=3, train={"learning_rate": 3e-5}),
        result(4, 0.412, lora={"target_modules": ["q_proj", "v_proj"]}),
        result(5, 0.1, TrialState.DIVERGED, step=9),
        result(6, None, TrialState.OUT_OF_MEMORY, step=0, error=oom),
        result(7, None, TrialState.FAILED, step=0, trainable=0, error="ValueError: no targets"),
        result(8, 0.2, TrialState.LOST, step=9, error="the worker died"),
        result(9, 0.3, TrialState.RUNNING, step=9),
        result(10, 1.5, TrialState.PRUNED, step=9),
    ]
    return make_run(root, results, adapters=[4])


def many_sizes(root: Path) -> RunFolder:
    """Numbers of every order: what a reader gets is rounded and has units."""
    results = [
        result(0, 123.456789, baseline=True, seconds=59.6, tokens_per_second=0.04321),
        result(1, 0.00004, seconds=3599.4, tokens_per_second=1234.5, trainable=999),
        result(2, 710.5, seconds=3599.6, tokens_per_second=123_456.0, trainable=999_499),
        result(3, 2.00005, seconds=86_400.0, tokens_per_second=999.4, trainable=999_500),
        result(4, 1.99995, seconds=0.2, tokens_per_second=None, trainable=1_234_567_890),
        result(5, 1.5, trainable=12_345, peak_memory_bytes=1023, lora={"lora_dropout": 0.1 / 3}),
        result(6, 1.25, trainable=12_345, peak_memory_bytes=1_073_200_000),
        result(7, 1.125, peak_memory_bytes=2**40 + 1, gpu_memory_bytes=79_999_999_999),
        result(8, 1.0, train={"learning_rate": 1.23456e-5, "num_train_epochs": 3}),
        result(9, 0.9, lora={"use_rslora": True, "r": 1024}, step=9),
    ]
    return make_run(root, results)
