"""YAML files as dataclasses: no key twice, every word of its field's type, every fault with its line."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from kit.errors import unknown
from kit.settings import confirm

Place = tuple[str | int, ...]
"""The keys and indices that lead to a word: ("claims", 0, "better")."""


class Misplaced(ValueError):
    """What is wrong with a file, and where in it."""

    def __init__(self, reason: str, place: Place):
        super().__init__(reason)
        self.place = place


@contextmanager
def at(*place: str | int) -> Iterator[None]:
    """Say of a ValueError raised inside where it stands; places add up."""
    try:
        yield
    except Misplaced as error:
        raise Misplaced(str(error), (*place, *error.place)) from error
    except ValueError as error:
        raise Misplaced(str(error), place) from error


@dataclass(frozen=True)
class Document:
    """A YAML file: what it says, and in which line each of its words stands."""

    path: Path
    given: object
    lines: dict[Place, int]

    @contextmanager
    def errors_placed(self) -> Iterator[None]:
        """Name file, line and key in a ValueError raised inside."""
        try:
            yield
        except Misplaced as error:
            place = next(error.place[:n] for n in range(len(error.place), -1, -1) if error.place[:n] in self.lines)
            names = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.place)
            raise ValueError(f"{self.path}:{self.lines[place]}: {names[1:]}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, to which 1e-3 is a number, as in YAML 1.2, and no text."""


_FLOAT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def load(path: Path) -> Document:
    """Return what a YAML file says. ValueError, with the line, for what is no YAML and for a key that stands twice."""
    document = Document(path, None, {(): 1})
    try:
        with document.errors_placed():
            loader = _Loader(path.read_text(encoding="utf-8"))
            node = loader.get_single_node()
            _number(node, (), document.lines)
            return replace(document, given=loader.construct_document(node) if node else None)
    except RecursionError as error:
        raise ValueError(f"{path} is not YAML that can be read: it is nested too deep") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error


def _number(node: yaml.Node | None, place: Place, lines: dict[Place, int]) -> None:
    """Note the line of every key and item below `node`. ValueError for a key that stands twice."""
    parts = node.value if isinstance(node, yaml.CollectionNode) else ()
    for index, part in enumerate(parts):
        key, value = part if isinstance(node, yaml.MappingNode) else (None, part)
        here = (*place, key.value if isinstance(key, yaml.ScalarNode) else index)
        line = (key or value).start_mark.line + 1
        if here in lines:
            raise Misplaced(f"the key {here[-1]!r} stands in line {line} again: which of the two counts?", here)
        lines[here] = line
        _number(value, here, lines)


def make(hint: Any, given: object, name: str, /, **known: object) -> Any:
    """Return plain data as what `hint` says: a dataclass, a mapping or a sequence of them, or any other type.

    `known` are fields of a dataclass that a file has no say in. Raises ValueError, placed, for an unknown or missing
    key and for a value of another type.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return hint(**_values(hint, given, name, known), **known)
    if origin is Mapping and isinstance(given, Mapping):
        return {_text(key): _item(parts[1], value, key) for key, value in given.items()}
    if origin is Sequence and isinstance(given, list):
        return [_item(parts[0], value, index, f"{name}[{index}]") for index, value in enumerate(given)]
    confirm(name, given, hint)
    return given


def _item(hint: Any, given: object, key: str | int, name: str = "") -> Any:
    with at(key):
        return make(hint, given, name or str(key))


def _text(key: object) -> str:
    if not isinstance(key, str):
        raise ValueError(f"the key {key!r} is no text: put it into quotes")
    return key


def _values(cls: type, given: object, name: str, known: Mapping[str, object]) -> dict[str, Any]:
    wanted = {f.name: f for f in fields(cls) if f.name not in known}
    needed = [key for key, f in wanted.items() if f.default is MISSING and f.default_factory is MISSING]
    if not isinstance(given, Mapping):
        raise ValueError(f"{name}={given!r}, but it has to be a mapping with the keys {', '.join(needed or wanted)}")
    for key in given:
        if key not in wanted:
            with at(str(key)):
                raise unknown("key", key, wanted)
    if missing := [key for key in needed if key not in given]:
        raise ValueError(f"the key {missing[0]!r} is missing")
    hints = get_type_hints(cls, include_extras=True)
    return {key: _item(hints[key], value, key) for key, value in given.items()}
