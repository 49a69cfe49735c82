"""Chats and tagged words, from the space file to the exported adapter's answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from peft import AutoPeftModelForCausalLM, AutoPeftModelForTokenClassification
from tiny_models import END, save_tiny
from transformers import AutoTokenizer
from tune_lora.trainer.folder import RunFolder

Tool = Callable[..., Any]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}" + END + "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def space(folder: Path, model: Path, task: str, form: str, rows: list[dict[str, Any]]) -> Path:
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    body = {
        "model": {"name": str(model), "task": task, "quantization": "none", "dtype": "fp32"},
        "data": {"train": str(folder / "rows.jsonl"), "format": form, "max_length": 64},
        "lora": {"r": {"choice": [2, 4]}, "target_modules": "all-linear"},
        "train": {
            "learning_rate": {"log_uniform": [1e-2, 1e-1]},
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "gradient_checkpointing": False,
            "optim": "adamw_torch",
        },
        "search": {"trials": 2, "scheduler": "none"},
    }
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    return path


def exported(tool: Tool, path: Path, tmp_path: Path) -> tuple[Path, str]:
    """The folder of the best adapter, and what the search printed."""
    searched = tool("search", path, "--local", "--run", tmp_path / "run")
    assert searched.code == 0, searched.err
    out = tmp_path / "best"
    answer = tool("export", tmp_path / "run", "--to", out)
    assert answer.code == 0, answer.err
    assert "difference +0.00000" in answer.out
    return out, searched.out


def test_chats(tool: Tool, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "llama")
    (model / "chat_template.jinja").write_text(TEMPLATE)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"say {n}"},
                {"role": "assistant", "content": str(n)},
            ]
        }
        for n in range(30)
    ]
    path = space(tmp_path, model, "CAUSAL_LM", "chat", rows)
    out, said = exported(tool, path, tmp_path)
    stats = RunFolder(tmp_path / "run").read_about()["data"]["stats"]["train"]
    assert f"tokens: median {stats['median']}, 95% have at most {stats['p95']}" in said
    # Of a row, the number and the end token are supervised.
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    whole = [tokenizer.apply_chat_template(row["messages"])["input_ids"] for row in rows]
    assert stats["longest"] == max(map(len, whole))

    answer = tool("generate", out, "say 7", "--max-new-tokens", 4)
    assert answer.code == 0, answer.err
    peft = AutoPeftModelForCausalLM.from_pretrained(str(out)).eval()
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "say 7"}], add_generation_prompt=True, return_tensors="pt"
    )
    made = peft.generate(**asked, max_new_tokens=4, do_sample=False)[0]
    wanted = tokenizer.decode(made[asked["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer.out.rstrip("\n") == wanted.rstrip("\n")
    assert "<|assistant|>" in (out / "README.md").read_text(encoding="utf-8")


def test_tagged_words(tool: Tool, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "bert", "tagger")
    rows = [{"tokens": ["Turn", f"{n}", "JSON"], "tags": ["O", "NUM", "O"]} for n in range(30)]
    path = space(tmp_path, model, "TOKEN_CLS", "token_classification", rows)
    out, said = exported(tool, path, tmp_path)
    assert "24 train, 3 validation, 3 test rows" in said
    answer = tool("generate", out, "Turn 12 JSON")
    assert answer.code == 0, answer.err
    peft = AutoPeftModelForTokenClassification.from_pretrained(str(out), num_labels=2).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    words = ["Turn", "12", "JSON"]
    inputs = tokenizer([words], is_split_into_words=True, return_tensors="pt")
    tags = peft(**inputs).logits[0].argmax(-1).tolist()
    names = ["NUM", "O"]
    wanted = [f"{w}\t{names[tags[inputs.word_ids(0).index(n)]]}" for n, w in enumerate(words)]
    assert [line.split() for line in answer.out.splitlines()] == [line.split() for line in wanted]
    assert "AutoModelForTokenClassification" in (out / "README.md").read_text(encoding="utf-8")


def test_a_model_without_a_chat_template(tool: Tool, tmp_path: Path) -> None:
    path = space(tmp_path, save_tiny(tmp_path / "llama"), "CAUSAL_LM", "chat", [])
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    answer = tool("search", path, "--local", "--run", tmp_path / "run")
    assert answer.code != 0
    assert "chat_template.jinja" in answer.err
    assert not (tmp_path / "run").exists()
