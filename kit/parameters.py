"""The typed parameters of a notebook: its one cell tagged `parameters` declares them, and given values must fit.

A line declares one: `name: type = default  # help`. Types are int, float, str, bool, list, list[…], Literal[…] and
`… | None`. papermill's own reading skips types with `|` and helps with `=`, so the cell is parsed here.
"""

import ast
import io
import os
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kit.errors import unknown


@dataclass(frozen=True)
class Parameter:
    type: ast.expr
    default: object
    help: str


def read_parameters(notebook: str | os.PathLike) -> dict[str, Parameter]:
    """Return the parameters that a notebook declares, by name."""
    import nbformat

    path = Path(notebook)
    if not path.is_file():
        raise unknown(
            f"notebook in {path.parent}{os.sep}", path.name, sorted(p.name for p in path.parent.glob("*.ipynb"))
        )
    try:
        cells = nbformat.read(path, as_version=4).cells
    except (ValueError, nbformat.ValidationError) as error:
        raise ValueError(f"{path} is not a notebook: {str(error).splitlines()[0]}") from error
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{path} has {len(tagged)} cells tagged 'parameters'; tag exactly one")
    try:
        return dict(_declarations(tagged[0]))
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"the parameters cell of {path}: {error}") from error


def _declarations(source: str) -> Iterator[tuple[str, Parameter]]:
    lines = ast.parse(source).body
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    for line in lines:
        if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value):
            raise ValueError(f"{ast.unparse(line)!r} is not of the form 'name: type = value  # help'")
        try:
            default = _convert(ast.literal_eval(line.value), line.annotation)
        except ValueError as error:
            raise ValueError(f"{ast.unparse(line)!r}: the value is no literal of that type") from error
        yield line.target.id, Parameter(line.annotation, default, comments.get(line.end_lineno, ""))


def check(given: Mapping[str, object], declared: Mapping[str, Parameter]) -> dict[str, object]:
    """Return the given values as the declared types; text is read, `"False"` as False and `"a,b"` as a list."""
    values = {}
    for name, value in given.items():
        if name not in declared:
            raise unknown("parameter", name, declared)
        parameter = declared[name]
        try:
            values[name] = _convert(value, parameter.type)
        except ValueError as error:
            kind, meaning = ast.unparse(parameter.type), parameter.help and f" ({parameter.help})"
            raise ValueError(
                f"{name}={value!r}, but it must be {kind}, such as {parameter.default!r}{meaning}"
            ) from error
    return values


def _convert(value: object, kind: ast.expr) -> object:
    """Return `value` as the annotated type, or raise ValueError."""
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    text = isinstance(value, str)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match kind:
        case ast.Name(id="str") if text:
            return value
        case ast.Name(id="int") if text or isinstance(value, int) and number:
            return int(value)
        case ast.Name(id="float") if text or number:
            return float(value)
        case ast.Name(id="bool") if isinstance(value, bool) or text and value.lower() in ("true", "false"):
            return value if isinstance(value, bool) else value.lower() == "true"
        case ast.Constant(value=None) if value in (None, "None"):
            return None
        case ast.Name(id="list"):
            return _items(value)
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return [_convert(part, item) for part in _items(value)]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            allowed = ast.literal_eval(choices)
            for choice in allowed if isinstance(allowed, tuple) else (allowed,):
                if value == choice or value == str(choice):
                    return choice
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            try:
                return _convert(value, right)  # the right side first: in `str | None`, "None" is None
            except ValueError:
                return _convert(value, left)
    raise ValueError(f"{value!r} is not {ast.unparse(kind)}")


def _items(value: object) -> list:
    """Return a list as it is, and that of a text such as `[1, 2]`, `['a', 'b']`, `[a, b]` or `a,b`."""
    if isinstance(value, str):
        try:
            read = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            read = None
        bare = value[1:-1] if value[:1] + value[-1:] == "[]" else value
        value = read if isinstance(read, list | tuple) else [word.strip() for word in bare.split(",") if word.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} is not a list")
    return list(value)
