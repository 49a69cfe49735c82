"""Imports of heavy libraries, in less time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage in the block, nor ever among what is there when the first one ends.

    Importing torch, transformers and peft makes objects by the hundred thousand, and they stay:
    looking through them again and again takes a fifth of the time, and afterwards a third of a
    second at each full collection, of which every trial has one.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
        if not gc.get_freeze_count():
            gc.freeze()
    finally:
        if collecting:
            gc.enable()
