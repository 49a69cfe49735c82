"""Which modules the adapter goes into: presets, resolved for each architecture, and checks.

The presets are found from a model's structure, not from a table of model names: a linear
module inside a transformer block belongs to attention if a component of its path says so,
else to the MLP. ``qv`` is the original LoRA paper's choice (https://arxiv.org/abs/2106.09685,
section 7.1); architectures that fuse query, key and value get the fused module. Encoder and
decoder of a model that has both can be had apart: ``decoder.attention`` is the decoder's attention,
``encoder`` all that is linear in the encoder's blocks.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from torch import nn
from transformers.pytorch_utils import Conv1D

from ..spaces import TARGET_PARTS, TARGET_PRESETS, SpaceError

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_QUERY_VALUE = {"q_proj", "v_proj", "q", "v", "query", "value", "q_lin", "v_lin"}
_FUSED = {"query_key_value", "c_attn", "qkv_proj", "qkv", "Wqkv", "in_proj"}
_TARGETABLE = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d)


def resolve_targets(value: str | Sequence[str], model: nn.Module) -> str | list[str]:
    """``target_modules`` as peft takes them, for this model.

    Args:
        value: a preset, alone or of a part (``encoder.mlp``), a part, a list of module names
            (matched as peft does: the whole path or its end), or a regular expression over whole
            module paths.
        model: its modules; weights may be on the meta device.

    Returns:
        For ``qv``, ``attention`` and ``mlp`` the sorted module names; for a part a regular
        expression; else ``value`` (``all-linear`` is peft's own word, which leaves out the output
        head).

    Raises:
        SpaceError: at ``lora.target_modules``: nothing in the model matches.
    """
    if value == "all-linear":
        return "all-linear"
    if isinstance(value, str):
        if value in TARGET_PRESETS:
            return _preset(value, model)
        part, _, preset = value.partition(".")
        if part in TARGET_PARTS and preset in ("", *TARGET_PRESETS):
            return _of_part(part, preset or "all-linear", value, model)
        _check_pattern(value, model)
        return value
    _check_names(list(value), model)
    return list(value)


def adapter_parameters(targets: str | Sequence[str], r: int, model: nn.Module) -> int:
    """Trainable parameters of LoRA matrices on these modules: ``r x (in + out)`` each.

    Args:
        targets: from ``resolve_targets``.
        r: the rank.
        model: its modules; weights may be on the meta device.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    total = 0
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(module, _TARGETABLE) or weight is None:
            continue
        if targets == "all-linear":
            chosen = isinstance(module, nn.Linear | Conv1D) and module is not head
        else:
            chosen = matches(targets, path)
        if chosen:
            total += r * (weight.shape[0] + weight[0].numel())
    return total


def matches(targets: str | Sequence[str], path: str) -> bool:
    """Whether a pattern or a list of names, from ``resolve_targets``, means the module at ``path``.

    As peft matches: a pattern the whole path, a name the path or its end.
    """
    if isinstance(targets, str):
        return re.fullmatch(targets, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in targets)


def _preset(name: str, model: nn.Module) -> list[str]:
    return _shortest_names(_chosen(name, name, _linear_paths(model), model), _targetable(model))


def _of_part(part: str, preset: str, value: str, model: nn.Module) -> str:
    """A pattern of the preset's modules within the encoder or the decoder."""
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        rule = f"this model has no encoder and decoder apart; write {preset}"
        raise SpaceError.single("lora.target_modules", value, rule, (preset,))

    def inside(paths: Sequence[str]) -> list[str]:
        return [path for path in paths if part in path.split(".")]

    chosen = _chosen(preset, value, inside(_linear_paths(model)), model)
    names = _shortest_names(chosen, inside(_targetable(model)))
    return rf"(.*\.)?{part}\..*\.({'|'.join(map(re.escape, names))})"


def _chosen(preset: str, value: str, paths: Sequence[str], model: nn.Module) -> list[str]:
    """Paths of the preset's modules among linear ones."""
    inside = [path for path in paths if _block_suffix(path) is not None]
    attention = [path for path in inside if _in_attention(path)]
    chosen = {
        "attention": attention,
        "mlp": [path for path in inside if path not in set(attention)],
        "qv": _query_value(attention),
        "all-linear": inside,
    }[preset]
    if not chosen:
        rule = f"this model has no modules of that kind; name them, e.g. {_leaves(model)[:6]}"
        raise SpaceError.single("lora.target_modules", value, rule)
    return chosen


def _linear_paths(model: nn.Module) -> list[str]:
    return [
        path for path, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)
    ]


def _block_suffix(path: str) -> str | None:
    """``self_attn.q_proj`` for ``model.layers.3.self_attn.q_proj``; None outside the blocks."""
    parts = path.split(".")
    numbered = [index for index, part in enumerate(parts) if part.isdigit()]
    return (
        ".".join(parts[numbered[-1] + 1 :]) if numbered and numbered[-1] + 1 < len(parts) else None
    )


def _in_attention(path: str) -> bool:
    suffix = _block_suffix(path) or ""
    return bool(_ATTENTION.search(suffix))


def _query_value(attention: Sequence[str]) -> list[str]:
    def pick(leaves: set[str]) -> list[str]:
        return [path for path in attention if path.rpartition(".")[2] in leaves]

    return pick(_QUERY_VALUE) or pick(_FUSED)


def _shortest_names(chosen: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Names that peft matches by path end: the leaf where it is unambiguous, else more of it.

    As much more as it takes, the block's number included: BERT's MLP ``output.dense`` is also
    the end of ``attention.output.dense``.
    """
    wanted = set(chosen)
    others = [f".{path}" for path in paths if path not in wanted]

    def shortest(path: str) -> str:
        parts = path.split(".")
        ends = (".".join(parts[start:]) for start in range(len(parts) - 1, 0, -1))
        return next((end for end in ends if not any(p.endswith(f".{end}") for p in others)), path)

    return sorted({shortest(path) for path in wanted})


def _targetable(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if isinstance(module, _TARGETABLE)]


def _leaves(model: nn.Module) -> list[str]:
    return sorted({path.rpartition(".")[2] for path in _targetable(model)})


def _check_names(names: Sequence[str], model: nn.Module) -> None:
    paths = _targetable(model)
    for name in names:
        if not any(path == name or path.endswith(f".{name}") for path in paths):
            leaves = _leaves(model)
            rule = f"the model has no such module {name!r}; it has {', '.join(leaves)}"
            near = difflib.get_close_matches(name, leaves)
            raise SpaceError.single("lora.target_modules", list(names), rule, tuple(near))


def _check_pattern(pattern: str, model: nn.Module) -> None:
    paths = _targetable(model)
    if not any(re.fullmatch(pattern, path) for path in paths):
        rule = f"matches no module of the model; paths look like {_examples(paths)}"
        near = difflib.get_close_matches(pattern, [*TARGET_PRESETS, *_leaves(model)])
        raise SpaceError.single("lora.target_modules", pattern, rule, tuple(near))


def _examples(paths: Iterable[str]) -> str:
    return ", ".join(list(paths)[1:4])
