"""A wrong input: what is given, the words that its refusal must hold, and the call."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple


class Case(NamedTuple):
    given: str
    """The call as one would write it."""
    words: str
    """What the message must hold; parts that stand apart are separated by …"""
    call: Callable[[], object]


def settings(name: str, make: Callable, table: Mapping[str, list], **others: object) -> Iterator[Case]:
    """Give a case for each value of each setting of `make(setting=value)`: the message names the setting."""
    for setting, values in table.items():
        for value in values:
            given = f"{name}({setting}={value!r})"
            yield Case(given, setting.removesuffix("s"), lambda s=setting, v=value: make(**others | {s: v}))
