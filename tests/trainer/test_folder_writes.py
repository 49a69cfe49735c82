"""Files and folders are put in place whole, whatever happens in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.folder import (
    read_json,
    recover_folder,
    replace_folder,
    write_json,
    write_text,
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "a.json"
    write_json(path, {"text": "é", "list": [1, None, 2.5]})
    assert read_json(path) == {"text": "é", "list": [1, None, 2.5]}
    write_json(path, [2])
    assert read_json(path) == [2]
    assert list(path.parent.iterdir()) == [path]


def test_others_may_read_it(tmp_path: Path) -> None:
    """A temporary file is its owner's alone; a report is not."""
    write_text(tmp_path / "a.md", "text")
    assert (tmp_path / "a.md").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_in_the_middle_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tune_lora.trainer.folder import write_json\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_json(Path(sys.argv[1]), {'new': 'x' * 100_000})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert read_json(path) == {"old": 1}


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, [0] * 20_000)
    done = threading.Event()

    def write() -> None:
        for number in range(1, 15):
            write_json(path, [number] * 20_000)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not done.is_set():
        seen = read_json(path)
        assert len(seen) == 20_000
        assert len(set(seen)) == 1
        reads += 1
    writer.join()
    assert reads > 0
    assert read_json(path)[0] == 14


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1}{', b"\xff\xfe"])
def test_a_corrupt_file_is_a_trial_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(TrialError, match=r"a\.json: cannot be read"):
        read_json(path)


def test_a_missing_file_is_a_trial_error(tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="cannot be read"):
        read_json(tmp_path / "a.json")


def _folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / text).write_text(text)
    return path


@pytest.mark.parametrize("existing", [True, False])
def test_a_folder_takes_anothers_place(tmp_path: Path, existing: bool) -> None:
    target = tmp_path / "adapter"
    if existing:
        _folder(target, "old")
    replace_folder(_folder(tmp_path / "new", "new"), target)
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_crash_left_is_swept_away(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    _folder(tmp_path / ".adapter.old", "older")
    _folder(target, "old")
    replace_folder(_folder(tmp_path / "new", "new"), target)
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_crash_between_the_two_moves_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, new = _folder(tmp_path / "adapter", "old"), _folder(tmp_path / "new", "new")
    move = Path.rename

    def crash(path: Path, to: Path) -> Path:
        if path == new:
            raise KeyboardInterrupt
        return move(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            replace_folder(new, target)
    assert not target.exists()
    recover_folder(target)
    assert [path.name for path in target.iterdir()] == ["old"]
    replace_folder(new, target)
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_there_may_be_nothing_to_recover(tmp_path: Path) -> None:
    recover_folder(tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []
