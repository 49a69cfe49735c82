"""Conversations: exactly the assistant's turns are supervised, or the row is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import END, tiny_tokenizer
from transformers import PreTrainedTokenizerFast
from tune_lora.spaces import DataBlock, SpaceError
from tune_lora.trainer.chat import chat_tokens, prompt_of
from tune_lora.trainer.data import tokenize
from tune_lora.trainer.shapes import RowError

TURN = "<|{{ m.role }}|>\n{{ m.content }}" + END + "\n"
ASK = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
PLAIN = "{% for m in messages %}" + TURN + "{% endfor %}" + ASK


def marked(inner: str, after: str = "") -> str:
    """A template that marks ``inner`` of the assistant's turns."""
    said = "{% generation %}" + inner + "{% endgeneration %}" + after
    return (
        "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>\n"
        + said
        + "\n{% else %}"
        + TURN
        + "{% endif %}{% endfor %}"
        + ASK
    )


MARKED = marked("{{ m.content }}" + END)
MARKED_BUT_THE_END = marked("{{ m.content }}", END)
FORGETS = (
    "{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if loop.last %}{{ m.content }}{% else %}{{ m.content.split('</think>')[-1] }}{% endif %}"
    + END
    + "\n{% endfor %}"
    + ASK
)
"""Renders a turn's thoughts only while it is the last one, as Qwen3's template does."""
MERGES = (
    "{% for m in messages %}{{ m.content }}{% if m.role != 'assistant' %}x {% endif %}{% endfor %}"
)
STRICT = "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}" + PLAIN

CHAT = [
    {"role": "system", "content": "Turn this into JSON."},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": '{"a":1}'},
    {"role": "user", "content": "two"},
    {"role": "assistant", "content": '{"a":2}'},
]


def tokenizer_of(template: str) -> PreTrainedTokenizerFast:
    made = tiny_tokenizer()
    made.chat_template = template
    return made


def said(template: str, messages: list[dict[str, Any]]) -> list[str]:
    """Text of each unbroken run of supervised tokens."""
    tokenizer = tokenizer_of(template)
    ids, mask = chat_tokens(tokenizer, messages)
    assert ids == tokenizer.apply_chat_template(messages)["input_ids"]
    runs: list[list[int]] = []
    for index, own in enumerate(mask):
        if own:
            runs = runs if index and mask[index - 1] else [*runs, []]
            runs[-1].append(ids[index])
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("template", [PLAIN, MARKED, MARKED_BUT_THE_END])
def test_the_assistants_turns_with_their_end_and_nothing_else(template: str) -> None:
    assert said(template, CHAT) == [f'{{"a":1}}{END}', f'{{"a":2}}{END}']


def test_as_transformers_masks_it() -> None:
    tokenizer = tokenizer_of(MARKED)
    wanted = tokenizer.apply_chat_template(
        CHAT, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = chat_tokens(tokenizer, CHAT)
    assert ids == wanted["input_ids"]
    assert [int(own) for own in mask] == wanted["assistant_masks"]


def test_what_is_supervised_comes_right_after_the_prompt_of_generation() -> None:
    tokenizer = tokenizer_of(PLAIN)
    ids, mask = chat_tokens(tokenizer, CHAT)
    for turn in (2, 4):
        prompt = prompt_of(tokenizer, CHAT[:turn])
        assert ids[: len(prompt)] == prompt
        assert not mask[len(prompt) - 1]
        assert mask[len(prompt)]


def test_text_of_the_user_that_looks_like_the_assistants() -> None:
    answer = f'{{"a":1}}{END}\n<|assistant|>\n{{"a":2}}'
    messages = [{"role": "user", "content": answer}, {"role": "assistant", "content": "no"}]
    assert said(PLAIN, messages) == [f"no{END}"]


def test_a_template_that_forgets_thoughts_is_refused_for_earlier_turns_only() -> None:
    thought = {"role": "assistant", "content": "hm</think>yes"}
    assert said(FORGETS, [CHAT[1], thought]) == [f"hm</think>yes{END}"]
    with pytest.raises(RowError) as caught:
        said(FORGETS, [CHAT[1], thought, CHAT[3], thought])
    assert "rendered otherwise" in caught.value.said


def test_a_token_over_the_border_is_refused() -> None:
    assert tiny_tokenizer().tokenize("x this") == ["x", "Ġthis"]
    messages = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "this"}]
    with pytest.raises(RowError) as caught:
        said(MERGES, messages)
    assert "over the border" in caught.value.said


def written(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps({"messages": r}) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def block(path: Path, bad: Any, at: int) -> DataBlock:
    rows: list[Any] = [
        [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": "ok"}]
        for n in range(20)
    ]
    rows.insert(at, bad)
    return DataBlock(train=written(path, rows), format="chat", test=0)


@pytest.mark.parametrize(
    ("template", "bad", "rule"),
    [
        (STRICT, CHAT, "user first"),
        (FORGETS, [*CHAT[1:3], CHAT[3], CHAT[4]], None),
        (
            FORGETS,
            [CHAT[1], {"role": "assistant", "content": "a</think>b"}, *CHAT[3:]],
            "otherwise",
        ),
        (PLAIN, [CHAT[1]], "no message of the assistant"),
        (PLAIN, [CHAT[1], {"role": "assistant", "content": "  "}], "no message of the assistant"),
        (PLAIN, [CHAT[1], {"role": "assistant", "content": None}], "without content"),
        (PLAIN, [{"from": "human", "value": "hi"}], "without role (it has from, value)"),
        (PLAIN, [{"role": "user", "content": [{"type": "image"}]}], "content is not text"),
        (PLAIN, [], "no message of the assistant"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    tmp_path: Path, template: str, bad: Any, rule: str | None
) -> None:
    path = tmp_path / "d.jsonl"
    if rule is None:
        tokenize(block(path, bad, 11), "CAUSAL_LM", tokenizer_of(template))
        return
    with pytest.raises(SpaceError) as caught:
        tokenize(block(path, bad, 11), "CAUSAL_LM", tokenizer_of(template))
    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == ("data.train", str(path))
    assert rule in fault.rule
    assert f"the first is line 12 of {path}" in fault.rule


def test_a_tokenizer_without_a_template(tmp_path: Path) -> None:
    with pytest.raises(SpaceError) as caught:
        tokenize(block(tmp_path / "d.jsonl", CHAT, 0), "CAUSAL_LM", tiny_tokenizer())
    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == ("data.format", "chat")
    assert "chat_template.jinja" in fault.rule
    assert "-Instruct" in fault.rule


def test_what_else_a_message_holds_reaches_the_template(tmp_path: Path) -> None:
    template = PLAIN.replace("{{ m.content }}", "{{ m.content }}{{ m.name or '' }}")
    rows = [
        [{"role": "user", "content": str(n), "name": "Ann"}, {"role": "assistant", "content": "ok"}]
        for n in range(4)
    ]
    path = written(tmp_path / "d.jsonl", rows)
    tokenizer = tokenizer_of(template)
    data = tokenize(DataBlock(train=path, format="chat", test=0), "CAUSAL_LM", tokenizer)
    for row in data.train:
        assert "Ann" in tokenizer.decode(row["input_ids"])
        kept = [label for label in row["labels"] if label != -100]
        assert tokenizer.decode(kept) == f"ok{END}"
