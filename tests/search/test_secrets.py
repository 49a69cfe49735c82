"""A whole search with secrets in its environment and on its command line: none is in its folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ray_searches import TinySearch
from rich.console import Console
from searches import searched
from tune_lora.search import driver
from tune_lora.spaces import Space
from tune_lora.trainer.errors import TrialError

PLANTED = {
    "WANDB_API_KEY": "b5" * 20,
    "HF_TOKEN": "hf_PlantedPlantedPlanted",
    "AWS_SECRET_ACCESS_KEY": "planted/secret/access/key",
    "MLFLOW_TRACKING_PASSWORD": "planted-password",
    "RAY_AUTH_TOKEN": "c0ffee" * 10,
}


def leaks(root: Path, *secrets: str) -> list[str]:
    """The files below a folder that hold one, in their content or their name."""
    found = []
    for path in sorted(root.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        held = [s for s in secrets if s.encode() in content or s in path.name]
        found += [f"{path.relative_to(root)}: {secret}" for secret in held]
    return found


@pytest.mark.slow
def test_search_under_ray_with_trackers_keeps_no_secret(
    tiny: Callable[..., Path], pairs: Path, tmp_path: Path
) -> None:
    tracking = {"wandb": {"mode": "offline"}, "mlflow": None, "tensorboard": None}
    block = {"trials": 2, "scheduler": "none", "baseline": False}
    wanted = TinySearch(tmp_path, tiny(), pairs, block, {"tracking": tracking})
    run = tmp_path / "run"
    command = [sys.executable, "-m", "tune_lora.cli", "search", str(wanted.write())]
    environment = {**os.environ, **PLANTED, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--run", str(run)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"ray", "wandb", "mlflow.db", "tensorboard", "report.html", "run.json"} <= {
        path.name for path in run.iterdir()
    }
    assert leaks(run, *PLANTED.values()) == []
    assert not [secret for secret in PLANTED.values() if secret in done.stdout + done.stderr]


def test_command_is_kept_without_its_secrets(
    space_of: Callable[..., Space], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", PLANTED["HF_TOKEN"])
    monkeypatch.setenv("SERVICE_PASSWORD", "planted-password")
    typed = ["search", "x", f"a={PLANTED['HF_TOKEN']}", "b=planted-password", "--key-secret", "c1"]
    monkeypatch.setattr("sys.argv", ["tune-lora", *typed])
    space = space_of("search.trials=1")
    run = driver.new_run(space, tmp_path / "run")
    searched(space, run)
    kept = "tune-lora search x a=*** b=*** --key-secret ***"
    assert run.read_about()["command"] == kept
    assert leaks(run.root, PLANTED["HF_TOKEN"], "planted-password") == []
    assert kept in run.report.read_text("utf-8")


def test_space_that_holds_a_secret_makes_no_run(
    space_of: Callable[..., Space], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_TOKEN", "planted-data-token")
    space = space_of("data.template='{instruction} planted-data-token'")
    with pytest.raises(TrialError, match=r"holds the value of \$DATA_TOKEN"):
        driver.new_run(space, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_models_own_code_is_announced(space_of: Callable[..., Space], tmp_path: Path) -> None:
    console = Console(record=True, width=200, file=(tmp_path / "said").open("w"))
    space = space_of("search.trials=1", "model.trust_remote_code=true")
    run = driver.new_run(space, tmp_path / "run")
    outcome = driver.run_search(space, run, console, local=True)
    said = console.export_text()
    caution = f"CAUTION: runs Python code that comes with {space.model.name}"
    assert caution in said
    assert said.index(caution) < said.index("model:  ")
    assert "was run (model.trust_remote_code)" in outcome.board.warnings[0]
