"""Every format of data: what its rows become, and from which sources it can be read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from pyarrow import parquet
from tiny_models import END, tiny_tokenizer
from transformers import PreTrainedTokenizerFast
from tune_lora.spaces import DataBlock, SpaceError
from tune_lora.spaces.formats import FORMATS
from tune_lora.trainer.data import TokenizedData, tokenize

ROWS: Mapping[str, list[dict[str, Any]]] = {
    "instruction": [{"instruction": f"say {n}", "response": str(n)} for n in range(12)],
    "chat": [
        {
            "messages": [
                {"role": "user", "content": f"say {n}"},
                {"role": "assistant", "content": str(n)},
            ]
        }
        for n in range(12)
    ],
    "completion": [{"prompt": f"{n} and ", "completion": f"{n + 1}"} for n in range(12)],
    "text": [{"text": f"once {n}"} for n in range(12)],
    "seq2seq": [{"source": f"say {n}", "target": str(n)} for n in range(12)],
    "classification": [{"text": f"say {n}", "label": "ab"[n % 2]} for n in range(12)],
    "token_classification": [
        {"tokens": ["Turn", f"thing{n}"], "tags": ["O", "B-X"]} for n in range(12)
    ],
}


def tokenizer() -> PreTrainedTokenizerFast:
    made = tiny_tokenizer(pad="<pad>")
    made.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}" + END + "{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return made


def block(source: object, form: str, **more: Any) -> DataBlock:
    return DataBlock.model_validate({"train": str(source), "format": form, **more})


def made(source: object, form: str, **more: Any) -> TokenizedData:
    return tokenize(block(source, form, **more), FORMATS[form].tasks[0], tokenizer())


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        text = io.StringIO()
        table = csv.DictWriter(text, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
        path.write_text(text.getvalue(), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed distribution, ``some-rows``."""
    about = tmp_path / "site" / "some_rows-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: some-rows\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


@pytest.mark.parametrize("form", FORMATS)
def test_every_source_gives_the_same_rows(tmp_path: Path, package: Path, form: str) -> None:
    rows = ROWS[form]
    jsonl = made(write(tmp_path / "d.jsonl", rows), form)
    assert [jsonl.stats[split]["rows"] for split in ("train", "validation", "test")] == [10, 1, 1]
    write(package / "rows" / "d.jsonl", rows)
    write(tmp_path / "folder" / "train.jsonl", rows)
    sources = [
        write(tmp_path / "d.parquet", rows),
        "package:some-rows/rows/d.jsonl",
        tmp_path / "folder",
    ]
    if not FORMATS[form].lists:
        sources.append(write(tmp_path / "d.csv", rows))
    assert [made(source, form).fingerprint for source in sources] == [jsonl.fingerprint] * len(
        sources
    )


@pytest.mark.parametrize("form", FORMATS)
def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    import datasets

    local = made(write(tmp_path / "d.jsonl", ROWS[form]), form).fingerprint
    found = {"train": Dataset.from_list(ROWS[form])}
    asked: list[str] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name: asked.append(name) or found)
    assert made("someone/rows", form).fingerprint == local
    assert asked == ["someone/rows"]


@pytest.mark.parametrize("form", ["chat", "token_classification"])
def test_lists_are_not_for_csv(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / "d.csv", ROWS[form])
    with pytest.raises(SpaceError) as caught:
        made(path, form)
    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == ("data.train", str(path))
    assert "must hold lists" in fault.rule
    assert "jsonl or parquet" in fault.rule


def test_text_is_not_for_lists(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"text": ["a", "b"]}] * 4)
    with pytest.raises(SpaceError, match="must hold text for text"):
        made(path, "text")


def only(source: Path, form: str, **more: Any) -> dict[str, list[int]]:
    """The one training row of a file of equal ones."""
    data = made(source, form, validation=0.25, test=0, duplicates="allow", **more)
    row: dict[str, list[int]] = data.train[0]
    return row


def test_a_completion_is_taken_as_it_stands(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"prompt": " 1\n", "completion": " two "}] * 4)
    row, ids = only(path, "completion"), tokenizer()
    ahead, after = ids(" 1\n")["input_ids"], ids(" two ")["input_ids"]
    assert row["input_ids"] == [*ahead, *after, ids.eos_token_id]
    assert row["labels"] == [-100] * len(ahead) + [*after, ids.eos_token_id]


def test_all_of_a_text_is_supervised(tmp_path: Path) -> None:
    row = only(write(tmp_path / "d.jsonl", [{"text": "once upon"}] * 4), "text")
    ids = [*tokenizer()("once upon")["input_ids"], tokenizer().eos_token_id]
    assert row["input_ids"] == ids
    assert row["labels"] == [-100, *ids[1:]]


def test_source_and_target(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"de": "eins", "en": "one"}] * 4)
    row = only(path, "seq2seq", fields={"source": "de", "target": "en"})
    assert row["input_ids"] == tokenizer()("eins")["input_ids"]
    assert row["labels"] == tokenizer()("one")["input_ids"]


WORDS = ["Turn", "thisthis", "JSON", "x"]
TAGS = ["B-V", "O", "B-N", "O"]


def test_a_words_first_token_has_its_tag(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"tokens": WORDS, "tags": TAGS}] * 4)
    row = only(path, "token_classification")
    parts = [tokenizer()(word)["input_ids"] for word in WORDS]
    assert max(map(len, parts)) > 1
    assert row["input_ids"] == [token for part in parts for token in part]
    number = {"B-N": 0, "B-V": 1, "O": 2}
    wanted = [[number[t], *[-100] * (len(p) - 1)] for t, p in zip(TAGS, parts, strict=True)]
    assert row["labels"] == [label for part in wanted for label in part]


def test_numbers_are_tags_too_in_their_order(tmp_path: Path) -> None:
    rows = [{"tokens": [f"w{n}", "x"], "tags": [9 + n % 3, 2]} for n in range(12)]
    data = made(write(tmp_path / "d.jsonl", rows), "token_classification")
    assert data.labels == ("2", "9", "10", "11")


@pytest.mark.parametrize("form", ["classification", "token_classification"])
def test_names_behind_numbers_are_the_classes(tmp_path: Path, form: str) -> None:
    names = ClassLabel(names=["no", "maybe", "yes"])
    if form == "classification":
        rows = [{"text": f"say {n}", "label": 2 * (n % 2)} for n in range(12)]
        features = Features({"text": Value("string"), "label": names})
    else:
        rows = [{"tokens": [f"w{n}"], "tags": [2 * (n % 2)]} for n in range(12)]
        features = Features({"tokens": List(Value("string")), "tags": List(names)})
    Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "d.parquet"))
    data = made(tmp_path / "d.parquet", form)
    assert data.labels == ("no", "maybe", "yes")
    flat = [row["labels"] if form == "classification" else row["labels"][0] for row in data.train]
    assert set(flat) == {0, 2}


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "not a tag for each token"),
        ({"tokens": [], "tags": []}, "no tokens"),
        ({"tokens": ["a"], "tags": [""]}, "empty tag"),
        ({"tokens": None, "tags": ["O"]}, "no list of strings"),
        ({"tokens": ["a"], "tags": None}, "no list of strings or whole numbers"),
    ],
)
def test_tags_that_do_not_fit(tmp_path: Path, bad: dict[str, Any], rule: str) -> None:
    rows = [*ROWS["token_classification"], bad]
    path = write(tmp_path / "d.jsonl", rows)
    with pytest.raises(SpaceError) as caught:
        made(path, "token_classification")
    assert any(rule in fault.rule for fault in caught.value.faults)
    assert f"line 13 of {path}" in str(caught.value)


def test_a_tag_that_training_lacks_is_refused(tmp_path: Path) -> None:
    own = write(tmp_path / "v.jsonl", [{"tokens": ["a"], "tags": ["B-Z"]}])
    path = write(tmp_path / "d.jsonl", ROWS["token_classification"])
    with pytest.raises(SpaceError, match="no training row has this tag; they have B-X, O"):
        made(path, "token_classification", validation=str(own))


def test_every_fault_of_a_file_at_once(tmp_path: Path) -> None:
    bad = [{"prompt": "", "completion": "x"}, {"prompt": "x", "completion": " "}]
    path = write(tmp_path / "d.jsonl", [*ROWS["completion"], *bad, bad[1]])
    with pytest.raises(SpaceError) as caught:
        made(path, "completion")
    first, second = (fault.rule for fault in caught.value.faults)
    assert f"1 rows have an empty prompt, the first is line 13 of {path}" in first
    assert f"2 rows have an empty completion, the first is line 14 of {path}" in second
