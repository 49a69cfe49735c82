"""What is printed of the data before a search."""

from typing import Any

import pytest
from tune_lora.spaces import DataBlock
from tune_lora.trainer.statistics import data_lines, share

TRAIN = {
    "rows": 200,
    "tokens": 10_000,
    "supervised": 4_000,
    "truncated": 1,
    "median": 48,
    "p95": 90,
    "longest": 128,
    "repeated": 0,
    "shared": 0,
}
OTHER = dict.fromkeys(TRAIN, 0) | {"rows": 7}


def lines(form: str = "instruction", **changed: Any) -> list[str]:
    stats = {"train": TRAIN | changed, "validation": OTHER, "test": OTHER}
    return data_lines(DataBlock.model_validate({"train": "d.jsonl", "format": form}), stats)


def test_rows_and_lengths() -> None:
    assert lines() == [
        "data:   d.jsonl: 200 train, 7 validation, 7 test rows; 40% of training tokens supervised",
        "tokens: median 48, 95% have at most 90, longest 128; below 1% are cut at max_length 512",
    ]


def test_copies_are_told_of() -> None:
    assert "; 25% are copies of other rows" in lines(repeated=50)[1]


def test_of_classes_no_token_is_supervised() -> None:
    assert lines("classification")[0].endswith("7 test rows")


@pytest.mark.parametrize(
    ("part", "said"), [(0, "none"), (1, "below 1%"), (2, "1%"), (100, "50%"), (200, "100%")]
)
def test_shares(part: int, said: str) -> None:
    assert share(part, 200) == said
