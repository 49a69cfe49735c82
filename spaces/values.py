"""From the plain data of a `lora` or `train` block to constants and domains.

A mapping is a domain if it has a domain keyword among its keys; any other mapping is a constant,
as peft's `rank_pattern` needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from .domains import (
    Choice,
    Constant,
    FloatRange,
    IntRange,
    Option,
    Ratio,
    Simple,
    Value,
)
from .errors import MISSING, FaultLog, KeyPath
from .fields import FieldInfo, block_fields
from .nearest import VALUE_BLOCKS, nearest, suggest_keys
from .rules import BOUNDS, CONSTANT_ONLY, RENAMED, reserved
from .targets import target_modules_fault

RANGES: Final = ("uniform", "log_uniform", "int", "log_int")
KEYWORDS: Final = ("choice", *RANGES, "ratio_of")
_STEPPED: Final = ("uniform", "int")


def parse_block(
    block: str, raw: Mapping[str, object], defaults: Mapping[str, Constant], log: FaultLog
) -> dict[str, Value]:
    """Read a block, its defaults filled in; keys with faults are noted in `log` and left out.

    Args:
        block: "lora" or "train".
        raw: The block as the file and the command line give it.
        defaults: What holds for keys that they do not give.
        log: Receives the faults.
    """
    merged = {**defaults, **raw}
    if "activation_checkpointing" in raw and "gradient_checkpointing" not in raw:
        del merged["gradient_checkpointing"]  # its former name; transformers takes one of them
    parsed: dict[str, Value] = {}
    for name, value in merged.items():
        info = known_field(f"{block}.{name}", value, (block, name), log)
        if info is None:
            continue
        found = _Reader(f"{block}.{name}", info, log).read(value, (block, name))
        if found is not MISSING:
            parsed[name] = cast(Value, found)
    return parsed


def known_field(key: str, value: object, path: KeyPath, log: FaultLog) -> FieldInfo | None:
    """The field of a dotted key, or None and a fault if there is none or it is reserved."""
    block, _, name = key.partition(".")
    if reason := reserved(key):
        log.add(path, value, reason)
        return None
    info = block_fields(block).get(name)
    if info is None:
        if key in RENAMED:
            log.add(path, value, RENAMED[key])
        else:
            log.add(path, value, "unknown key", suggest_keys((block,), name))
    return info


class _Reader:
    """Reads the value of one key; every method returns MISSING where it noted a fault."""

    def __init__(self, key: str, info: FieldInfo, log: FaultLog, *, inside: bool = False) -> None:
        self.key = key
        self.info = info
        self.log = log
        self.inside = inside  # whether this stands in the `with` of an option

    def read(self, raw: object, path: KeyPath) -> object:
        """A constant or a domain."""
        if not (isinstance(raw, dict) and any(keyword in raw for keyword in KEYWORDS)):
            return raw if self.check(raw, path) else MISSING
        if self.key in CONSTANT_ONLY:
            return self.fault(path, raw, "must be a constant: it is the same for every trial")
        try:
            return self.domain(raw, path)
        except ValueError as error:
            return self.fault(path, raw, str(error))

    def domain(self, raw: Mapping[str, object], path: KeyPath) -> object:
        """A domain; raises ValueError with the rule that it breaks as a whole."""
        if "ratio_of" in raw:
            return self.ratio(raw, path)
        found = self.simple(raw, path)
        if found is MISSING:
            return MISSING
        if isinstance(found, FloatRange | IntRange) and not self.suits(found, path):
            return MISSING
        return found

    def simple(self, raw: Mapping[str, object], path: KeyPath, *, ratio: bool = False) -> object:
        """A choice or a range."""
        keyword = _keyword(raw)
        bounds = raw[keyword]
        if keyword == "choice":
            return self.choice(bounds, (*path, "choice"), ratio=ratio)
        return _range(keyword, bounds, raw.get("step"))

    def choice(self, raw: object, path: KeyPath, *, ratio: bool) -> object:
        if not isinstance(raw, list):
            return self.fault(path, raw, "must be a list of options")
        options = [self.option(item, (*path, i), ratio=ratio) for i, item in enumerate(raw)]
        good = [option for option in options if isinstance(option, Option)]
        return Choice(tuple(good)) if len(good) == len(options) else MISSING

    def option(self, raw: object, path: KeyPath, *, ratio: bool) -> object:
        if not (isinstance(raw, dict) and "value" in raw and set(raw) <= {"value", "with"}):
            good = _is_number(raw) if ratio else self.check(raw, path)
            if ratio and not good:
                return self.fault(path, raw, "must be a number: it is a ratio")
            return Option(cast(Constant, raw)) if good else MISSING
        given = raw.get("with", {})
        if "with" in raw and (self.inside or ratio):
            return self.fault((*path, "with"), given, "is nested: one level of with is supported")
        if not isinstance(given, dict):
            return self.fault((*path, "with"), given, "must be a mapping of keys to values")
        values = self.given(given, (*path, "with"))
        if not self.check(raw["value"], (*path, "value")):
            return MISSING
        return Option(cast(Constant, raw["value"]), values)

    def given(self, raw: Mapping[str, object], path: KeyPath) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for name, value in raw.items():
            here = (*path, name)
            key = full_key(name, self.key)
            info = known_field(key, value, here, self.log)
            if info is None:
                continue
            if key in CONSTANT_ONLY or key == self.key:
                self.fault(here, value, "cannot depend on an option")
                continue
            parsed = _Reader(key, info, self.log, inside=True).read(value, here)
            if parsed is not MISSING:
                found[key] = cast(Value, parsed)
        return found

    def ratio(self, raw: Mapping[str, object], path: KeyPath) -> object:
        if not self.info.type.has("int", "float"):
            return self.fault(path, raw, f"cannot be a ratio: must be {self.info.type.describe()}")
        of = raw["ratio_of"]
        if not isinstance(of, str):
            return self.fault((*path, "ratio_of"), of, "must be the name of a key")
        rest = {name: value for name, value in raw.items() if name != "ratio_of"}
        found = self.simple(rest, path, ratio=True)
        return MISSING if found is MISSING else Ratio(full_key(of, self.key), cast(Simple, found))

    def suits(self, domain: FloatRange | IntRange, path: KeyPath) -> bool:
        """Whether a range fits the field's type and bounds."""
        wanted = self.info.type
        if isinstance(domain, FloatRange) and not wanted.has("float"):
            other = "int or log_int" if wanted.has("int") else "choice"
            text = f"cannot be a range of real numbers: must be {wanted.describe()}; write {other}"
            self.log.add(path, MISSING, text)
            return False
        if not wanted.has("int", "float"):
            self.log.add(path, MISSING, f"cannot be a range: must be {wanted.describe()}")
            return False
        return all(self.bounded(end, path) for end in (domain.low, domain.high))

    def check(self, value: object, path: KeyPath) -> bool:
        """Whether a constant fits the field; notes a fault if not."""
        if not self.info.type.accepts(value):
            rule = f"must be {self.info.type.describe()}"
            if isinstance(value, dict):
                rule += f", or a domain ({', '.join(KEYWORDS)})"
                known: tuple[str, ...] = KEYWORDS
                words = [word for name in value for word in nearest(name, known)]
            else:
                known = tuple(c for c in self.info.type.choices if isinstance(c, str))
                words = list(nearest(value, known)) if isinstance(value, str) else []
            self.log.add(path, value, rule, words[:3])
            return False
        if self.key == "lora.target_modules" and (fault := target_modules_fault(value)):
            self.log.add(path, value, *fault)
            return False
        return self.bounded(value, path)

    def bounded(self, value: object, path: KeyPath) -> bool:
        bounds = BOUNDS.get(self.key)
        if bounds is None or not _is_number(value) or bounds.holds(cast(float, value)):
            return True
        self.log.add(path, value, bounds.describe())
        return False

    def fault(self, path: KeyPath, value: object, rule: str) -> object:
        self.log.add(path, value, rule)
        return MISSING


def full_key(name: str, beside: str) -> str:
    """The dotted form of a key that is named beside another one, bare or dotted."""
    block = name.partition(".")[0]
    return name if "." in name and block in VALUE_BLOCKS else f"{beside.partition('.')[0]}.{name}"


def _keyword(raw: Mapping[str, object]) -> str:
    found = [keyword for keyword in KEYWORDS if keyword in raw]
    if len(found) != 1:
        raise ValueError(f"must have exactly one of {', '.join(('choice', *RANGES))}")
    allowed = {found[0], "step"} if found[0] in _STEPPED else {found[0]}
    if extra := [key for key in raw if key not in allowed]:
        raise ValueError(f"{found[0]} takes no {', '.join(map(ascii, extra))}")
    return found[0]


def _range(keyword: str, bounds: object, step: object) -> FloatRange | IntRange:
    log = keyword.startswith("log_")
    whole = keyword.endswith("int")
    wanted = int if whole else (int, float)
    word = "whole numbers" if whole else "numbers"
    if not (isinstance(bounds, list) and len(bounds) == 2) or not all(
        isinstance(bound, wanted) and not isinstance(bound, bool) for bound in bounds
    ):
        raise ValueError(f"{keyword} must be [low, high], two {word}")
    if step is not None and (not isinstance(step, wanted) or isinstance(step, bool)):
        raise ValueError(f"step must be a {word.removesuffix('s')}")
    if whole:
        return IntRange(bounds[0], bounds[1], log, cast(int, step) if step is not None else 1)
    low, high = float(bounds[0]), float(bounds[1])
    return FloatRange(low, high, log, None if step is None else float(cast(float, step)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
