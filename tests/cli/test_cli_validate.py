"""``validate`` and ``schema``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tune_lora.spaces import load_space

Tool = Callable[..., Any]
PACKAGED = ("bert", "bloom", "falcon", "gpt2", "llama", "opt", "t5")


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_spaces_are_valid(tool: Tool, name: str) -> None:
    code, out, err = tool("validate", name)
    assert (code, err) == (0, "")
    assert out.startswith(f"{name}: valid\n")


def test_it_says_what_would_be_searched(tool: Tool, space_file: Callable[..., Path]) -> None:
    _, out, _ = tool("validate", space_file(), "search.trials=7")
    assert "7 trials, evaluated at steps 1, 2, 4" in out
    assert "searches lora.r, train.learning_rate\n" in out
    _, out, _ = tool("validate", space_file(), "lora.r=2", "train.learning_rate=1e-3")
    assert "nothing: every value is a constant" in out


@pytest.mark.parametrize("name", PACKAGED)
def test_resolved_loads_as_an_equal_space(tool: Tool, tmp_path: Path, name: str) -> None:
    override = "search.trials=33"
    code, out, err = tool("validate", name, "--resolved", override)
    assert (code, err) == (0, "")
    again = tmp_path / f"{name}.yaml"
    again.write_text(out, encoding="utf-8")
    assert load_space(again) == load_space(name, [override])


def test_resolved_writes_defaults_out(tool: Tool, space_file: Callable[..., Path]) -> None:
    _, out, _ = tool("validate", space_file(), "--resolved")
    assert yaml.safe_load(out)["search"]["keep_adapters"] == 3


def test_the_schema_takes_good_spaces_and_refuses_bad_ones(tool: Tool, tmp_path: Path) -> None:
    to = tmp_path / "new" / "space.schema.json"
    code, out, _ = tool("schema", "--to", to)
    assert (code, out) == (0, f"wrote {to}\n")
    schema = json.loads(to.read_text(encoding="utf-8"))
    _, printed, _ = tool("schema")
    assert json.loads(printed) == schema

    good = {"model": {"name": "m"}, "data": {"train": "d"}, "lora": {"r": {"choice": [1, 2]}}}
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**good, "lora": {"rr": 8}}, schema)
