"""From the plain data of a space file to a `Space`, noting every fault on the way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .blocks import (
    DataBlock,
    LoraBlock,
    ModelBlock,
    ResourcesBlock,
    SearchBlock,
    TrackingBlock,
    TrainBlock,
)
from .crosschecks import (
    check_confirm,
    check_data,
    check_metrics,
    check_quantization,
    check_scheduler,
    check_task,
    check_values,
)
from .errors import MISSING, FaultLog, KeyPath
from .fixed import Block
from .nearest import BLOCKS, VALUE_BLOCKS, nearest, suggest_keys
from .rules import LORA_DEFAULTS, TRAIN_DEFAULTS
from .space import Space
from .values import parse_block

AnyBlock = TypeVar("AnyBlock", bound=Block)

_WORDS: Final[Mapping[str, str]] = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a string",
    "bool_type": "true or false",
    "string_too_short": "a string that is not empty",
    "dict_type": "a mapping",
    "list_type": "a list",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "null",
}


def build_space(name: str, raw: object, log: FaultLog) -> Space:
    """Make a space of plain data.

    Args:
        name: The space's name.
        raw: What the file holds, overrides applied.
        log: Knows where each key was given, and may hold faults already.

    Raises:
        SpaceError: There are faults, in `log` or in the data.
    """
    blocks = _split(raw, log)
    model = _fixed(ModelBlock, "model", blocks, log)
    data = _fixed(DataBlock, "data", blocks, log)
    search = _fixed(SearchBlock, "search", blocks, log)
    resources = _fixed(ResourcesBlock, "resources", blocks, log)
    tracking = _fixed(TrackingBlock, "tracking", blocks, log)
    lora = parse_block("lora", blocks.get("lora", {}), LORA_DEFAULTS, log)
    train = parse_block("train", blocks.get("train", {}), TRAIN_DEFAULTS, log)
    values = {
        f"{name}.{key}": value
        for name, block in (("lora", lora), ("train", train))
        for key, value in block.items()
    }
    given = {f"{block}.{key}" for block in VALUE_BLOCKS for key in blocks.get(block, {})}
    check_values(values, given - values.keys(), log)
    if data:
        check_data(data, log)
    if model:
        check_quantization(model, log)
    if model and data:
        check_task(model, data, log)
    if search:
        check_scheduler(search.scheduler, values, log)
        check_confirm(search, log)
    if search and model and data:
        check_metrics(search, model, data, log)
    if log.faults or not (model and data and search and resources and tracking):
        raise log.error()
    return Space(
        name=name,
        model=model,
        data=data,
        lora=LoraBlock(lora),
        train=TrainBlock(train),
        search=search,
        resources=resources,
        tracking=tracking,
    )


def _split(raw: object, log: FaultLog) -> dict[str, Any]:
    """The blocks of the file that can be looked into; faults for all else at the top."""
    if raw is None or raw == {}:
        log.add((), MISSING, "is empty: a space needs at least model.name and data.train")
        raise log.error()
    if not isinstance(raw, dict):
        log.add((), raw, f"must be a mapping with the blocks {', '.join(BLOCKS)}")
        raise log.error()
    blocks: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in BLOCKS:
            log.add((key,), MISSING, "unknown block", suggest_keys((), key))
        elif key == "tracking" or isinstance(value, dict):
            blocks[key] = value
        elif value is not None:
            log.add((key,), value, "must be a mapping of keys to values")
            blocks[key] = {} if key in VALUE_BLOCKS else MISSING
    return blocks


def _fixed(
    model: type[AnyBlock], block: str, blocks: Mapping[str, Any], log: FaultLog
) -> AnyBlock | None:
    """A block of fixed keys, or None and faults."""
    raw = blocks.get(block, {})
    if raw is MISSING:
        return None
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        _translate(error, (block,), raw, log)
        return None


def _translate(error: ValidationError, base: KeyPath, raw: object, log: FaultLog) -> None:
    """Note pydantic's errors as faults, those of the members of one union joined."""
    grouped: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        grouped.setdefault(_file_path(detail, base, raw), []).append(detail)
    for path, details in grouped.items():
        kinds = {detail["type"] for detail in details}
        value = MISSING if "missing" in kinds else details[0]["input"]
        if "extra_forbidden" in kinds:
            parents = tuple(str(part) for part in path[:-1])
            log.add(path, value, "unknown key", suggest_keys(parents, str(path[-1])))
        elif "missing" in kinds:
            log.add(path, value, "is required")
        else:
            words = dict.fromkeys(_words(detail) for detail in details)
            expected = [name for detail in details for name in _expected(detail)]
            close = nearest(value, expected) if isinstance(value, str) else ()
            log.add(path, value, f"must be {' or '.join(words)}", close)


def _file_path(detail: ErrorDetails, base: KeyPath, raw: object) -> KeyPath:
    """The error's place in the file: pydantic's, less the names of union members."""
    path, here = base, raw
    wanted = [*detail["loc"]]
    while True:
        if not wanted:
            return path
        part = wanted.pop(0)
        if isinstance(here, dict) and (part in here or detail["type"] == "missing"):
            path, here = (*path, part), here.get(part)
        elif detail["type"] != "missing" and not isinstance(here, dict | list):
            return path


def _words(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    bounds = {
        "greater_than": ("above", "gt"),
        "greater_than_equal": ("at least", "ge"),
        "less_than": ("below", "lt"),
        "less_than_equal": ("at most", "le"),
    }
    if kind in bounds:
        word, key = bounds[kind]
        return f"{word} {context[key]:g}"
    if expected := _expected(detail):
        return ("one of " if len(expected) > 1 else "") + ", ".join(expected)
    return _WORDS.get(kind) or detail["msg"].lower()


def _expected(detail: ErrorDetails) -> list[str]:
    """The values of a Literal."""
    found: list[str] = re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected", "")))
    return found
