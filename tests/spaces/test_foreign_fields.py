"""The fields read from peft's and transformers' sources, held against the classes themselves."""

import ast
import dataclasses
import subprocess
import sys
import time

import pytest
from tune_lora.spaces.annotations import FieldType, field_type
from tune_lora.spaces.fields import lora_fields, train_fields
from tune_lora.spaces.rules import BOUNDS, LORA_DEFAULTS, RESERVED, TRAIN_DEFAULTS

ENUMS = {"Colour": ("red", "blue")}


def parse(text: str) -> FieldType:
    return field_type(ast.parse(text, mode="eval").body, ENUMS)


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("int", [1, -3], [1.0, True, "1", None]),
        ("float", [1, 1.5], [True, "1"]),
        ("bool", [True], [1, "true"]),
        ("Optional[int]", [1, None], ["x"]),
        ("int | None", [1, None], [1.5]),
        ("Union[list[str], str]", [["a"], "a", []], [[1], 3, None]),
        ("Literal['a', 'b']", ["a"], ["c", 1]),
        ("Literal[False] | str", [False, "x"], [0, True]),
        ("typing.Optional[typing.Literal['a']]", ["a", None], ["b"]),
        ("dict[str, Any] | None", [{"a": 1}, None], [[1]]),
        ("List[Tuple[int, int]]", [[[1, 2]]], [[1], [["a"]]]),
        ("Colour | str", ["red"], ["green", 1]),
        ("Optional[SomeConfig]", [{"a": 1}, 3, None], []),
        ("'int | None'", [1, None], ["x"]),
        ("bool | Literal['a_[number of iters]']", ["a_16", False], ["a_", "a_x", "b"]),
    ],
)
def test_annotations_become_checks(annotation: str, good: list[object], bad: list[object]) -> None:
    kind = parse(annotation)
    assert [value for value in good if not kind.accepts(value)] == []
    assert [value for value in bad if kind.accepts(value)] == []


def test_lora_fields_are_those_of_the_class() -> None:
    peft = pytest.importorskip("peft")
    assert set(lora_fields()) == {field.name for field in dataclasses.fields(peft.LoraConfig)}


def test_train_fields_are_those_of_the_class_and_three_more() -> None:
    transformers = pytest.importorskip("transformers")
    known = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    own = {"early_stopping_patience", "early_stopping_threshold", "loraplus_lr_ratio"}
    assert set(train_fields()) == known | own


def test_enum_fields_know_their_values() -> None:
    transformers = pytest.importorskip("transformers")
    kind = train_fields()["lr_scheduler_type"].type
    assert kind.choices == tuple(member.value for member in transformers.SchedulerType)
    assert train_fields()["optim"].type.accepts("paged_adamw_8bit")


def test_tables_name_fields_that_exist() -> None:
    known = {f"lora.{name}" for name in lora_fields()} | {
        f"train.{name}" for name in train_fields()
    }
    assert set(BOUNDS) - known <= {"train.warmup_ratio"}
    assert set(RESERVED) <= known
    assert {f"lora.{name}" for name in LORA_DEFAULTS} <= known
    assert {f"train.{name}" for name in TRAIN_DEFAULTS} <= known


def test_every_field_is_described() -> None:
    infos = [*lora_fields().values(), *train_fields().values()]
    assert sum(bool(info.description) for info in infos) > 0.95 * len(infos)


def test_loading_imports_nothing_heavy_and_answers_soon() -> None:
    code = (
        "import sys; from tune_lora.spaces import load_space; load_space('llama');"
        "print([m for m in ('torch', 'transformers', 'peft', 'optuna', 'ray', 'datasets', 'numpy')"
        " if m in sys.modules])"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
    assert time.perf_counter() - start < 5  # about 0.4 s, with room for a busy machine
