"""Typed checks, once, where a value enters: annotations are the rules, pydantic applies them, the words are ours.

A settings class is a frozen dataclass whose `__post_init__` calls `check(self)`. A rule that a type alone does not tell
is part of an alias below, with the words that say what is expected.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from kit.errors import unknown

Whole = Annotated[int, Field(ge=0, lt=2**63, description="a whole number of at least 0")]
Count = Annotated[int, Field(ge=1, lt=2**31, description="a whole number of at least 1")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a positive number")]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a number of at least 0")]
Share = Annotated[float, Field(gt=0, lt=1, description="a fraction between 0 and 1")]
Decay = Annotated[float, Field(ge=0, lt=1, description="a number in [0, 1)")]
Folder = Annotated[str | os.PathLike, Field(description="the path of a folder")]

_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", type(None): "None"}


def one_of(kind: str, allowed: Callable[[], Iterable[str]]) -> Any:
    """Return the type of names out of `allowed()`; any other is refused with the nearest one."""

    def known(name: str) -> str:
        if name not in (names := allowed()):
            raise unknown(kind, name, names)
        return name

    return Annotated[str, AfterValidator(known), Field(description=f"the name of a {kind}")]


def check(settings: Any, prefix: str = "") -> None:
    """Raise ValueError unless every field of the dataclass is what its annotation says; `prefix` goes before names."""
    for name, adapter in _adapters(type(settings)).items():
        confirm(prefix + name, getattr(settings, name), *adapter)


def confirm(name: str, value: object, adapter: TypeAdapter, hint: Any) -> None:
    """Raise ValueError, naming what was given and what was expected, unless `value` is of the type."""
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        for details in error.errors():
            if isinstance(cause := details.get("ctx", {}).get("error"), ValueError):
                raise cause from None  # a rule of ours, in its own words
        for part in (hint, *get_args(hint)):
            if get_origin(part) is Literal and isinstance(value, str):
                raise unknown(name, value, get_args(part)) from None
        raise ValueError(f"{name}={value!r}, but it has to be {expected(hint)}") from None


def accept(kind: str, given: Mapping[str, object], cls: type) -> dict:
    """Return `given` as keyword arguments of the dataclass; ValueError for one that it does not have."""
    names = [field.name for field in fields(cls)]
    for name in given:
        if name not in names:
            raise unknown(kind, name, names)
    return dict(given)


def adapter(hint: Any) -> TypeAdapter:
    """Return pydantic's validator of a type: strict, so that 1 is no bool and "1" no number."""
    return TypeAdapter(hint, config=_STRICT)


@lru_cache
def _adapters(cls: type) -> dict[str, tuple[TypeAdapter, Any]]:
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: (adapter(hints[f.name]), hints[f.name]) for f in fields(cls) if f.init}


def expected(hint: Any) -> str:
    """Return a type in words: "a whole number of at least 1, or None"."""
    if isinstance(hint, type) and hint in _NAMES:
        return _NAMES[hint]
    metadata = getattr(hint, "__metadata__", ())
    if words := next((part.description for part in metadata if getattr(part, "description", None)), None):
        return words
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if len(parts := get_args(hint)) > 1 and type(None) in parts or get_origin(hint) is None and parts:
        return ", or ".join(expected(part) for part in parts)
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin in (list, tuple) or getattr(origin, "__name__", "") in ("Sequence", "Collection"):
        return f"a list, each item {expected(parts[0])}" if parts else "a list"
    if getattr(origin, "__name__", "") in ("dict", "Mapping"):
        return "a mapping of names to values"
    return ", or ".join(map(expected, parts)) if parts else getattr(hint, "__name__", str(hint))
