"""Who is compared, and how each is started and read."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from configurations import CONFIGURATIONS, MODEL, Workload
from measure import measure

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Contestant:
    """One row of the table.

    Attributes:
        name: its key in the results.
        label: what the table calls it.
        script: in this folder; None for tune-lora's own command line.
        options: of the script.
        stopping: whether poor trials end early.
        threads: processes and threads that train, in words.
    """

    name: str
    label: str
    script: str | None
    options: tuple[str, ...]
    stopping: bool
    threads: str


def _peers(stopping: bool) -> list[Contestant]:
    tail, options = ("-stopping", ("--stopping",)) if stopping else ("", ())
    trainer, ray = "Trainer.hyperparameter_search", "Ray Tune, OptunaSearch"
    padded = ("--padded", *options)
    all_cores, one = "1 process, a thread a core", "a process a core, 1 thread each"
    return [
        Contestant(
            f"trainer-padded{tail}",
            f"{trainer}, padded to max_length",
            "peer_trainer.py",
            padded,
            stopping,
            all_cores,
        ),
        Contestant(
            f"trainer{tail}",
            f"{trainer}, dynamic padding",
            "peer_trainer.py",
            options,
            stopping,
            all_cores,
        ),
        Contestant(
            f"ray-padded{tail}",
            f"{ray}, padded to max_length",
            "peer_ray.py",
            padded,
            stopping,
            one,
        ),
        Contestant(f"ray{tail}", f"{ray}, dynamic padding", "peer_ray.py", options, stopping, one),
        Contestant(f"tune-lora{tail}", "tune-lora", None, (), stopping, one),
    ]


FLOOR = "floor"
CONTESTANTS = (
    *_peers(stopping=False),
    Contestant(
        FLOOR,
        "floor: bare PyTorch loop, all loaded",
        "floor.py",
        (),
        False,
        "a process a core, 1 thread each",
    ),
    Contestant(
        f"{FLOOR}-supervised",
        "floor, logits at supervised positions only",
        "floor.py",
        ("--supervised",),
        False,
        "a process a core, 1 thread each",
    ),
    *_peers(stopping=True),
)


def space(work: Workload, *, stopping: bool) -> dict[str, Any]:
    """A space that holds exactly the configurations: each learning rate brings the rest with it."""
    options = []
    for number in work.numbers:
        values = asdict(CONFIGURATIONS[number])
        rate = values.pop("learning_rate")
        options.append({"value": rate, "with": {f"lora.{k}": v for k, v in values.items()}})
    asha = {"grace_steps": work.every, "reduction_factor": work.reduction_factor}
    return {
        "model": {
            "name": MODEL,
            "quantization": "nf4",
            "dtype": "bf16" if work.bf16 else "fp32",
        },
        "data": {
            "train": work.train,
            "validation": work.validation,
            "test": 0,
            "max_length": work.max_length,
        },
        "lora": {"lora_dropout": 0.0},
        "train": {
            "learning_rate": {"choice": options},
            "max_steps": work.steps,
            "eval_steps": work.every,
            "per_device_train_batch_size": work.batch,
            "per_device_eval_batch_size": work.eval_batch,
            "gradient_accumulation_steps": 1,
            "gradient_checkpointing": False,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0,
            "optim": "adamw_torch",
            "seed": work.seed,
        },
        "search": {
            "trials": work.configurations,
            "sampler": "grid",
            "scheduler": {"asha": asha} if stopping else "none",
            "baseline": False,
            "priors": False,
            "seed": work.seed,
        },
    }


def run(contestant: Contestant, work: Workload, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a contestant once, from cold; what it took and what it trained, JSON-ready."""
    folder = Path(work.folder)
    workload = folder / "workload.json"
    work.save(workload)
    if contestant.script is None:
        path = folder / "space.yaml"
        path.write_text(yaml.safe_dump(space(work, stopping=contestant.stopping)), "utf-8")
        command = ["-m", "tune_lora.cli", "search", str(path), "--run", str(folder / "run")]
    else:
        command = [str(HERE / contestant.script), str(workload), *contestant.options]
    took = asdict(measure([sys.executable, *command], environment, folder / "log.txt"))
    if contestant.name.startswith(FLOOR):
        took |= json.loads((folder / "floor.json").read_text("utf-8"))
    lines = _own_lines(folder / "run") if contestant.script is None else _read(work.losses)
    return {**took, **_summary(lines)}


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _own_lines(run_folder: Path) -> list[dict[str, Any]]:
    """The losses in tune-lora's run folder, in the peers' form."""
    rates = [configuration.learning_rate for configuration in CONFIGURATIONS]
    found = []
    for trial in sorted((run_folder / "trials").iterdir()):
        config = json.loads((trial / "result.json").read_text("utf-8"))["config"]
        number = rates.index(config["train"]["learning_rate"])
        found += [{"configuration": number, **row} for row in _read(trial / "metrics.jsonl")]
    return found


def _summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """By configuration: the steps trained, the last training loss, every validation loss."""
    configurations: dict[str, Any] = {}
    for line in sorted(lines, key=lambda line: (line["configuration"], line["step"])):
        entry = configurations.setdefault(str(line["configuration"]), {"eval": {}})
        entry["steps"] = line["step"]
        if "loss" in line:
            entry.setdefault("first_train_loss", line["loss"])
            entry["train_loss"] = line["loss"]
        for key, name in (("eval_loss", "eval"), ("eval_loss_of_rows", "eval_of_rows")):
            if key in line:
                entry.setdefault(name, {})[str(line["step"])] = line[key]
    best = {
        f"best_{name}": min(v for c in configurations.values() for v in c[name].values())
        for name in ("eval", "eval_of_rows")
        if all(name in c for c in configurations.values())
    }
    return {**best, "configurations": configurations}
