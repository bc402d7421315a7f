"""Typed checks, once, where a value enters: annotations are the rules, pydantic applies them, the words are ours.

A settings class is a frozen dataclass whose `__post_init__` calls `check(self)`; a function is `typed`. A rule that a
type alone does not tell is part of an alias below, with the words that say what is expected.
"""

import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, wraps
from inspect import signature
from types import UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, InstanceOf, TypeAdapter, ValidationError

from kit.errors import check_name, unknown

P = ParamSpec("P")
R = TypeVar("R")
Whole = Annotated[int, Field(ge=0, lt=2**63, description="a whole number of at least 0")]
Count = Annotated[int, Field(ge=1, lt=2**31, description="a whole number of at least 1")]
Positive = Annotated[float, Field(gt=0, lt=1e9, description="a positive number")]
NonNegative = Annotated[float, Field(ge=0, lt=1e9, description="a number of at least 0")]
Share = Annotated[float, Field(gt=0, lt=1, description="a fraction between 0 and 1")]
Decay = Annotated[float, Field(ge=0, lt=1, description="a number in [0, 1)")]
Portion = Annotated[float, Field(ge=0, le=1, description="a share in [0, 1]")]
Folder = Annotated[Annotated[str, Field(min_length=1)] | os.PathLike[str], Field(description="the path of a folder")]

_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
_NAMES: dict[object, str] = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}
_NAMES |= {type(None): "None", Callable: "a function"} | dict.fromkeys((dict, Mapping), "a mapping of names to values")


def one_of(kind: str, allowed: Callable[[], Iterable[str]]) -> Any:
    """Return what makes `Annotated[str, …]` the names out of `allowed()`; any other is refused with the nearest one."""

    def known(name: str) -> str:
        check_name(kind, name, allowed())
        return name

    rule = Field(description=f"the name of a {kind}")
    rule.metadata.append(AfterValidator(known))
    return rule


def check(settings: object, prefix: str = "") -> None:
    """Raise ValueError unless every field of the dataclass is what its annotation says; `prefix` goes before names."""
    for name, hint in _hints(cast(Hashable, type(settings))).items():
        confirm(prefix + name, getattr(settings, name), hint)


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function, which from now on raises ValueError for an argument that its annotation does not allow."""

    parameters = signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        confirm_arguments(function, parameters.bind(*args, **kwargs).arguments)
        return function(*args, **kwargs)

    return call


def confirm_arguments(function: Callable[..., object], given: Mapping[str, object]) -> None:
    """Raise ValueError for an argument of `function`, among those given, that its annotation does not allow."""
    for name, hint in _hints(function).items():
        if name in given:
            confirm(name, given[name], hint)


def confirm(name: str, value: object, hint: Any) -> None:
    """Raise ValueError, naming what was given and what was expected, unless `value` is of the type."""
    try:
        adapter(hint).validate_python(tuple(value) if isinstance(value, tuple) else value)  # shapes are lists as well
    except ValidationError as error:
        for details in error.errors():
            if isinstance(cause := details.get("ctx", {}).get("error"), ValueError):
                raise cause from None  # a rule of ours, in its own words
        for part in (hint, *get_args(hint)):
            if get_origin(part) is Literal and isinstance(value, str):
                raise unknown(name, value, get_args(part)) from None
        most = [details["ctx"]["lt"] for details in error.errors() if details["type"] == "less_than"]
        below = f" below {most[0]:,}" if most and most[0] > 1 else ""
        raise ValueError(f"{name}={_shown(value)}, but it has to be {expected(hint)}{below}") from None


def _shown(value: object) -> str:
    """Return the value as it is written, or its kind where that would be pages, or more digits than Python writes."""
    try:
        text = repr(value)
    except ValueError:
        text = ""
    return text if 0 < len(text) < 200 and "\n" not in text else f"<{type(value).__name__}>"


def accept(kind: str, given: Mapping[str, object], cls: type) -> dict[str, Any]:
    """Return `given` as keyword arguments of the dataclass; ValueError for one that it does not have."""
    names = [field.name for field in fields(cls)]
    for name in given:
        check_name(kind, name, names)
    return dict(given)


@cache
def adapter(hint: Any) -> TypeAdapter[Any]:
    """Return pydantic's validator of a type: strict, so that 1 is no bool, "1" no number, and nan and inf are none."""
    if is_dataclass(hint):
        return TypeAdapter(InstanceOf[hint])
    return TypeAdapter(hint, config=_STRICT)


@cache
def _hints(of: Any) -> dict[str, Any]:
    """Return the annotations of a dataclass's fields, or of a function's parameters."""
    hints = get_type_hints(of, include_extras=True)
    names = [field.name for field in fields(of) if field.init] if is_dataclass(of) else signature(of).parameters
    return {name: hints[name] for name in names if name in hints}


def expected(hint: Any) -> str:
    """Return a type in words: "a whole number of at least 1, or None"."""
    metadata = getattr(hint, "__metadata__", ())
    if words := next((part.description for part in metadata if getattr(part, "description", None)), None):
        return str(words)
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin is Annotated:
        return expected(parts[0])
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin in (Union, UnionType):
        return ", or ".join(map(expected, parts))
    if origin in (list, tuple, Sequence):
        return f"a list, each item {expected(parts[0])}" if parts else "a list"
    return _NAMES.get(origin) or f"a {getattr(origin, '__name__', origin)}"
