"""Metrics of answers and classes against numbers taken by hand, and functions of one's own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from datasets import Dataset
from tune_lora.spaces import SpaceError
from tune_lora.trainer import metrics
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.metrics import Measures, check_references, own_metric

MADE = ['{"a": 1, "b": [2, 3]}', "no json", '{"a": 1.0, "b": {"c": null}}', ' {"a": 5} ']
RIGHT = ['{"b": [2, 4], "a": 1}', '{"a": 1}', '{"a": 1, "b": {"c": null}}', '{"a": 5}']


def test_exact_match_looks_past_white_space_around_it() -> None:
    assert metrics.exact_match(MADE, RIGHT) == 0.25


def test_json_is_compared_field_by_field() -> None:
    """Fields made: 3 + 0 + 2 + 1, wanted: 3 + 1 + 2 + 1, right: 2 + 0 + 2 + 1."""
    assert metrics.json_valid(MADE, RIGHT) == 0.75
    assert metrics.json_f1(MADE, RIGHT) == pytest.approx(2 * 5 / (6 + 7))


@pytest.mark.parametrize(
    ("made", "right", "wanted"),
    [
        ("{}", "{}", 1.0),
        ("[]", "{}", 0.0),
        ("true", "1", 0.0),
        ('"1"', "1", 0.0),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', 0.0),
        ('{"a": {"b": 1}}', '{"a.b": 1}', 0.0),
    ],
)
def test_what_a_field_is(made: str, right: str, wanted: float) -> None:
    assert metrics.json_f1([made], [right]) == wanted


@pytest.mark.parametrize(
    "text", ["NaN", '{"a": Infinity}', "[" * 100_000, "", "{'a': 1}", "{}{}", "```json\n{}\n```"]
)
def test_what_is_no_json(text: str) -> None:
    assert metrics.json_valid([text], ["{}"]) == 0.0
    assert metrics.json_f1([text], ['{"a": 1}']) == 0.0


def test_numbers_are_compared_however_large_and_mappings_however_deep() -> None:
    huge = "1" + "0" * 400
    assert metrics.json_f1([huge, huge], [huge, huge[:-1]]) == 0.5
    deep = '{"a":' * 700 + "1" + "}" * 700
    assert metrics.json_f1([deep], [deep]) == 1.0


def test_references_without_any_json_are_refused() -> None:
    class Plain:
        def decode(self, ids: list[int], **_: object) -> str:
            return "".join(map(chr, ids))

    def rows(*texts: str) -> Dataset:
        labels = [[-100, *map(ord, text)] for text in texts]
        return Dataset.from_dict({"input_ids": labels, "labels": labels})

    def check(*texts: str, wanted: str = "json_f1") -> None:
        measures = Measures((wanted,), rows=2)
        check_references(rows(*texts), Plain(), "CAUSAL_LM", measures, "search.metric")  # type: ignore[arg-type]

    check("no", "{}")
    check("no", "no", wanted="json_valid")
    with pytest.raises(
        SpaceError, match=r"search\.metric.*json_f1.*no response of the 2 valid.*'no'"
    ):
        check("no", "ok", "{}")


def test_bleu_is_the_one_of_its_paper() -> None:
    """The precisions are 5/6, 3/5, 1/4 and, smoothed, 1/2 of 1/3; lengths are equal."""
    made, right = "the cat sat on the mat", "the cat is on the mat"
    wanted = 100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25
    assert metrics.bleu([made], [right]) == pytest.approx(wanted)


def test_rouge_is_the_mean_of_overlaps() -> None:
    made, right = ["the cat sat", "a b"], ["the cat", "c"]
    assert metrics._OF_TEXTS["rouge1"](made, right) == pytest.approx((2 * 2 / 5 + 0) / 2)
    assert metrics._OF_TEXTS["rouge2"](made, right) == pytest.approx((2 * 1 / 3 + 0) / 2)
    assert metrics._OF_TEXTS["rougeL"](["b a"], ["a b"]) == pytest.approx(0.5)


def test_f1_of_classes_is_that_of_each_class_alike() -> None:
    made, right = ["x", "x", "x", "y"], ["x", "x", "y", "y"]
    assert metrics.accuracy(made, right) == 0.75
    assert metrics.macro_f1(made, right) == pytest.approx((2 * 2 / 5 + 2 * 1 / 3) / 2)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    text = """
seen = []
def length(predictions, references, rows):
    seen.append((predictions, references, rows))
    return sum(map(len, predictions)) / len(predictions)
number = 3
def breaks(predictions, references, rows):
    return rows[0]["price"]
def words(predictions, references, rows):
    return "many"
def helped(predictions, references, rows):
    import my_helper
    return my_helper.VALUE
"""
    (tmp_path / "my_helper.py").write_text("VALUE = 0.25", encoding="utf-8")
    (tmp_path / "my_faulty_metrics.py").write_text("import os\nos.nothing", encoding="utf-8")
    (tmp_path / "my_own_metrics.py").write_text(text, encoding="utf-8")
    (tmp_path / "my_broken_metrics.py").write_text("import not_there_at_all", encoding="utf-8")
    return str(tmp_path)


def test_a_function_of_ones_own_gets_answers_references_and_prompts(folder: str) -> None:
    found = metrics._compute("my_own_metrics:length", ["ab", "c"], ["x", "y"], ["p", "q"], folder)
    assert found == 1.5
    rows = [
        {"prompt": "p", "prediction": "ab", "reference": "x"},
        {"prompt": "q", "prediction": "c", "reference": "y"},
    ]
    import sys

    assert sys.modules["my_own_metrics"].seen[-1] == (["ab", "c"], ["x", "y"], rows)
    assert folder not in sys.path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_own_metrics:width", "my_own_metrics.py) has no width"),
        ("my_faulty_metrics:width", "cannot be imported (AttributeError"),
        ("my_own_metrics:number", "is no function"),
        ("my_broken_metrics:length", "cannot be imported (ModuleNotFoundError"),
        ("not_there_either:length", "looked in"),
    ],
)
def test_one_that_cannot_be_had_is_named(folder: str, name: str, said: str) -> None:
    with pytest.raises(SpaceError) as caught:
        own_metric(name, folder, "search.metric")
    assert said in str(caught.value)
    assert f"search.metric = {name!r}" in str(caught.value) or name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [("breaks", "failed: KeyError: 'price'"), ("words", "failed: ValueError: could not convert")],
)
def test_one_that_breaks_says_so_by_its_name(folder: str, name: str, said: str) -> None:
    with pytest.raises(TrialError, match=f"my_own_metrics:{name} {said}"):
        metrics._compute(f"my_own_metrics:{name}", ["a"], ["b"], ["c"], folder)


def test_one_may_import_from_beside_itself_when_it_is_called(folder: str) -> None:
    assert metrics._compute("my_own_metrics:helped", ["a"], ["b"], ["c"], folder) == 0.25


def test_what_is_not_finite_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Base:
        class spec:  # noqa: N801 - an attribute
            task = "SEQ_CLS"

    monkeypatch.setattr(metrics, "classes", lambda *_: (["a"], ["a"]))
    monkeypatch.setitem(metrics._OF_TEXTS, "f1", lambda *_: math.nan)  # type: ignore[arg-type]
    found = metrics.measured(None, Base, [0], Measures(("accuracy", "f1")), 1)  # type: ignore[arg-type]
    assert found == {"accuracy": 1.0}
