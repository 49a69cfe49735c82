"""Reports load fast: none of the heavy libraries comes with them."""

from __future__ import annotations

import subprocess
import sys


def test_no_heavy_import() -> None:
    program = (
        "import sys, tune_lora.reports as r; "
        "assert all(hasattr(r, name) for name in r.__all__); "
        "heavy = {'torch', 'ray', 'optuna', 'transformers', 'peft'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
