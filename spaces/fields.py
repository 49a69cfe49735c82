"""The fields of peft's LoraConfig and transformers' TrainingArguments, without importing them.

Both packages pull in torch, seconds of imports that `validate` must not pay, so the installed
source files are parsed instead: what they say is what the trial will accept.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from .annotations import FieldType, field_type


@dataclass(frozen=True)
class FieldInfo:
    """One field of a config class.

    Attributes:
        name: Its name.
        type: What it accepts.
        description: Its help text, one paragraph; may be empty.
    """

    name: str
    type: FieldType
    description: str = ""


_WHOLE: Final = FieldType(("int",))
_OPTIONAL_WHOLE: Final = FieldType(("int", "null"))

# Where the harness asks for less than the class would take, and keys of its own.
_TRAIN_OWN: Final = (
    FieldInfo(
        "max_steps",
        _WHOLE,
        "Optimizer steps of every trial: the horizon that the learning-rate schedule spans, "
        "whether or not the scheduler stops the trial earlier.",
    ),
    FieldInfo(
        "eval_steps",
        _OPTIONAL_WHOLE,
        "Evaluate every so many optimizer steps, besides the evaluations at the rungs.",
    ),
    FieldInfo(
        "early_stopping_patience",
        _OPTIONAL_WHOLE,
        "Stop a trial after so many evaluations without improvement; null never stops. "
        "See transformers.EarlyStoppingCallback.",
    ),
    FieldInfo(
        "early_stopping_threshold",
        FieldType(("float",)),
        "By how much the evaluation loss must fall to count as an improvement.",
    ),
    FieldInfo(
        "loraplus_lr_ratio",
        FieldType(("float", "null")),
        "LoRA+ (https://arxiv.org/abs/2402.12354): the matrices B learn so many times as fast as "
        "the matrices A, whose rate is learning_rate; null for the same rate.",
    ),
)


@cache
def lora_fields() -> Mapping[str, FieldInfo]:
    """Every field of the installed peft's LoraConfig, by name.

    Raises:
        ModuleNotFoundError: peft is not installed.
    """
    classes = {
        **_classes(_module_file("peft", "config.py")),
        **_classes(_module_file("peft", "tuners/lora/config.py")),
    }
    return {info.name: info for info in _fields("LoraConfig", classes)}


@cache
def train_fields() -> Mapping[str, FieldInfo]:
    """Every field of the installed transformers' TrainingArguments and the harness's own keys.

    Raises:
        ModuleNotFoundError: transformers is not installed.
    """
    classes = {
        **_classes(_module_file("transformers", "trainer_utils.py")),
        **_classes(_module_file("transformers", "training_args.py")),
    }
    own = {info.name: info for info in _TRAIN_OWN}
    return {info.name: info for info in _fields("TrainingArguments", classes)} | own


def block_fields(block: str) -> Mapping[str, FieldInfo]:
    """The fields of block "lora" or "train"."""
    return lora_fields() if block == "lora" else train_fields()


def _module_file(package: str, relative: str) -> Path:
    # find_spec of a top-level name does not import it; of a dotted one it would.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed", name=package)
    return Path(spec.submodule_search_locations[0]) / relative


def _classes(path: Path) -> dict[str, ast.ClassDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _fields(name: str, classes: Mapping[str, ast.ClassDef]) -> Iterator[FieldInfo]:
    enums = {key: values for key, node in classes.items() if (values := _enum_values(node))}
    for node in _bases_first(name, classes):
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                field = statement.target.id
                if field.startswith("_") or _is_class_variable(statement.annotation):
                    continue
                yield FieldInfo(
                    field, field_type(statement.annotation, enums), _help(statement.value)
                )


def _bases_first(name: str, classes: Mapping[str, ast.ClassDef]) -> Iterator[ast.ClassDef]:
    if name in classes:
        for base in classes[name].bases:
            yield from _bases_first(ast.unparse(base), classes)
        yield classes[name]


def _enum_values(node: ast.ClassDef) -> tuple[str, ...]:
    if not any("Enum" in ast.unparse(base) for base in node.bases):
        return ()
    return tuple(
        statement.value.value
        for statement in node.body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _is_class_variable(annotation: ast.expr) -> bool:
    return "ClassVar" in ast.unparse(annotation)


def _help(value: ast.expr | None) -> str:
    """The `help` text of a `field(metadata={"help": ...})`."""
    metadata = [
        keyword.value
        for keyword in (value.keywords if isinstance(value, ast.Call) else [])
        if keyword.arg == "metadata" and isinstance(keyword.value, ast.Dict)
    ]
    for mapping in metadata:
        for key, text in zip(mapping.keys, mapping.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "help":
                found = text.value if isinstance(text, ast.Constant) else ""
                return " ".join(inspect.cleandoc(str(found)).split())
    return ""
