"""Wrong input: exit code 2, one clear message on stderr, before any weights are loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Tool = Callable[..., Any]
SpaceFile = Callable[..., Path]


def refused(answer: Any, *parts: str) -> None:
    """Exit code 2 and one line on stderr that says all of this."""
    assert answer.code == 2, answer
    lines = answer.err.strip().splitlines()
    assert len(lines) == 1, answer.err
    for part in parts:
        assert part in lines[0]


@pytest.fixture(autouse=True)
def _no_progress_bars() -> None:
    """As the command line has it; in this process the library may have been imported before."""
    import datasets

    datasets.disable_progress_bars()


@pytest.fixture(params=["validate", "search"])
def verb(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands are given in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("block", "fields", "parts"),
    [
        ("lora", {"lora_alfa": 8}, ["lora.lora_alfa", "did you mean lora.lora_alpha"]),
        ("train", {"learning_rat": 1e-4}, ["learning_rat", "did you mean train.learning_rate?"]),
        ("lora", {"r": {"choice": []}}, ["lora.r"]),
        ("train", {"learning_rate": {"log_uniform": [1e-2, 1e-4]}}, ["learning_rate"]),
        ("search", {"trials": 0}, ["search.trials = 0"]),
    ],
)
def test_a_bad_space(
    tool: Tool,
    space_file: SpaceFile,
    at: Path,
    verb: str,
    block: str,
    fields: dict[str, object],
    parts: list[str],
) -> None:
    path = space_file(**{block: fields})
    refused(tool(verb, path), "tiny.yaml:", *parts)
    assert list(at.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("search.trials=many", ["command line", "search.trials = many"]),
        ("search.trails=3", ["command line", "trails", "did you mean"]),
        ("search.trials", ["search.trials"]),
    ],
)
def test_a_bad_override(
    tool: Tool, space_file: SpaceFile, at: Path, verb: str, override: str, parts: list[str]
) -> None:
    refused(tool(verb, space_file(), override), *parts)
    assert list(at.iterdir()) == []


def test_a_missing_space(tool: Tool, at: Path, verb: str) -> None:
    refused(tool(verb, "nowhere.yaml"), "nowhere.yaml")
    refused(tool(verb, "lama"), "lama", "llama")


def test_all_faults_at_once(tool: Tool, space_file: SpaceFile, at: Path, verb: str) -> None:
    code, _, err = tool(verb, space_file(lora={"rnak": 8}, search={"trials": 0}))
    assert code == 2
    assert len(err.strip().splitlines()) == 2


@pytest.fixture
def bare(tmp_path: Path, tiny: Callable[..., Path]) -> Path:
    """A model folder without weights, which nobody can have loaded."""
    folder = tmp_path / "bare"
    shutil.copytree(tiny("llama"), folder)
    (folder / "model.safetensors").unlink()
    return folder


def data(folder: Path, rows: list[dict[str, str]]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_bad_data_in_a_search(tool: Tool, space_file: SpaceFile, at: Path, bare: Path) -> None:
    def search(source: str, *overrides: str) -> Any:
        words = [f"model.name={bare}", f"data.train={source}", *overrides]
        return tool("search", space_file(), *words, "--local")

    good = {"instruction": "Say a.", "response": "a"}
    rows = [good] * 20
    sources = {
        "missing.jsonl": "no such file",
        data(bare, []): "the file is empty",
    }
    for source, rule in sources.items():
        answer = search(source)
        refused(answer, f"data.train = {source}"[:50], rule)
    source = data(bare, [*rows, {**good, "response": " "}])
    answer = search(source)
    refused(answer, "data.", "1 rows have an empty response", "no supervised token")
    source = data(bare, [*rows, {**good, "instruction": "long " * 200}])
    answer = search(source, "data.duplicates=allow")
    refused(answer, "data.max_length = 128", "1 rows of the", "no supervised token")
    source = data(bare, [{"question": "a", "response": "b"}] * 20)
    answer = search(source)
    refused(answer, "no column 'instruction'", "data.fields.instruction")
    # Nothing of the searches that could not start is left in the way of the next.
    assert [path for path in at.rglob("*") if path.is_file()] == []


def test_the_message_is_all_that_a_user_sees(space_file: SpaceFile, at: Path, bare: Path) -> None:
    source = data(bare, [*[{"instruction": "a", "response": "b"}] * 20, {"instruction": "a"}])
    command = [sys.executable, "-m", "tune_lora.cli", "search", str(space_file())]
    wanted = [f"model.name={bare}", f"data.train={source}"]
    ended = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "1 rows have an empty response" in ended.stderr


def test_what_does_not_fit_the_model(
    tool: Tool, space_file: SpaceFile, at: Path, bare: Path
) -> None:
    def search(*overrides: str) -> Any:
        return tool("search", space_file(), f"model.name={bare}", "--run", "run", *overrides)

    found = search("lora.target_modules=[q_prj]", "--local")
    refused(found, "lora.target_modules", "did you mean q_proj")
    found = search("model.name=/nowhere", "--local")
    refused(found, "model.name = /nowhere", "no such file or folder")
    refused(search("resources.workers=999"), "resources.workers = 999", "cores")
    assert not (at / "run").exists()


def test_run_and_resume_exclude_each_other(tool: Tool, space_file: SpaceFile, at: Path) -> None:
    code, _, err = tool("search", space_file(), "--run", "a", "--resume", "b")
    assert code == 2
    assert "not both" in err
    assert list(at.iterdir()) == []


@pytest.mark.parametrize("verb", ["search", "confirm"])
def test_a_cluster_and_no_ray_exclude_each_other(
    tool: Tool, space_file: SpaceFile, at: Path, verb: str
) -> None:
    code, _, err = tool(verb, space_file(), "--local", "--address", "auto")
    assert code == 2
    assert "names a Ray cluster" in err.replace("\n", " ")
    assert list(at.iterdir()) == []


def test_an_address_that_cannot_be_joined_leaves_no_folder(
    tool: Tool, space_file: SpaceFile, at: Path
) -> None:
    code, _, err = tool("search", space_file(), "--run", "run", "--address", "ray://head:10001")
    assert code == 1
    assert err.startswith("error: --address ray://head:10001: Ray Client is not for Ray Tune")
    assert not (at / "run").exists()


@pytest.mark.parametrize("uri", ["s3://bucket/run", "gs://bucket/run", "file:///tmp/run"])
def test_a_run_folder_is_a_path(tool: Tool, space_file: SpaceFile, at: Path, uri: str) -> None:
    scheme = uri.partition(":")[0]
    for words in (["--run", uri], ["--resume", uri]):
        code, _, err = tool("search", space_file(), *words, "--address", "auto")
        assert code == 1
        assert f"{scheme} storage is not supported: a run folder needs renames and locks" in err
    assert list(at.iterdir()) == []


def test_a_run_folder_in_use_is_an_error(tool: Tool, space_file: SpaceFile, at: Path) -> None:
    (at / "run").mkdir()
    (at / "run" / "notes.txt").write_text("mine", encoding="utf-8")
    code, _, err = tool("search", space_file(), "--run", "run")
    assert (code, err) == (1, "error: run: is not empty; give another --run, or --resume it\n")
    code, _, err = tool("search", space_file(), "--resume", "run")
    assert (code, err) == (1, "error: run: no run folder (it has no space.yaml)\n")
    assert [path.name for path in (at / "run").iterdir()] == ["notes.txt"]
