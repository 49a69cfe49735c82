"""A search as transformers' documentation shows it: ``Trainer.hyperparameter_search``, Optuna.

    python benchmarks/peer_trainer.py WORKLOAD.json [--padded] [--stopping]

https://huggingface.co/docs/transformers/hpo_train. The rank and its like are no training
arguments, so ``model_init`` takes them from the trial; Optuna's GridSampler
(https://optuna.readthedocs.io/en/stable/reference/samplers/) tries each configuration once. What
the method is given beyond its own arguments goes to ``optuna.create_study``: sampler and pruner.
"""

from __future__ import annotations

import optuna
from configurations import CONFIGURATIONS, Configuration, Workload, run_contestant
from optuna.pruners import NopPruner, SuccessiveHalvingPruner
from optuna.samplers import GridSampler
from peft import PeftModel
from plain import Noting, adapted, arguments, collator, load_tokenizer, quantized, tokenized
from transformers import Trainer


def search(work: Workload, *, padded: bool, stopping: bool) -> None:
    tokenizer = load_tokenizer(work)
    numbers = list(work.numbers)

    def chosen(trial: optuna.Trial) -> Configuration:
        return CONFIGURATIONS[trial.suggest_categorical("configuration", numbers)]

    def hp_space(trial: optuna.Trial) -> dict[str, float]:
        return {"learning_rate": chosen(trial).learning_rate}

    def model_init(trial: optuna.Trial | None) -> PeftModel:
        # The Trainer makes one model for itself before there is any trial.
        configuration = CONFIGURATIONS[0] if trial is None else chosen(trial)
        return adapted(quantized(work), configuration, work)

    trainer = Trainer(
        model_init=model_init,
        args=arguments(work),
        train_dataset=tokenized(work, "train", tokenizer, padded=padded),
        eval_dataset=tokenized(work, "validation", tokenizer, padded=padded),
        data_collator=collator(tokenizer, padded=padded),
        callbacks=[Noting(work)],
    )
    pruner = SuccessiveHalvingPruner(
        min_resource=work.every, reduction_factor=work.reduction_factor
    )
    best = trainer.hyperparameter_search(
        hp_space=hp_space,
        n_trials=work.configurations,
        direction="minimize",
        backend="optuna",
        sampler=GridSampler({"configuration": numbers}, seed=work.seed),
        pruner=pruner if stopping else NopPruner(),
    )
    print(best)


if __name__ == "__main__":
    run_contestant(search)
