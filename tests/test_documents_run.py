"""Every command in README and docs is run, in its order, on a tiny model for the real one.

Files that a document shows (a block whose first line is ``# NAME``) are written where its commands
find them. A search is cut to two trials of two steps; of another program's command, what can be
known without it is checked.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import GUIDES, ROOT, Block, blocks, texts

SMALL = (
    "model.offline=null",
    "model.quantization=none",
    "model.dtype=fp32",
    "data.limit={train: 32, validation: 8, test: 8}",
    "train.max_steps=2",
    "train.per_device_train_batch_size=2",
    "train.gradient_accumulation_steps=1",
    "train.optim=adamw_torch",
    "search.trials=2",
    "search.scheduler=none",
    "search.confirm=null",
)


def commands(block: Block) -> list[list[str]]:
    """The words of each command, which begins with ``$ ``; what else is there is output."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ")]


WITH_COMMANDS = [
    path for path in GUIDES if any(commands(b) for b in blocks(path) if b.language == "console")
]


@pytest.fixture
def desk(
    tmp_path: Path, pairs: Path, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Desk:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "mine.jsonl").write_bytes(pairs.read_bytes())
    (tmp_path / "spaces").symlink_to(ROOT / "spaces")
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    return Desk(tmp_path, str(tiny("llama")), monkeypatch)


class Desk:
    """Where a reader of one document works."""

    def __init__(self, folder: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.model, self._monkeypatch = folder, model, monkeypatch

    def write(self, block: Block) -> None:
        """The block as a file, if it says which."""
        named = re.match(r"# (\w[\w.-]*\.\w+)\b", block.text)
        if named:
            (self.folder / named[1]).write_text(block.text, encoding="utf-8")

    def run(self, words: list[str], block: Block) -> None:
        """One command, whatever program it is of."""
        program, *rest = words
        if program not in PROGRAMS:
            pytest.fail(f"no way to check: {shlex.join(words)}")
        PROGRAMS[program](self, rest, block)

    def make(self, words: list[str], block: Block) -> None:
        """The target is there; the example search is run."""
        recipe = re.search(rf"^{words[0]}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
        assert recipe, words
        for line in recipe[1].splitlines():
            if "tune-lora search" in line:
                self.tune_lora(shlex.split(line.partition("tune-lora ")[2]), block)

    def pip(self, words: list[str], _: Block) -> None:
        """What it names of this project is there."""
        with (ROOT / "pyproject.toml").open("rb") as file:
            extras = tomllib.load(file)["project"]["optional-dependencies"]
        for word in words:
            for extra in re.findall(r"\.\[(.*)\]", word):
                assert set(extra.split(",")) <= set(extras)

    def python(self, words: list[str], _: Block) -> None:
        """A reader's own file is run; a benchmark takes these options."""
        if words[0].startswith("benchmarks/"):
            said = self._ran([sys.executable, words[0], "--help"])
            assert all(word in said for word in words if word.startswith("--"))
        else:
            self._ran([sys.executable, *words])

    def _ran(self, command: list[str]) -> str:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def tune_lora(self, words: list[str], block: Block) -> None:
        """The tool itself, in this process."""
        verb = words[0]
        at = [place for place, word in enumerate(words) if word == "--model"]
        for place in at:
            words[place + 1] = self.model
        if verb == "search" and "--resume" not in words:
            words += [f"model.name={self.model}", *SMALL, "--local"]
            shown = re.search(r"^run folder: (\S+)", block.text, re.MULTILINE)
            if shown and "--run" not in words:
                words += ["--run", shown[1]]
        if verb == "confirm":
            words += ["--local"]
        if verb == "plan":
            words += [f"model.name={self.model}", *SMALL]
        if verb == "doctor":
            words += ["--skip", "ray", "--skip", "hub"]
        self._call(words)

    def _call(self, words: list[str]) -> None:
        from tune_lora.cli import main

        self._monkeypatch.setattr(sys, "argv", ["tune-lora", *words])
        code = None
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        assert not code, shlex.join(words)


PROGRAMS: dict[str, Callable[[Desk, list[str], Block], None]] = {
    "tune-lora": Desk.tune_lora,
    "make": Desk.make,
    "pip": Desk.pip,
    "python": Desk.python,
}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", WITH_COMMANDS, ids=lambda path: path.name)
def test_commands_do_what_the_reader_expects(document: Path, desk: Desk) -> None:
    for block in blocks(document):
        desk.write(block)
        for words in commands(block) if block.language == "console" else ():
            desk.run(words, block)


@pytest.mark.parametrize("document", GUIDES, ids=lambda path: path.name)
def test_scripts_are_well_formed(document: Path) -> None:
    for text in texts("python", document):
        compile(text, str(document), "exec")
    for text in texts("bash", document):
        done = subprocess.run(
            ["bash", "-n"], input=text, text=True, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
