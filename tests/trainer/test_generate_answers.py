"""An exported adapter answers as transformers' own generate does with the rendered prompt."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from peft import AutoPeftModelForCausalLM
from tiny_trials import greedy
from tune_lora.trainer.generate import Decoding, load_answerer

Export = Callable[..., Path]

ROW = {"instruction": "Turn this into JSON: 7 apples"}
PROMPT = "### Instruction:\nTurn this into JSON: 7 apples\n\n### Response:\n"
SHORT = Decoding(max_new_tokens=6)


def test_greedy_answer_is_the_likeliest_tokens_after_the_template(exported: Export) -> None:
    folder = exported()
    model = AutoPeftModelForCausalLM.from_pretrained(str(folder)).eval()
    expected = greedy(model, folder, PROMPT)
    assert expected
    answerer = load_answerer(folder)
    assert [answerer.answer(ROW, SHORT) for _ in range(2)] == [expected] * 2


def test_raw_takes_the_prompt_as_it_is(exported: Export) -> None:
    folder = exported()
    model = AutoPeftModelForCausalLM.from_pretrained(str(folder)).eval()
    answerer = load_answerer(folder)
    bare = answerer.answer(ROW, SHORT, raw=True)
    assert bare == greedy(model, folder, ROW["instruction"])
    assert bare != answerer.answer(ROW, SHORT)
    assert answerer.answer({"instruction": PROMPT}, SHORT, raw=True) == answerer.answer(ROW, SHORT)


def test_template_of_the_recipe_is_used_with_its_input(exported: Export) -> None:
    folder = exported(template="Q: {instruction}\nWith: {input}\nA: ")
    answerer = load_answerer(folder)
    asked = answerer.answer({"instruction": "Count", "input": "pears"}, SHORT)
    rendered = {"instruction": "Q: Count\nWith: pears\nA: "}
    assert asked == answerer.answer(rendered, SHORT, raw=True)


def test_it_learned_to_answer_and_to_stop(exported: Export) -> None:
    # The output head too: an adapter alone leaves a random model unsure of every token.
    folder = exported(steps=100, lora={"modules_to_save": ["lm_head"]})
    answer = load_answerer(folder).answer(ROW, Decoding(max_new_tokens=60))
    assert re.fullmatch(r'\{"apples":\d+\}', answer)


def test_draws_depend_on_the_seed_alone(exported: Export) -> None:
    answerer = load_answerer(exported())

    def draw(seed: int, temperature: float = 1.0, top_p: float = 1.0) -> str:
        decoding = Decoding(12, temperature=temperature, top_p=top_p, seed=seed)
        return answerer.answer(ROW, decoding)

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(4)}) > 1
    # What holds almost no probability leaves only the likeliest token.
    assert {draw(seed, top_p=1e-6) for seed in range(3)} == {answerer.answer(ROW, Decoding(12))}
