"""The rooms' order: a room imports only from lower floors, and heavy libraries stay where they are.

Every import counts, those inside functions and under TYPE_CHECKING too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import tune_lora

ROOT = Path(tune_lora.__file__).resolve().parent
FLOORS = {"spaces": 1, "trainer": 2, "reports": 3, "search": 4, "cli": 5}
FILES = [path for room in FLOORS for path in sorted((ROOT / room).rglob("*.py"))]


def modules(path: Path) -> Iterator[str]:
    """Dotted names of all that a file of the package imports, relative ones resolved."""
    package = ["tune_lora", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            # `from .. import trainer` names the room only here.
            yield from (f"{start}.{alias.name}" for alias in node.names)


def libraries(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in modules(path)}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_rooms_are_there() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(FLOORS)
    others = {path.parent.name for path in ROOT.glob("*/__init__.py")} - set(FLOORS)
    assert others == set()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_room_imports_only_from_lower_floors(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    used = {
        name.split(".")[1]
        for name in modules(path)
        if name.startswith("tune_lora.") and name.split(".")[1] != own
    }
    assert used <= set(FLOORS)
    assert [room for room in used if FLOORS[room] >= FLOORS[own]] == []


def test_only_these_files_know_ray() -> None:
    assert [name_of(path) for path in FILES if "ray" in libraries(path)] == [
        "search/ray_cluster.py",
        "search/ray_early.py",
        "search/ray_nodes.py",
        "search/ray_places.py",
        "search/ray_schedulers.py",
        "search/ray_tune.py",
        "search/ray_worker.py",
    ]


@pytest.mark.parametrize("room", ["spaces", "reports"])
def test_light_rooms_know_no_torch(room: str) -> None:
    heavy = {"torch", "transformers", "peft", "bitsandbytes", "datasets", "accelerate"}
    found = {
        name_of(path): libraries(path) & heavy
        for path in FILES
        if path.relative_to(ROOT).parts[0] == room
    }
    assert found
    assert not any(found.values()), found


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    """The search for imports itself, on one of each kind."""
    text = "import a.b\nfrom .. import trainer\ndef f():\n    from ..search.study import Study\n"
    file = ROOT / "reports" / "x.py"
    kept = tmp_path / "x.py"
    kept.write_text(text, encoding="utf-8")

    class Elsewhere(type(kept)):  # type: ignore[misc]
        def relative_to(self, *_: object) -> Path:
            return file.relative_to(ROOT)

    assert list(modules(Elsewhere(kept))) == [
        "a.b",
        "tune_lora.trainer",
        "tune_lora.search.study.Study",
    ]
