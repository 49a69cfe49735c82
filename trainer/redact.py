"""Secrets stay out of what is written down: run folders are shared, and reports mailed."""

from __future__ import annotations

import os
import re

_NAMES = re.compile(r"(?:^|_)(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|PAT|CREDENTIALS?)$", re.IGNORECASE)
"""Of environment variables whose values are secrets: HF_TOKEN, WANDB_API_KEY and their like."""
_SHORTEST = 8
"""Characters of a secret; a shorter value is some word."""
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[a-z]_[A-Za-z0-9]{16,}|github_pat_\w{16,}"
    r"|glpat-[\w-]{16,}|xox[a-z]-[\w-]{10,}|AKIA[A-Z0-9]{16}|wandb_v1_\w{16,})"
)
_ADDRESS = re.compile(r"(?<=://)[^/\s@]*:[^/\s@]+(?=@)")
_OPTION = re.compile(
    r"((?:^|[\s'\"])[\w.-]*(?:token|api_?key|secret|password)(?:=|\s+(?=[^\s-])))[^\s'\"]+",
    re.IGNORECASE,
)
_HIDDEN = "***"


def secrets() -> dict[str, str]:
    """The environment's secrets, by the variables' names."""
    found = {name: value for name, value in os.environ.items() if _NAMES.search(name)}
    return {name: value for name, value in found.items() if len(value) >= _SHORTEST}


def redact(text: str) -> str:
    """The text without the environment's secrets, and without what is shaped like one."""
    for value in sorted(secrets().values(), key=len, reverse=True):
        text = text.replace(value, _HIDDEN)
    return _ADDRESS.sub(_HIDDEN, _SHAPES.sub(_HIDDEN, text))


def redact_command(text: str) -> str:
    """``redact`` of a command line: values of options named after secrets go as well."""
    return _OPTION.sub(rf"\1{_HIDDEN}", redact(text))
