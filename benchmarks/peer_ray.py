"""A search as Ray's documentation shows it: a function trainable, OptunaSearch and ASHA.

    python benchmarks/peer_ray.py WORKLOAD.json [--padded] [--stopping]

https://docs.ray.io/en/latest/tune/api/doc/ray.tune.search.optuna.OptunaSearch.html and
https://docs.ray.io/en/latest/tune/api/doc/ray.tune.schedulers.AsyncHyperBandScheduler.html. The
data is tokenized once and handed to the trials (``tune.with_parameters``); a trial has one CPU.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import ray
from configurations import CONFIGURATIONS, Configuration, Workload, run_contestant
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search.optuna import OptunaSearch


def train(
    config: dict[str, Any], work: Workload, padded: bool, train_rows: Any, eval_rows: Any
) -> None:
    from plain import Noting, adapted, arguments, collator, load_tokenizer, quantized
    from transformers import Trainer, TrainerCallback

    class Reporting(TrainerCallback):  # type: ignore[misc]
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **_: Any) -> None:
            tune.report({"eval_loss": metrics["eval_loss"], "step": state.global_step})

    trainer = Trainer(
        model=adapted(quantized(work), Configuration(**config), work),
        args=arguments(work, learning_rate=config["learning_rate"]),
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        data_collator=collator(load_tokenizer(work), padded=padded),
        callbacks=[Noting(work), Reporting()],
    )
    trainer.train()


def search(work: Workload, *, padded: bool, stopping: bool) -> None:
    from plain import SPLITS, load_tokenizer, tokenized

    tokenizer = load_tokenizer(work)
    rows = [tokenized(work, split, tokenizer, padded=padded) for split in SPLITS]
    wanted = [asdict(CONFIGURATIONS[number]) for number in work.numbers]
    ray.init(address="local", num_cpus=len(os.sched_getaffinity(0)), include_dashboard=False)
    asha = ASHAScheduler(
        time_attr="step",
        max_t=work.steps,
        grace_period=work.every,
        reduction_factor=work.reduction_factor,
    )
    trainable = tune.with_parameters(
        train, work=work, padded=padded, train_rows=rows[0], eval_rows=rows[1]
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={
            "r": tune.choice(sorted({c["r"] for c in wanted})),
            "lora_alpha": tune.choice(sorted({c["lora_alpha"] for c in wanted})),
            "target_modules": tune.choice(sorted({c["target_modules"] for c in wanted})),
            "learning_rate": tune.loguniform(1e-5, 2e-3),
        },
        tune_config=tune.TuneConfig(
            metric="eval_loss",
            mode="min",
            search_alg=OptunaSearch(points_to_evaluate=wanted, seed=work.seed),
            scheduler=asha if stopping else FIFOScheduler(),
            num_samples=work.configurations,
        ),
        run_config=tune.RunConfig(storage_path=work.folder, name="ray", verbose=1),
    )
    print(tuner.fit().get_best_result().metrics)


if __name__ == "__main__":
    run_contestant(search)
