"""The one place that words "no such name" for the whole kit."""

import difflib
from collections.abc import Iterable


def unknown(kind: str, given: object, allowed: Iterable[str]) -> ValueError:
    """Return the error for a name that is not among `allowed`, with the nearest one suggested.

    >>> unknown("method", "deinforg", ["bp", "deinforeg"])
    ValueError("unknown method 'deinforg': did you mean 'deinforeg'? Choose one of bp, deinforeg")
    """
    names = [str(name) for name in allowed]
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    choice = f"Choose one of {', '.join(names)}" if names else "There is nothing to choose from"
    return ValueError(f"unknown {kind} {given!r}: {hint}{choice}")


def check_name(kind: str, given: object, allowed: Iterable[str]) -> None:
    """Raise the error of `unknown` unless the name is allowed."""
    if given not in (names := list(allowed)):
        raise unknown(kind, given, names)
