"""LoRA+: the matrices B of an adapter learn faster than the matrices A (arXiv 2402.12354)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft.optimizers import create_loraplus_optimizer
from transformers import TrainingArguments
from transformers.trainer_optimizer import is_optimizer_factory

from .errors import TrialError


def loraplus_optimizer(
    model: Any, kind: Any, options: Mapping[str, Any], args: TrainingArguments, ratio: float
) -> Any:
    """An optimizer with peft's groups of parameters.

    Args:
        model: wears the adapter.
        kind: the optimizer's class.
        options: its arguments, ``lr`` among them, as transformers' Trainer finds both.
        args: of the trial.
        ratio: rate of B over rate of A.

    Raises:
        TrialError: this kind of optimizer groups parameters itself.
    """
    if is_optimizer_factory(kind) or {"params", "model", "optimizer_dict"} & options.keys():
        raise TrialError(
            f"train.optim {args.optim} groups parameters in its own way; loraplus_lr_ratio needs "
            "another one, e.g. adamw_torch"
        )
    return create_loraplus_optimizer(
        model,
        kind,
        loraplus_lr_ratio=ratio,
        loraplus_weight_decay=args.weight_decay,
        **options,
    )
