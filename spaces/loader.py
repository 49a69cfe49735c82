"""Loading a space: find the file, read it, apply `key=value` overrides, check the whole."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from .build import build_space
from .errors import COMMAND_LINE, MISSING, Fault, FaultLog, KeyPath, SpaceError
from .space import Space
from .yamltext import SpaceDumper, read_yaml

_HERE: Final = Path(__file__).parent
_SUFFIXES: Final = ("", ".yaml", ".yml")


def load_space(source: str | Path, overrides: Sequence[str] = ()) -> Space:
    """Load and check a space.

    Args:
        source: Path of a space file, or the bare name of a packaged one (`llama`).
        overrides: `key.path=value` each, the value in YAML; they win over the file. A value
            replaces what stands at its key, and mappings on the way are made if missing.

    Raises:
        SpaceError: With every fault of file and overrides; nothing else is raised, whatever
            the file holds.
    """
    path = _find(source)
    shown = f"spaces/{path.name}" if path.parent == _HERE else str(source)
    log = FaultLog(shown)
    text = _read(path, shown)
    data = read_yaml(text, log).data
    if data is MISSING:
        raise log.error()
    for override in overrides:
        data = _override(data, override, log)
    return build_space(path.stem, data, log)


def dump_space(space: Space) -> str:
    """The space with all defaults as YAML, from which `load_space` makes an equal one."""
    text: str = yaml.dump(
        space.resolved(), Dumper=SpaceDumper, sort_keys=False, allow_unicode=True, width=100
    )
    return text


@cache
def packaged_spaces() -> tuple[str, ...]:
    """Names of the space files that come with the package, sorted."""
    return tuple(sorted(path.stem for path in _HERE.glob("*.yaml")))


def _find(source: str | Path) -> Path:
    path, text = Path(source), str(source)
    if _exists(path) == "file":
        return path
    if text in packaged_spaces() and path.name == text:
        return _HERE / f"{text}.yaml"
    if _exists(path) == "folder":
        raise _no_space(text, "is a folder, not a space file")
    stem = path.stem if path.suffix in _SUFFIXES else path.name
    close = difflib.get_close_matches(stem, packaged_spaces(), cutoff=0.5)
    names = ", ".join(packaged_spaces())
    raise _no_space(text, f"no such file, nor a packaged space ({names})", close)


def _exists(path: Path) -> str:
    try:
        return "file" if path.is_file() else "folder" if path.is_dir() else ""
    except (OSError, ValueError):  # a name too long, or with a null character
        return ""


def _read(path: Path, shown: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise _no_space(shown, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        rule = f"is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        raise _no_space(shown, rule) from error


def _no_space(source: str, rule: str, close: Sequence[str] = ()) -> SpaceError:
    shown = source if source.isprintable() else ascii(source)
    return SpaceError([Fault("", MISSING, rule, source=shown, suggestions=tuple(close))])


def _override(data: Any, override: str, log: FaultLog) -> Any:
    """The data with one override applied."""
    key, equals, text = override.partition("=")
    path: KeyPath = tuple(key.strip().split("."))
    if not equals or not all(path):
        rule = "must be key.path=value, e.g. search.trials=8"
        log.faults.append(Fault("", override, rule, source=COMMAND_LINE))
        return data
    log.overridden = (*log.overridden, path)
    value = read_yaml(text, log, base=path).data
    if value is MISSING or not (data is None or isinstance(data, dict)):
        return data
    root = dict(data or {})
    here = root
    for part in path[:-1]:
        inner = here.get(part)
        here[part] = dict(inner) if isinstance(inner, dict) else {}
        here = here[part]
    here[path[-1]] = value
    return root
