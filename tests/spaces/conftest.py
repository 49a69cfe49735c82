"""Loading of space texts for the tests of this room."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tune_lora.spaces import Fault, Space, SpaceError, load_space

HEAD = "model: {name: m}\ndata: {train: d.jsonl}\n"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spaces")


@pytest.fixture
def load(folder: Path) -> Callable[..., Space]:
    """Load a text, put below a minimal model and data block unless it is `whole`."""

    def load_text(text: str, *overrides: str, whole: bool = False) -> Space:
        path = folder / "mine.yaml"
        path.write_text(text if whole else HEAD + text, encoding="utf-8")
        return load_space(path, overrides)

    return load_text


@pytest.fixture
def faults(load: Callable[..., Space]) -> Callable[..., tuple[Fault, ...]]:
    """The faults of a text that must not load."""

    def faults_of(text: str, *overrides: str, whole: bool = False) -> tuple[Fault, ...]:
        with pytest.raises(SpaceError) as caught:
            load(text, *overrides, whole=whole)
        return caught.value.faults

    return faults_of
