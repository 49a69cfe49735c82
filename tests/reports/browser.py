"""A real browser on a page, and what becomes of the page when its scripts have run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)


def needs_chromium(test: object) -> object:
    """Mark a test or a class of them: skipped where there is no browser."""
    reason = "no Chromium on PATH: apt-get install chromium"
    return pytest.mark.browser(pytest.mark.skipif(CHROMIUM is None, reason=reason)(test))


def dump(page: Path, *options: str) -> str:
    """The document, when its scripts have run for ten seconds of the browser's own time.

    The window is tall enough for every figure to be in view.
    """
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--window-size=1200,9000"]
    command += ["--virtual-time-budget=10000", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
