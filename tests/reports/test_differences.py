"""From where on a difference is put into words."""

from __future__ import annotations

import pytest
from tune_lora.reports import CardScores
from tune_lora.reports.differences import large_differences, not_what_was_ranked, rescored


@pytest.mark.parametrize("off", [0.0, 0.0099, -0.0099])
def test_an_adapter_that_is_what_was_ranked(off: float) -> None:
    assert not_what_was_ranked(CardScores(0.5, reloaded=0.5 + off)) is None


@pytest.mark.parametrize(("off", "shown"), [(0.0101, "+0.0101"), (-0.2, "-0.2000")])
def test_an_adapter_that_is_not(off: float, shown: str) -> None:
    said = not_what_was_ranked(CardScores(0.5, reloaded=0.5 + off))
    assert said is not None
    assert f"scores {0.5 + off:.4f}, not 0.5000 ({shown} nats)" in said
    assert said.endswith("this is not what the search ranked.")


def test_nothing_measured_nothing_said() -> None:
    assert not_what_was_ranked(CardScores(0.5)) is None
    assert large_differences(CardScores(0.5), "nf4") == []
    assert rescored(CardScores(0.5)) == {}


def test_every_form_beyond_the_bound() -> None:
    scores = CardScores(1.0, reloaded=2.0, merged=1.0499, nf4=1.2, gguf=0.94)
    worse, better = large_differences(scores, "none")
    assert worse.startswith("merged-nf4: 0.2000 nats worse than in the search. The merged weights")
    # Trained on full-precision weights, it has none of QLoRA's reasons.
    assert better == "gguf: 0.0600 nats better than in the search."
    names = [words.partition(":")[0] for words in large_differences(scores, "nf4")]
    assert names == ["merged-nf4", "gguf"]


def test_names_are_those_of_the_command_line() -> None:
    scores = CardScores(1.0, reloaded=1.1, merged=1.2, nf4=1.3, gguf=1.4)
    expected = {"loaded again": 1.1, "merged": 1.2, "merged-nf4": 1.3, "gguf": 1.4}
    assert rescored(scores) == expected
