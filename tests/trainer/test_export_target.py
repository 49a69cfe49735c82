"""Where an export goes: a free folder, whole or not at all; and what a damaged one says."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.export import RECIPE, Forms, Recipe, Rescore


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_nothing_but_the_export_is_left(export: Callable[..., Rescore], tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    export(forms=Forms(merge=True, quantize=True, gguf="f16"))
    assert {path.name for path in tmp_path.iterdir()} == before | {"out"}


def test_empty_folder_is_taken(export: Callable[..., Rescore], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export()
    assert (tmp_path / "out" / RECIPE).is_file()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_target_that_holds_something_is_left_alone(
    export: Callable[..., Rescore], tmp_path: Path, kind: str
) -> None:
    held = tmp_path / "out" / "notes.txt" if kind == "folder" else tmp_path / "out"
    held.parent.mkdir(exist_ok=True)
    held.write_text("mine", encoding="utf-8")
    before = contents(tmp_path)
    with pytest.raises(TrialError, match="not empty"):
        export()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("error", [RuntimeError("midway"), OSError("disk full")])
def test_failure_midway_leaves_nothing(
    export: Callable[..., Rescore], tmp_path: Path, error: Exception
) -> None:
    def finish(folder: Path, scores: Rescore) -> None:
        raise error

    before = contents(tmp_path)
    expected = TrialError if isinstance(error, OSError) else RuntimeError
    with pytest.raises(expected, match=str(error)):
        export(finish=finish)
    assert contents(tmp_path) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"model": {}, "template": null, "labels": [], "merged": false}']
)
def test_damaged_recipe(tmp_path: Path, text: str) -> None:
    (tmp_path / RECIPE).write_text(text, encoding="utf-8")
    with pytest.raises(TrialError, match=RECIPE):
        Recipe.read(tmp_path)
