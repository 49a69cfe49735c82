"""``plan`` as a user calls it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tune_lora.cli import _console
from tune_lora.search import planning
from tune_lora.search.layout import Layout, Speed
from tune_lora.search.plan_facts import Capacity
from tune_lora.search.resources import Allocation
from tune_lora.trainer.config import TrialConfig

Tool = Callable[..., Any]


def test_it_shows_every_class_and_leaves_nothing_behind(
    tool: Tool, space_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = space_file(search={"baseline": False})
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    code, out, _ = tool("plan", path, "lora.target_modules={choice: [qv, mlp]}")
    assert code == 0
    assert "memory: about " in out
    assert "time:   not measured; --measure" in out
    assert "A trial trains on " in out
    assert "disk:   at most " in out
    rows = [line.split()[:2] for line in out.splitlines() if line.startswith(("qv ", "mlp "))]
    assert rows == [["qv", "2"], ["mlp", "2"], ["qv", "4"], ["mlp", "4"]]
    assert sorted(tmp_path.iterdir()) == before


def test_it_fits_a_narrow_window(
    tool: Tool, space_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_console, "make_console", lambda: Console(width=80))
    lora = {"choice": ["all-linear", ["q_proj", "k_proj", "v_proj", "o_proj"]]}
    both = "{choice: [2, 4]}"
    _, out, _ = tool(
        "plan",
        space_file(lora={"target_modules": lora}, search={"baseline": False}),
        "lora.r=2",
        f"train.per_device_train_batch_size={both}",
        f"train.gradient_accumulation_steps={both}",
    )
    table = out.partition("\n\n")[2].splitlines()
    assert max(map(len, table)) <= 80
    assert "…" not in out
    assert any(line.startswith("all-linear") and "MiB" in line for line in table)


def test_json_is_for_programs(tool: Tool, space_file: Callable[..., Path]) -> None:
    code, out, _ = tool("plan", space_file(), "--json")
    data = json.loads(out)
    assert code == 0
    assert data["quantization"] == "none"
    assert {one["fields"]["lora.r"] for one in data["classes"]} == {2, 4, 8}


def test_what_cannot_fit_is_wrong_input(
    tool: Tool, space_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "capacity", lambda *_: Capacity(2**20, "a box", gpu=False))
    code, _, err = tool("plan", space_file())
    assert code == 2
    assert "a smaller model is needed" in err


def test_measured_it_tells_the_time(
    tool: Tool, space_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def settle(space: Any, ready: Any, *_: Any, measure: bool) -> Layout:
        assert measure
        train = {"per_device_train_batch_size": 4}
        trial = TrialConfig(0, "CAUSAL_LM", {"r": 2, "target_modules": "qv"}, train, (4,))
        return Layout(Allocation(1, 1, 0.0), "measured", Speed(trial, 0.5))

    monkeypatch.setattr(planning, "settle_layout", settle)
    # Three trials of four steps, a pass of four rows every two seconds; and each time three
    # evaluations of four rows, which are half of that.
    code, out, _ = tool("plan", space_file(search={"baseline": False}), "lora.r=2", "--measure")
    assert code == 0
    assert "time:   about 0:33 if no trial is stopped early" in out
    assert next(line for line in out.splitlines() if line.startswith("qv ")).endswith("0:11")


def test_another_machine_is_planned_for(tool: Tool, space_file: Callable[..., Path]) -> None:
    code, out, _ = tool("plan", space_file(), "--gpu-memory", 24, "--gpus", 2)
    assert code == 0
    assert "a GPU has 24 GiB" in out
    assert " 2 worker(s) of 1 GPU" in out
    # Neither this machine's disk nor its speed is of interest there.
    assert " are free" not in out.partition("disk:")[2].partition("\n")[0]
    assert "--measure" not in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--gpus", 8), "give both"),
        (("--gpu-memory", 80, "--measure"), "--measure is for this machine"),
        (("--gpu-memory", 0.5), "greater than or equal to 1"),
    ],
)
def test_options_for_another_machine_go_together(
    tool: Tool, space_file: Callable[..., Path], options: tuple[Any, ...], said: str
) -> None:
    code, _, err = tool("plan", space_file(), *options)
    assert code == 2
    assert said in " ".join(err.replace("\u2502", " ").split())


def test_a_full_disk_is_no_reason_not_to_plan(
    tool: Tool, space_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    code, out, _ = tool("plan", space_file())
    assert code == 0
    assert "only 1000 B are free here, and a search would not begin" in out
