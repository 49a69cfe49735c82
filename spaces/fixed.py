"""What blocks of fixed keys are made of."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field
from pydantic_core import PydanticCustomError

Name: TypeAlias = Annotated[str, Field(min_length=1)]
Count: TypeAlias = Annotated[int, Field(ge=1)]
Share: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


class Block(BaseModel):
    """A block of fixed keys; strict, so that `"8"` is no number and an unknown key no key."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


def without_password(uri: str) -> str:
    """An address that may be written down: whoever reads a run folder reads its space.

    Raises:
        PydanticCustomError: it holds a password.
    """
    if re.match(r"[^/]*://[^/@]*:[^/@]*@", uri):
        rule = "an address without a password: leave that to the tracker's environment variables"
        raise PydanticCustomError("password", rule)
    return uri


def unwrap(word: str) -> BeforeValidator:
    """Reads one member of a switch: the bare word, or `{word: {...}}`; of `none`, null too."""

    def inner(value: Any) -> Any:
        if word == "none":
            return None
        if value == word:
            return {}
        if isinstance(value, dict):
            return {} if value[word] is None else value[word]
        return value

    return BeforeValidator(inner)


def word_of(*words: str) -> Discriminator:
    """Tells the members of a switch apart: `none`, one of the words, or `{word: {...}}`."""

    def find(value: Any) -> str | None:
        if value is None or value == "none":
            return "none"
        if isinstance(value, Block):
            return str(getattr(value, "word", ""))
        if isinstance(value, dict) and len(value) == 1:
            (value,) = value
        return value if isinstance(value, str) and value in words else None

    expected = ", ".join(f"'{word}'" for word in (*words, "none"))
    return Discriminator(find, "unknown_word", "unknown", {"expected": expected})
