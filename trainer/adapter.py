"""The LoRA adapter on a lent base model: put on, saved, taken off again.

peft is imported where it is used: a search's driver needs this module, and peft costs it seconds.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import BaseModel
from .checkpoint import Checkpoint
from .config import TrialConfig
from .errors import TrialError
from .folder import TrialFolder, read_json, recover_folder, replace_folder, write_json
from .fused import fuse
from .products import renew_linears
from .targets import resolve_targets

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

STEP = "step.json"
"""Beside the adapter's weights: the optimizer step that they are of."""
_LEAVES_BASE_ALONE = {True, False, "gaussian", "orthogonal", "eva"}
"""Initialisations that touch only the adapter; PiSSA, OLoRA, LoftQ and CorDA rewrite the base."""


def lora_config(config: TrialConfig, base: BaseModel) -> LoraConfig:
    """peft's config for this trial on this base, presets of target modules resolved.

    Raises:
        SpaceError: no module of the model is targeted.
        TrialError: peft refuses the combination of fields.
    """
    from peft import LoraConfig

    fields = dict(config.lora)
    fields["target_modules"] = resolve_targets(fields["target_modules"], base.model)
    if base.fresh:
        fields["modules_to_save"] = [*(fields.get("modules_to_save") or ()), *base.fresh]
    try:
        return LoraConfig(task_type=config.task, **fields)
    except (TypeError, ValueError, ImportError) as error:
        raise TrialError(f"peft refuses this LoraConfig: {error}") from error


@contextlib.contextmanager
def attached(base: BaseModel, config: TrialConfig) -> Iterator[PeftModel]:
    """The base model wearing a fresh adapter; on leaving, the bare base model again.

    Where the configuration trains or rewrites base weights (``bias``, PiSSA and its like),
    ``base.spoiled`` is set: the next trial needs a base loaded anew.
    """
    from peft import get_peft_model

    wanted = lora_config(config, base)
    base.spoiled |= changes_base(config.lora)
    try:
        model = get_peft_model(base.model, wanted)
    except BaseException:
        # peft may have replaced some of the modules before it met one that it cannot replace.
        base.spoiled = True
        raise
    if rewrites_base(config.lora.get("init_lora_weights", True)):
        renew_linears(model)
    fuse(model)
    try:
        yield model
    finally:
        _take_off(model, base)


def changes_base(lora: Mapping[str, Any]) -> bool:
    """Whether an adapter of these fields of ``LoraConfig`` leaves the base other than it was."""
    trains_bias = lora.get("bias", "none") != "none"
    rewrites = rewrites_base(lora.get("init_lora_weights", True))
    # Repeated layers stay in the model when the adapter is taken off.
    return trains_bias or rewrites or bool(lora.get("layer_replication"))


def rewrites_base(init: Any) -> bool:
    """Whether a value of ``init_lora_weights`` changes the weights that the adapter goes on."""
    return not (isinstance(init, bool) or init in _LEAVES_BASE_ALONE)


def _take_off(model: PeftModel, base: BaseModel) -> None:
    from peft.utils import ModulesToSaveWrapper

    for module in list(model.modules()):
        if isinstance(module, ModulesToSaveWrapper):
            # Else unload() leaves the trained copy (of a classifier, say) in the base.
            module.set_adapter([])
    base.model = model.unload()
    if hasattr(base.model, "peft_config"):
        # unload() leaves it behind, and the next get_peft_model would warn of a second adapter.
        del base.model.peft_config
    base.model.requires_grad_(False)
    for parameter in base.model.parameters():
        parameter.grad = None
    base.model.gradient_checkpointing_disable()
    # Checkpointing hooks the embeddings, and a hook that stays makes later trials slower.
    base.model.disable_input_require_grads()
    base.model.eval()


def save_adapter(model: PeftModel, folder: TrialFolder, step: int) -> None:
    """Keep the adapter of optimizer step ``step``, in one move."""
    aside = folder.staged_adapter
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(str(aside))
    # peft's empty model-card form; the export writes a true one.
    (aside / "README.md").unlink(missing_ok=True)
    write_json(aside / STEP, step)
    replace_folder(aside, folder.adapter)


def load_saved(model: PeftModel, folder: TrialFolder) -> None:
    """Put the adapter that ``save_adapter`` kept in place of the model's own."""
    from peft import load_peft_weights, set_peft_model_state_dict

    weights = load_peft_weights(str(folder.adapter), device=str(model.device))
    set_peft_model_state_dict(model, weights)


def fits(folder: TrialFolder, checkpoint: Checkpoint) -> bool:
    """Whether the folder's adapter is that of the checkpoint's best evaluation.

    Where a later one has taken its place, the checkpoint's own does, if that evaluation was its
    last.
    """
    best = checkpoint.result.best_step
    if best is None or saved_step(folder.adapter) == best:
        return True
    if checkpoint.result.step != best:
        return False
    _restore(checkpoint.folder, folder, best)
    return True


def _restore(checkpoint: Path, folder: TrialFolder, step: int) -> None:
    """Keep the adapter of a checkpoint, which is of ``step``."""
    aside = folder.staged_adapter
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for path in checkpoint.glob("adapter_*"):
        shutil.copy2(path, aside / path.name)
    write_json(aside / STEP, step)
    replace_folder(aside, folder.adapter)


def saved_step(target: Path) -> int | None:
    """The optimizer step of the adapter at ``target``; None where there is no whole adapter."""
    recover_folder(target)
    try:
        return int(read_json(target / STEP))
    except TrialError:
        return None
