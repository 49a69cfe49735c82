"""The end of the process: at once, and nothing of it lost."""

from __future__ import annotations

import subprocess
import sys

import pytest

_BEFORE = """
import atexit, sys, threading, time
from tune_lora import cli

class Slow:
    def __del__(self):
        print("freed")

kept = sys.modules["kept"] = Slow()
atexit.register(print, "last words")

def main():
    threading.Thread(target=lambda: (time.sleep(0.2), print("a thread's words"))).start()
    print("words")
    raise {raised}

cli.main = main
cli.console_main()
"""


def ended(raised: str) -> subprocess.CompletedProcess[str]:
    code = _BEFORE.format(raised=raised)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("raised", "status"),
    [("SystemExit", 0), ("SystemExit(0)", 0), ("SystemExit(2)", 2), ("SystemExit(130)", 130)],
)
def test_the_status_is_that_of_the_command(raised: str, status: int) -> None:
    assert ended(raised).returncode == status


def test_what_is_written_threads_and_exit_handlers_come_to_their_end() -> None:
    done = ended("SystemExit(0)")
    assert done.stdout.splitlines() == ["words", "a thread's words", "last words"]


def test_nothing_is_freed_first() -> None:
    assert "freed" not in ended("SystemExit(0)").stdout


def test_a_message_goes_where_errors_go() -> None:
    done = ended("SystemExit('no such file')")
    assert (done.returncode, done.stderr) == (1, "no such file\n")


def test_a_defect_shows_its_traceback() -> None:
    done = ended("KeyError('lost')")
    assert done.returncode == 1
    assert "KeyError: 'lost'" in done.stderr
