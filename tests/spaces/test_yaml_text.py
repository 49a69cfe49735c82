"""How YAML is read: YAML 1.2's numbers, no surprises, no crashes."""

import time
from collections.abc import Callable

import pytest
from tune_lora.spaces import Fault, Space
from tune_lora.spaces.errors import FaultLog
from tune_lora.spaces.yamltext import read_yaml

Faults = Callable[..., tuple[Fault, ...]]


def read(text: str) -> object:
    log = FaultLog()
    data = read_yaml(text, log).data
    assert log.faults == []
    return data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("3e-4", 3e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-2.5e-3", -2.5e-3),
        ("010", 10),
        ("0x10", 16),
        ("+3", 3),
        ("true", True),
        ("False", False),
        ("none", "none"),
        ("no", "no"),
        ("on", "on"),
        ("Off", "Off"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1e-5'", "1e-5"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("v1.2.3", "v1.2.3"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = read(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "is empty"),
        ("# only a comment", "is empty"),
        ("{}", "is empty"),
        ("- a\n- b", "must be a mapping"),
        ("just words", "must be a mapping"),
        ("a: [1", "is not YAML"),
        ("a: b: c", "is not YAML"),
        ("\tx: 1", "is not YAML"),
        ("a: \x01", "is not YAML"),
        ("a: 1\n---\nb: 2", "is not YAML"),
        ("a: !!python/object/apply:os.system [x]", "has a tag that a space cannot use"),
        ("a: !mine 3", "has a tag that a space cannot use"),
        ("a: !!binary aGk=", "has a tag that a space cannot use"),
        ("a: !!int x", "invalid literal"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: &x [*x]", "aliases"),
        ("1: a", "is not a word"),
        ("null: a", "is not a word"),
        ("[a]: b", "is not a word"),
        ("{a: b}: c", "is not a word"),
        ("a: .nan", "must be a finite number"),
        ("a: -.inf", "must be a finite number"),
        ("a: 1e999", "must be a finite number"),
        ("a: 9223372036854775808", "too large"),
        ("a: " + "9" * 5000, "too large"),
        ("a: 0x" + "f" * 5000, "too large"),
        ("a: " + "[" * 3000, "levels deep"),
        ("a: " + "{a: " * 3000, "levels deep"),
        ("[" * 50 + "]" * 50, "levels deep"),
        ('a: "\\ud800"', "surrogate"),
        ("a: 1\nb: 2\na: 3", "is given twice, here and on line 1"),
        ("x" * 100_001, "longer than"),
    ],
)
def test_refused_texts(faults: Faults, text: str, rule: str) -> None:
    assert any(rule in fault.rule for fault in faults(text, whole=True))


def test_lines_of_faults(faults: Faults) -> None:
    text = "model:\n  name: m\ndata:\n  train: d\nlora:\n  r:\n    choice:\n      - 8\n      - 0\n"
    assert [fault.line for fault in faults(text, whole=True)] == [9]
    assert [fault.line for fault in faults("model:\n  name: [\n", whole=True)] == [3]
    assert [fault.line for fault in faults("a: 1\nb: *x", whole=True)] == [2]


def test_a_bomb_is_refused_quickly(faults: Faults) -> None:
    lines = ['a0: &a0 ["x", "x"]'] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    start = time.perf_counter()
    faults("\n".join(lines), whole=True)
    assert time.perf_counter() - start < 1


def test_merge_keys_are_plain_keys(faults: Faults) -> None:
    assert [fault.path for fault in faults("lora: {<<: {r: 8}}")] == ["lora.<<"]


def test_dotted_keys_of_a_constant_are_kept(load: Callable[..., Space]) -> None:
    text = 'lora: {rank_pattern: {"^model.layers.0": 4, "int.x": 2}}'
    assert load(text).lora["rank_pattern"] == {"^model.layers.0": 4, "int.x": 2}
