"""Whether a `lora.target_modules` can be meant: a preset, a list of names, or a regex."""

from __future__ import annotations

import difflib
import re
from typing import Final

from .rules import TARGET_PRESETS, TARGET_WORDS

# A word is near a preset if it is a slip of the finger away; module names such as `attn` are not.
_NEAR: Final = 0.75


def target_modules_fault(value: object) -> tuple[str, tuple[str, ...]] | None:
    """Rule and suggestions if the value cannot be meant, else None.

    Whether the model has such modules is checked against the model itself, not here.
    """
    if isinstance(value, list):
        if not value:
            return "must name at least one module", TARGET_PRESETS
        if not all(isinstance(name, str) and name for name in value):
            return "must be a list of module names", ()
        return None
    if not isinstance(value, str) or value in TARGET_WORDS:
        return None
    return _string_fault(value)


def _string_fault(value: str) -> tuple[str, tuple[str, ...]] | None:
    if not value:
        return "must not be empty", TARGET_PRESETS
    word = value.strip().lower().replace("_", "-")
    if re.fullmatch(r"[\w-]+(\.[\w-]+)?", word):
        close = difflib.get_close_matches(word, TARGET_WORDS, cutoff=_NEAR)
        if close:
            return f"must be a preset ({', '.join(TARGET_PRESETS)}), a list or a regex", (close[0],)
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        return f"is not a regular expression: {error}", ()
    return None
