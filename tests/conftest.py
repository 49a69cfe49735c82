"""What every room's tests share: no hub, and tiny models built once a session."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

# Before transformers is imported anywhere: no hub is asked for anything in tests.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray gives its workers the lowest priority: beside other work they would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny("gpt2")``: the folder of a tiny random model with its tokenizer, made once."""
    made: dict[str, Path] = {}

    def folder(architecture: str = "llama") -> Path:
        from tiny_models import save_tiny

        if architecture not in made:
            made[architecture] = save_tiny(
                tmp_path_factory.mktemp("model") / architecture, architecture
            )
        return made[architecture]

    return folder


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A jsonl file of 40 instruction pairs that a tiny model learns in a few steps."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {"instruction": f"Turn this into JSON: {i} apples", "response": f'{{"apples":{i}}}'}
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def space_under(tiny: Callable[..., Path], pairs: Path) -> Callable[..., Path]:
    """Write a runnable space over a tiny Llama; blocks given replace or extend its own."""

    def write(folder: Path, architecture: str = "llama", **blocks: dict[str, object]) -> Path:
        import yaml
        from tiny_models import TASKS

        body: dict[str, dict[str, object]] = {
            "model": {
                "name": str(tiny(architecture)),
                "task": TASKS[architecture],
                "quantization": "none",
                "dtype": "fp32",
            },
            "data": {"train": str(pairs), "max_length": 128},
            "lora": {"r": {"choice": [2, 4]}, "target_modules": "qv"},
            "train": {
                "learning_rate": {"log_uniform": [1e-3, 1e-1]},
                "max_steps": 4,
                "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 1,
                "gradient_checkpointing": False,
                "optim": "adamw_torch",
            },
            "search": {
                "trials": 3,
                "scheduler": {"asha": {"grace_steps": 1, "reduction_factor": 2}},
            },
        }
        for name, block in blocks.items():
            body[name] = {**body.get(name, {}), **block}
        path = folder / "tiny.yaml"
        path.write_text(yaml.safe_dump(body), encoding="utf-8")
        return path

    return write


@pytest.fixture
def space_file(tmp_path: Path, space_under: Callable[..., Path]) -> Callable[..., Path]:
    """``space_under`` the test's own folder."""
    return partial(space_under, tmp_path)
