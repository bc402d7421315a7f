"""The typed parameters of a notebook: its one cell tagged `parameters` declares them, and given values must fit.

A line declares one: `name: type = default  # help`. Types are int, float, str, bool, list, list[…], Literal[…] and
`… | None`. papermill's own reading skips types with `|` and helps with `=`, so the cell is parsed here.
"""

import ast
import io
import os
import tokenize
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Union

from pydantic import Field, ValidationError

from kit.errors import check_name, unknown
from kit.settings import adapter

Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
TYPES = {"int": Integer, "float": float, "str": str, "bool": bool, "list": list}
_LIMITS = {"finite_number": " and finite", "less_than": " below 2**63", "greater_than_equal": " of at least -2**63"}
"""What a value of the right type lacks, by pydantic's name of the error."""


@dataclass(frozen=True)
class Parameter:
    type: Any
    written: str
    """The type as the notebook writes it."""
    default: object
    help: str


def read_parameters(notebook: str | os.PathLike[str]) -> dict[str, Parameter]:
    """Return the parameters that a notebook declares, by name. ValueError for a file without such a cell."""
    import nbformat

    path = Path(notebook)
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.ipynb"))
        raise unknown(f"notebook in {path.parent}{os.sep}", path.name, there)
    try:
        cells = nbformat.read(path, as_version=4).cells
    except (ValueError, nbformat.ValidationError) as error:
        raise ValueError(f"{path} is not a notebook: {str(error).splitlines()[0]}") from error
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{path} has {len(tagged)} cells tagged 'parameters'; tag exactly one")
    try:
        return dict(_declarations(tagged[0]))
    except (ValueError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"the parameters cell of {path}: {error}") from error


def _declarations(source: str) -> Iterator[tuple[str, Parameter]]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    for line in ast.parse(source).body:
        if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value):
            raise ValueError(f"{ast.unparse(line)!r} is not of the form 'name: type = value  # help'")
        try:
            kind = _type(line.annotation)
            default = adapter(kind).validate_python(ast.literal_eval(line.value))
        except ValueError as error:
            raise ValueError(f"{ast.unparse(line)!r}: the value is no literal of that type") from error
        help = comments.get(line.end_lineno or 0, "")
        yield line.target.id, Parameter(kind, ast.unparse(line.annotation), default, help)


def _type(written: ast.expr) -> Any:
    """Return the type that an annotation names; ValueError for one that a parameter cannot have."""
    match written:
        case ast.Name(id=name) if name in TYPES:
            return TYPES[name]
        case ast.Constant(value=None):
            return NoneType
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return list[_type(item)]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return Literal[ast.literal_eval(choices)]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_type(left), _type(right)]  # noqa: UP007 - of types made here, not of names
    raise ValueError(f"{ast.unparse(written)} is no type that a parameter can have")


def check_values(given: Mapping[str, object], declared: Mapping[str, Parameter]) -> dict[str, object]:
    """Return the given values as the declared types: a tuple as a list, a path as text, a whole number as a float.

    Raises ValueError for an unknown name and for a value of another type: a text is no number, nor is 1 a bool.
    """
    values = {}
    for name, value in given.items():
        check_name("parameter", name, declared)
        parameter = declared[name]
        plain = os.fspath(value) if isinstance(value, os.PathLike) else value
        try:
            values[name] = adapter(parameter.type).validate_python(list(plain) if isinstance(plain, tuple) else plain)
        except ValidationError as error:
            kind = parameter.written + _LIMITS.get(error.errors()[0]["type"], "")
            meaning = parameter.help and f" ({parameter.help})"
            raise ValueError(
                f"{name}={value!r}, but it must be {kind}, such as {parameter.default!r}{meaning}"
            ) from error
    return values


def read_texts(given: Mapping[str, str], declared: Mapping[str, Parameter]) -> dict[str, object]:
    """Return what texts of a command line stand for: `"False"` is False, `[a, b]` and `a,b` are lists of texts too.

    What cannot be read stays as it is, for `check_values` to refuse.
    """
    return {name: _read(text, declared[name].type) if name in declared else text for name, text in given.items()}


def _read(text: str, kind: Any) -> object:
    words = [word.strip() for word in (text[1:-1] if text[:1] + text[-1:] == "[]" else text).split(",") if word.strip()]
    for reading in (_literal(text), [_literal(word) for word in words], words):
        with suppress(ValidationError):
            return adapter(kind).validate_python(reading)
    return text


def _literal(text: str) -> object:
    """Return the number, truth value, None or list that the text is, or else the text."""
    try:
        read = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text.strip()))
    except (ValueError, SyntaxError):
        with suppress(ValueError):
            return float(text)  # inf
        return text
    return text if isinstance(read, str) else list(read) if isinstance(read, tuple) else read
