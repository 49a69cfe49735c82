"""The ready-made space files."""

import re
from importlib import resources
from pathlib import Path

import pytest
from tune_lora.spaces import Choice, dump_space, load_space, packaged_spaces

FILES = Path(str(resources.files("tune_lora.spaces")))


def test_one_file_for_every_family() -> None:
    assert packaged_spaces() == ("bert", "bloom", "falcon", "gpt2", "llama", "opt", "t5")


@pytest.mark.parametrize("name", packaged_spaces())
def test_searches_what_matters_and_samples(name: str) -> None:
    space = load_space(name)
    names = {parameter.name for parameter in space.parameters()}
    assert {"lora.r", "lora.lora_alpha.ratio", "lora.target_modules"} <= names
    assert "train.learning_rate" in names
    sample = space.sample(lambda _, d: d.labels[-1] if isinstance(d, Choice) else d.high)
    assert sample["lora"]["lora_alpha"] == 4 * sample["lora"]["r"]  # type: ignore[operator]
    assert len(space.rungs()) == 3
    assert space.data.train == "builtin:extraction"


@pytest.mark.parametrize("name", packaged_spaces())
def test_dump_loads_as_the_same_space(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(dump_space(load_space(name)), encoding="utf-8")
    assert load_space(path) == load_space(name)


@pytest.mark.parametrize("name", packaged_spaces())
def test_commands_of_the_header_are_valid(name: str) -> None:
    text = (FILES / f"{name}.yaml").read_text(encoding="utf-8")
    commands = re.findall(rf"^#   tune-lora search {name}\b *(.*?)(?:  +#.*)?$", text, re.MULTILINE)
    assert commands
    for arguments in commands:
        quoted = re.findall(r"'([^']*)'|(\S+)", arguments)
        overrides = [single or plain for single, plain in quoted]
        assert load_space(name, overrides).name == name


def test_tasks_fit_their_families() -> None:
    tasks = {name: load_space(name).model.task for name in packaged_spaces()}
    assert tasks.pop("t5") == "SEQ_2_SEQ_LM"
    assert tasks.pop("bert") == "SEQ_CLS"
    assert set(tasks.values()) == {"CAUSAL_LM"}


def test_llama_names_a_model_for_machines_without_the_hub() -> None:
    offline = load_space("llama").model.offline
    assert offline is not None
    distribution, _, path = offline.removeprefix("package:").partition("/")
    metadata = pytest.importorskip("importlib.metadata")
    try:
        located = metadata.distribution(distribution).locate_file(path)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{distribution} is not installed")
    assert Path(str(located)).is_file()
