"""``init``: a space that is valid, fits and runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tune_lora.search import starter
from tune_lora.search.plan_facts import Capacity
from tune_lora.spaces import load_space

Tool = Callable[..., Any]
Tiny = Callable[..., Path]


def written(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_what_it_writes_is_valid_and_runs(
    tool: Tool, tiny: Tiny, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = tool("init", "--model", tiny(), "--data", pairs)
    assert (code, err) == (0, "")
    assert "40 rows of format instruction" in out
    assert tool("validate", "space.yaml").code == 0
    code, out, _ = tool(
        "search",
        "space.yaml",
        "train.max_steps=2",
        "search.trials=2",
        "search.scheduler=none",
        "model.quantization=none",
        "--local",
        "--run",
        tmp_path / "run",
    )
    assert code == 0
    assert "2 trials: 2 COMPLETE" in out


def test_sizes_are_those_of_the_data(tool: Tool, tiny: Tiny, tmp_path: Path) -> None:
    # About a byte a token.
    rows: list[dict[str, object]] = [
        {"prompt": f"{index:02}" * 30, "completion": "y" * (4000 if index % 2 else 20)}
        for index in range(100)
    ]
    out = tmp_path / "mine.yaml"
    data = written(tmp_path / "d.jsonl", rows)
    assert tool("init", "--model", tiny(), "--data", data, "--out", out).code == 0
    space = load_space(out)
    assert (space.data.format, space.data.fields) == ("completion", {})
    assert space.data.max_length == 2048, "the model's own limit, where rows are longer"
    batch = space.train["per_device_train_batch_size"]
    accumulation = space.train["gradient_accumulation_steps"]
    assert isinstance(batch, int)
    assert isinstance(accumulation, int)
    assert batch * accumulation == 8
    # Three passes over 80 rows, of 8 a step.
    assert space.train.max_steps == 30
    assert "dropout: {choice" in out.read_text(encoding="utf-8")


def test_classes_make_a_classifier(tool: Tool, tiny: Tiny, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"sentence": f"text {index}", "label": "ab"[index % 2]} for index in range(60)
    ]
    out = tmp_path / "mine.yaml"
    data = written(tmp_path / "d.jsonl", rows)
    assert tool("init", "--model", tiny("bert"), "--data", data, "--out", out).code == 0
    space = load_space(out)
    assert (space.model.task, space.model.quantization) == ("SEQ_CLS", "none")
    assert (space.data.format, space.data.fields) == ("classification", {"text": "sentence"})


def test_an_encoder_and_decoder_is_told_from_its_config(
    tool: Tool, tiny: Tiny, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine.yaml"
    assert tool("init", "--model", tiny("t5"), "--data", pairs, "--out", out).code == 0
    assert (load_space(out).model.task, load_space(out).model.dtype) == ("SEQ_2_SEQ_LM", "fp32")


CHAT = """{% for m in messages %}<{{ m.role }}>
{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>
{% endif %}"""


@pytest.mark.parametrize(
    ("row", "architecture", "format_", "task"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, "llama", "chat", "CAUSAL_LM"),
        ({"text": "all of it"}, "llama", "text", "CAUSAL_LM"),
        ({"article": "long", "summary": "short"}, "t5", "seq2seq", "SEQ_2_SEQ_LM"),
        (
            {"words": ["a", "b"], "ner_tags": [0, 1, 0]},
            "tagger",
            "token_classification",
            "TOKEN_CLS",
        ),
    ],
)
def test_each_format_is_told_from_its_columns(
    row: dict[str, Any],
    architecture: str,
    format_: str,
    task: str,
    tool: Tool,
    tiny: Tiny,
    tmp_path: Path,
) -> None:
    model = shutil.copytree(tiny(architecture), tmp_path / "model")
    (model / "chat_template.jinja").write_text(CHAT, encoding="utf-8")

    def numbered(key: str, value: Any, number: int) -> Any:
        if key == "words":
            return [*value, str(number)]
        return f"{value} {number}" if isinstance(value, str) else value

    rows = [{key: numbered(key, value, n) for key, value in row.items()} for n in range(40)]
    for n, one in enumerate(rows):
        if "messages" in one:
            one["messages"] = [*one["messages"], {"role": "assistant", "content": f"answer {n}"}]
    out = tmp_path / "mine.yaml"
    data = written(tmp_path / "d.jsonl", rows)
    code, said, err = tool("init", "--model", model, "--data", data, "--out", out)
    assert (code, err) == (0, "")
    assert f"40 rows of format {format_}" in said
    space = load_space(out)
    assert (space.data.format, space.model.task) == (format_, task)
    assert ("f1" in space.search.metrics) == (task == "TOKEN_CLS")
    assert (
        tool("plan", out, "lora.r=8", "lora.target_modules=qv", "search.baseline=false").code == 0
    )


def test_an_encoder_is_no_model_of_language(
    tool: Tool, tiny: Tiny, pairs: Path, tmp_path: Path
) -> None:
    code, _, err = tool(
        "init", "--model", tiny("roberta"), "--data", pairs, "--out", tmp_path / "x"
    )
    assert code == 2
    assert "for SEQ_CLS or TOKEN_CLS, " in err


def test_little_memory_makes_small_passes(
    tool: Tool, tiny: Tiny, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wanted(size: int) -> tuple[object, object]:
        monkeypatch.setattr(starter, "capacity", lambda _: Capacity(size, "a box", gpu=False))
        out = tmp_path / f"{size}.yaml"
        assert tool("init", "--model", tiny(), "--data", pairs, "--out", out).code == 0
        train = load_space(out).train
        return train["gradient_checkpointing"], train["per_device_train_batch_size"]

    assert wanted(2**40) == (False, 4)
    out = tmp_path / "none.yaml"
    monkeypatch.setattr(starter, "capacity", lambda _: Capacity(2**20, "a box", gpu=False))
    code, _, err = tool("init", "--model", tiny(), "--data", pairs, "--out", out)
    assert code == 1
    assert "not even one row" in err
    assert not out.exists()


@pytest.mark.parametrize(("cores", "code"), [(1, 0), (2, 1)])
def test_two_workers_share_the_memory(
    cores: int,
    code: int,
    tool: Tool,
    tiny: Tiny,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker takes more than half of 1 GiB by its libraries alone."""
    monkeypatch.setattr(starter, "capacity", lambda _: Capacity(2**30, "a box", gpu=False))
    monkeypatch.setattr(starter, "visible_cores", lambda: cores)
    said = tool("init", "--model", tiny(), "--data", pairs, "--out", tmp_path / "space.yaml")
    assert said.code == code


def test_it_never_overwrites(tool: Tool, tiny: Tiny, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "space.yaml"
    out.write_text("mine", encoding="utf-8")
    code, _, err = tool("init", "--model", tiny(), "--data", pairs, "--out", out)
    assert code == 1
    assert "exists already" in err
    assert out.read_text(encoding="utf-8") == "mine"


def test_a_missing_file_is_named(tool: Tool, tiny: Tiny, tmp_path: Path) -> None:
    missing = tmp_path / "none.jsonl"
    code, _, err = tool("init", "--model", tiny(), "--data", missing, "--out", tmp_path / "s.yaml")
    assert code == 2
    assert "data.train" in err
    assert "no such file" in err
