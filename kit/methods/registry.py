"""The registry object: methods by name, the kit's own and those that users add."""

import inspect
from collections import UserDict
from collections.abc import Callable
from typing import Any

from kit.methods.method import Method, check_objective
from kit.objective import Objective

Builder = Callable[..., Objective]


class Registry(UserDict[str, Method]):
    """Methods by name; `summaries` has a line on each. `register` is the way in, and nothing is taken out."""

    def __init__(self, methods: dict[str, Method]):
        self.summaries: dict[str, str] = {}
        super().__init__(methods)

    def __setitem__(self, name: str, method: Method) -> None:
        super().__setitem__(name, method)
        self.summaries[name] = method.summary

    def register(self, name: str, summary: str = "", source: str = "own", builder: Builder | None = None) -> Any:
        """Add a method, as a decorator of its builder or with it as `builder`; return the builder as it was.

        The builder is an `Objective` subclass, or a function that returns one; it takes a `HeadSpec`, and the method's
        options with their defaults. The same definition run again, as a notebook cell is, replaces itself. Raises
        ValueError for a name that is taken or no word, a builder that takes something else, and an objective without
        `loss` or `readout`.
        """
        if builder is None:
            return lambda builder: self.register(name, summary, source, builder)
        homes = [(f.__module__, f.__qualname__) for f in (self[name].objective, builder)] if name in self else []
        if not name.isidentifier() or len(set(homes)) > 1:
            fault = f"is that of {'.'.join(homes[0])}" if homes else "is no single word"
            raise ValueError(f"method {name!r}: that name {fault}; choose another one")
        if isinstance(builder, type):
            check_objective(name, builder)
        taken = [*inspect.signature(builder).parameters.values()]  # the spec, and the options
        if not taken or any(option.default is option.empty for option in taken[1:]):
            raise ValueError(f"method {name!r}: its builder has to take (spec, option=default, …), unlike {builder}")
        about = summary or (inspect.getdoc(builder) or "a method of one's own").splitlines()[0].rstrip(".")
        self[name] = Method(about, builder, source)
        return builder
