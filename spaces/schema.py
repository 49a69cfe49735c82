"""The JSON Schema of a space file, so that editors complete and check every key.

It says what the loader checks key by key; what takes two keys (a ratio's result, shares that
leave no rows) only the loader knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from pydantic import BaseModel

from .blocks import TRACKERS, TrackingBlock
from .fields import FieldInfo, block_fields
from .nearest import FIXED_BLOCKS, VALUE_BLOCKS
from .rules import BOUNDS, CONSTANT_ONLY, LORA_DEFAULTS, TARGET_WORDS, TRAIN_DEFAULTS, reserved
from .schedulers import SCHEDULERS

Schema: TypeAlias = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_REFS: Final = "#/$defs/{model}"
_DEFAULTS: Final = {"lora": LORA_DEFAULTS, "train": TRAIN_DEFAULTS}
_DESCRIPTIONS: Final = {
    "lora": "Fields of peft's LoraConfig, each a constant or a domain.",
    "train": "Fields of transformers' TrainingArguments, each a constant or a domain.",
}


def json_schema() -> Schema:
    """A JSON Schema, draft 2020-12, of a space file; a fresh dictionary at every call."""
    definitions = _domain_definitions()
    properties: Schema = {}
    for block, model in FIXED_BLOCKS.items():
        properties[block] = _hoisted(model.model_json_schema(ref_template=_REFS), definitions)
    search = properties["search"]["properties"]
    described = {"description": search["scheduler"]["description"]}
    search["scheduler"] = described | _switch(SCHEDULERS, default="asha")
    for block in VALUE_BLOCKS:
        properties[block] = _value_block(block)
    tracking = _hoisted(_settings(TrackingBlock), definitions)
    words: Schema = {"enum": list(TRACKERS)}
    properties["tracking"] = {
        "description": tracking.pop("description"),
        "anyOf": [{"enum": [*TRACKERS, "none", None]}, {"type": "array", "items": words}, tracking],
        "default": None,
    }
    return {
        "$schema": DIALECT,
        "title": "tune-lora space",
        "description": "A LoRA hyperparameter search: model, data, and what to search.",
        **_object(properties, required=["model", "data"]),
        "$defs": definitions,
    }


def _object(properties: Schema, required: list[str]) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _hoisted(schema: Schema, definitions: Schema) -> Schema:
    definitions.update(schema.pop("$defs", {}))
    return schema


def _switch(kinds: Mapping[str, type[BaseModel]], default: str | None) -> Schema:
    """A bare word, `none`, or a word with settings."""
    settings = [
        _object({word: {"anyOf": [_settings(kind), {"type": "null"}]}}, required=[word])
        for word, kind in kinds.items()
    ]
    return {"anyOf": [{"enum": [*kinds, "none", None]}, *settings], "default": default}


def _settings(kind: type[BaseModel]) -> Schema:
    return kind.model_json_schema(ref_template=_REFS)


def _value_block(block: str) -> Schema:
    fields = {
        name: _field(f"{block}.{name}", info)
        for name, info in block_fields(block).items()
        if not reserved(f"{block}.{name}")
    }
    return {"description": _DESCRIPTIONS[block], **_object(fields, required=[])}


def _field(key: str, info: FieldInfo) -> Schema:
    constant = _constant(key, info)
    schema: Schema = {"description": info.description} if info.description else {}
    block, _, name = key.partition(".")
    if name in _DEFAULTS[block]:
        schema["default"] = _DEFAULTS[block][name]
    if key in CONSTANT_ONLY:
        return {**schema, **constant}
    alternatives = [constant, _choice(constant)]
    if info.type.has("float"):
        alternatives += [_ref("uniform"), _ref("log_uniform")]
    if info.type.has("int", "float"):
        alternatives += [_ref("int"), _ref("log_int"), _ref("ratio")]
    return {**schema, "anyOf": alternatives}


def _constant(key: str, info: FieldInfo) -> Schema:
    schema = info.type.json_schema()
    if key == "lora.target_modules":
        names = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
        # The presets come first, for editors offer them; any other string is a regex.
        presets = {"enum": list(TARGET_WORDS)}
        schema = {"anyOf": [presets, names, {"type": "string", "minLength": 1}, {"type": "null"}]}
    if key in BOUNDS:
        schema |= BOUNDS[key].json_schema()
    return schema


def _choice(constant: Schema) -> Schema:
    option = _object({"value": constant, "with": _ref("given")}, required=["value"])
    options = {"type": "array", "minItems": 1, "items": {"anyOf": [constant, option]}}
    return {**_object({"choice": options}, required=["choice"]), "title": "choice"}


def _domain_definitions() -> Schema:
    found: Schema = {
        "given": {
            "type": "object",
            "description": "Values and domains that other keys take with this option.",
            "additionalProperties": True,
        }
    }
    ratios = []
    for keyword, kind in (
        ("uniform", "number"),
        ("log_uniform", "number"),
        ("int", "integer"),
        ("log_int", "integer"),
    ):
        properties = _range_properties(keyword, kind)
        found[keyword] = {**_object(properties, required=[keyword]), "title": keyword}
        ratios.append(_ratio(properties, keyword))
    numbers = {"type": "array", "minItems": 1, "items": {"type": "number", "exclusiveMinimum": 0}}
    ratios.append(_ratio({"choice": numbers}, "choice"))
    found["ratio"] = {
        "anyOf": ratios,
        "description": "A multiple of another key's value; the domain is of the factor.",
    }
    return found


def _range_properties(keyword: str, kind: str) -> Schema:
    bound: Schema = {"type": kind}
    if keyword.startswith("log_"):
        bound["exclusiveMinimum"] = 0
    bounds = {
        "type": "array",
        "items": bound,
        "minItems": 2,
        "maxItems": 2,
        "description": "Smallest and largest value.",
    }
    if keyword.startswith("log_"):
        return {keyword: bounds}
    step = {"type": kind, "exclusiveMinimum": 0, "description": "Distance of neighbouring values."}
    return {keyword: bounds, "step": step}


def _ratio(properties: Schema, keyword: str) -> Schema:
    of = {"type": "string", "description": "Key of the same block, or a dotted one."}
    return _object({"ratio_of": of, **properties}, required=["ratio_of", keyword])


def _ref(name: str) -> Schema:
    return {"$ref": _REFS.format(model=name)}
