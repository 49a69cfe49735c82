"""Trials in a process that the kernel gives no more memory: fewer rows, or an honest end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import tiny_tokenizer
from tune_lora.trainer.result import TrialResult, TrialState

HERE = Path(__file__).parent
PLENTY, TIGHT, LATE, NOTHING = LIMITS = ("0", "400", "late-400", "40")
"""In MiB. One row of 128 tokens has 31 MiB of logits, and a step holds them several times over."""
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""What one trial has freed goes back: in the heap the next would have it beyond its limit."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrialResult]:
    """The same trial with plenty of memory, little, little from some point on, next to none."""
    out = tmp_path_factory.mktemp("starved")
    command = [sys.executable, str(HERE / "starved.py"), wide_model(out), long_rows(out), str(out)]
    done = subprocess.run(
        [*command, *LIMITS],
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    texts = {limit: (out / f"{limit}.json").read_text("utf-8") for limit in LIMITS}
    return {limit: TrialResult.from_dict(json.loads(text)) for limit, text in texts.items()}


def wide_model(out: Path) -> str:
    """A Llama of a few dimensions and very many tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=2**16,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(str(out / "wide"))
    tiny_tokenizer().save_pretrained(str(out / "wide"))
    return str(out / "wide")


def long_rows(out: Path) -> str:
    """Rows that fill the length limit, so that each costs the same."""
    rows = [{"instruction": f"{i}", "response": "x y " * 80} for i in range(20)]
    path = out / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("limit", [TIGHT, LATE])
def test_it_goes_on_with_fewer_rows_at_the_same_losses(
    results: dict[str, TrialResult], limit: str
) -> None:
    plenty, tight = results[PLENTY], results[limit]
    assert (plenty.state, plenty.micro_batch) == (TrialState.COMPLETE, 8), plenty.error
    assert tight.state is TrialState.COMPLETE, tight.error
    assert tight.micro_batch in (1, 2, 4)
    assert [e.step for e in tight.evaluations] == [1, 3]
    assert [e.eval_loss for e in tight.evaluations] == pytest.approx(
        [e.eval_loss for e in plenty.evaluations], rel=1e-5
    )
    assert tight.tokens == plenty.tokens


def test_too_little_for_a_single_row_is_out_of_memory(results: dict[str, TrialResult]) -> None:
    nothing = results[NOTHING]
    assert nothing.state is TrialState.OUT_OF_MEMORY
    assert nothing.micro_batch == 1
    assert (nothing.score, nothing.evaluations) == (None, ())
    assert nothing.error is not None
    assert "memory" in nothing.error.lower()
