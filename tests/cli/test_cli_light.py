"""Help and ``validate`` answer at once: nothing heavy is imported for them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

Tool = Callable[..., Any]

VERBS = (
    "search",
    "leaderboard",
    "export",
    "generate",
    "init",
    "validate",
    "plan",
    "schema",
    "doctor",
)
HEAVY = ("torch", "ray", "transformers", "optuna", "peft", "datasets", "bitsandbytes", "pandas")


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("search", "--help"), ("validate", "llama"), ("schema",)],
    ids=lambda arguments: "-".join(arguments).strip("-"),
)
def test_nothing_heavy_is_imported(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "tune_lora.cli", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in ended.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert {"tune_lora", "typer"} <= imported
    assert imported.isdisjoint(HEAVY)
    assert ended.stdout


def test_the_tool_names_its_verbs(tool: Tool) -> None:
    code, out, err = tool("--help")
    assert (code, err) == (0, "")
    for verb in VERBS:
        assert f"\n  {verb} " in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_examples_of_itself(tool: Tool, verb: str) -> None:
    code, out, err = tool(verb, "--help")
    assert (code, err) == (0, "")
    _, _, examples = out.partition("Example")
    assert f"  tune-lora {verb} " in examples


def test_without_a_verb_it_helps(tool: Tool) -> None:
    code, out, err = tool()
    assert code == 2
    assert "validate" in out + err


def test_an_unknown_verb_is_wrong_input(tool: Tool) -> None:
    code, _, err = tool("serach")
    assert code == 2
    assert "serach" in err
