"""The format of a data set, by its columns."""

from __future__ import annotations

import pytest
from tune_lora.search.columns import _NAMES, Recognised, recognise
from tune_lora.spaces import SpaceError
from tune_lora.spaces.formats import FORMATS

CAUSAL = ("CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS")
PAIRED = ("SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS")
ENCODER = ("SEQ_CLS", "TOKEN_CLS")
LISTS = {"messages", "conversations", "tokens", "tags", "ner_tags"}


def columns(text: str) -> dict[str, bool | None]:
    """Of each column whether it holds lists."""
    return {name: name in LISTS for name in text.split()}


@pytest.mark.parametrize(
    ("text", "tasks", "format_", "fields", "task"),
    [
        ("instruction response", CAUSAL, "instruction", {}, "CAUSAL_LM"),
        ("instruction response", PAIRED, "instruction", {}, "SEQ_2_SEQ_LM"),
        ("instruction input output text", CAUSAL, "instruction", {"response": "output"}, CAUSAL[0]),
        (
            "id Question Answer",
            CAUSAL,
            "instruction",
            {"instruction": "Question", "response": "Answer"},
            "CAUSAL_LM",
        ),
        (
            "input output",
            CAUSAL,
            "instruction",
            {"instruction": "input", "response": "output"},
            "CAUSAL_LM",
        ),
        ("id messages", CAUSAL, "chat", {}, "CAUSAL_LM"),
        ("conversations source", CAUSAL, "chat", {"messages": "conversations"}, "CAUSAL_LM"),
        ("prompt completion", CAUSAL, "completion", {}, "CAUSAL_LM"),
        (
            "prompt completion",
            PAIRED,
            "seq2seq",
            {"source": "prompt", "target": "completion"},
            "SEQ_2_SEQ_LM",
        ),
        (
            "article highlights id",
            PAIRED,
            "seq2seq",
            {"source": "article", "target": "highlights"},
            "SEQ_2_SEQ_LM",
        ),
        ("url text", CAUSAL, "text", {}, "CAUSAL_LM"),
        ("text label", CAUSAL, "classification", {}, "SEQ_CLS"),
        ("sentence label idx", ENCODER, "classification", {"text": "sentence"}, "SEQ_CLS"),
        (
            "id tokens ner_tags",
            ENCODER,
            "token_classification",
            {"tags": "ner_tags"},
            "TOKEN_CLS",
        ),
    ],
)
def test_it_is_recognised(
    text: str, tasks: tuple[str, ...], format_: str, fields: dict[str, str], task: str
) -> None:
    assert recognise(columns(text), "d.jsonl", tasks) == Recognised(format_, fields, task)


def test_a_task_decides_where_columns_would_do_for_several() -> None:
    found = columns("question answer text label")
    assert recognise(found, "d", CAUSAL).format == "instruction"
    assert recognise(found, "d", ("SEQ_CLS",)) == Recognised("classification", {}, "SEQ_CLS")
    assert recognise(columns("text label"), "d", ("CAUSAL_LM",)).format == "text"


def test_text_is_no_list_and_a_list_no_text() -> None:
    with pytest.raises(SpaceError, match="chat needs messages \\(lists\\)"):
        recognise({"messages": False}, "d.csv", CAUSAL)
    with pytest.raises(SpaceError, match="its columns are text"):
        recognise({"text": True}, "d.jsonl", CAUSAL)
    # Rows of several kinds are looked at one by one when they are read.
    assert recognise({"messages": None}, "d.jsonl", CAUSAL).format == "chat"


@pytest.mark.parametrize("tasks", [CAUSAL, ENCODER])
def test_columns_of_no_format_are_named(tasks: tuple[str, ...]) -> None:
    with pytest.raises(SpaceError, match="its columns are x, y") as caught:
        recognise(columns("x y"), "d.csv", tasks)
    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == ("data.train", "d.csv")
    assert "classification needs text and label" in fault.rule
    assert ("instruction needs" in fault.rule) == (tasks is CAUSAL)


def test_every_format_of_a_space_is_known_by_its_own_roles() -> None:
    assert set(_NAMES) == set(FORMATS)
    for name, form in FORMATS.items():
        own = {role: role in form.lists for role in form.roles}
        assert recognise(own, "d", form.tasks[:1]) == Recognised(name, {}, form.tasks[0])
