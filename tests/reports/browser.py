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


def dump(page: Path, height: int = 800) -> str:
    """The document, when its scripts have run for five seconds of the browser's own time.

    Args:
        page: an HTML file.
        height: of the window; figures are drawn as they come into view.
    """
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={page.parent / 'profile'}", f"--window-size=1200,{height}"]
    command += ["--virtual-time-budget=5000", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
