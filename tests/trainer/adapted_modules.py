"""Which modules of a model peft really adapts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from peft import LoraConfig, get_peft_model
from torch import nn

_ADAPTER_WEIGHT = re.compile(r"(.+)\.(lora_A\.default\.weight|lora_embedding_A\.default)")


def adapted(
    model: nn.Module, task: str, targets: str | list[str], whole: Sequence[str] = ()
) -> set[str]:
    """The paths of the modules that peft put a LoRA on; ``whole`` are trained as they are."""
    wanted = LoraConfig(task_type=task, r=2, target_modules=targets, modules_to_save=[*whole])
    wearing = get_peft_model(model, wanted).base_model.model
    found = (_ADAPTER_WEIGHT.fullmatch(name) for name, _ in wearing.named_parameters())
    return {match[1] for match in found if match}
