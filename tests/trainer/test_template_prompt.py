"""How a row becomes a prompt."""

from __future__ import annotations

import pytest
from tune_lora.trainer.template import render_prompt


@pytest.mark.parametrize(
    ("template", "row", "prompt"),
    [
        (None, {"instruction": "Add."}, "### Instruction:\nAdd.\n\n### Response:\n"),
        (None, {"instruction": "Add.", "input": ""}, "### Instruction:\nAdd.\n\n### Response:\n"),
        (
            None,
            {"instruction": "Add.", "input": "1 2"},
            "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n",
        ),
        ("Q: {instruction} A:", {"instruction": "Add."}, "Q: Add. A:"),
        ("Q: {instruction} A:", {"instruction": "Add.", "input": "1 2"}, "Q: Add.\n\n1 2 A:"),
        ("{input}|{instruction}|{input}", {"instruction": "a", "input": "b"}, "b|a|b"),
        ("{input}|{instruction}|", {"instruction": "a"}, "|a|"),
    ],
)
def test_prompts(template: str | None, row: dict[str, str], prompt: str) -> None:
    assert render_prompt(template, row) == prompt


def test_braces_of_a_row_are_text() -> None:
    row = {"instruction": "Fill {input} and {instruction} and {0}", "input": '{"a": {}}'}
    prompt = render_prompt("{instruction}\n{input}\n", row)
    assert prompt == 'Fill {input} and {instruction} and {0}\n{"a": {}}\n'


def test_braces_of_a_template_are_text() -> None:
    assert render_prompt('{"q": "{instruction}"} {x}', {"instruction": "a"}) == '{"q": "a"} {x}'
