"""What the registry knows of a method."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from kit.delayed import Delay
from kit.errors import check_name
from kit.objective import HeadSpec, Objective
from kit.settings import confirm_arguments

Last = Literal["pooled", "map"]
"""What the last block's loss reads of a network that pools and classifies: what the pool leaves, or the map before."""


@dataclass(frozen=True)
class Method:
    """A way to train: one line of description, and the builder of one objective from its spec and options."""

    summary: str
    objective: Callable[..., Objective]
    source: str
    end_to_end: bool = False
    """One block for the whole net; the cuts are only watched."""
    delay: Delay | None = None
    """Of nets that one loss at the end trains by gradients that come late: how late, unless the options say so."""

    def build(self, spec: HeadSpec, **options: object) -> Objective:
        """Return the objective of one cut. Raises ValueError for a builder that gives none."""
        built = self.objective(spec, **options)
        check_objective(self.summary, type(built))
        return built

    @property
    def one_loss(self) -> bool:
        """Whether one loss at the end trains the whole net: such a net does not grow."""
        return self.end_to_end or self.delay is not None

    @property
    def options(self) -> dict[str, object]:
        """The method's options with their defaults."""
        own = list(inspect.signature(self.objective).parameters.values())[1:]
        late = {name: value for name, value in vars(self.delay).items() if name != "unlocked"} if self.delay else {}
        return {p.name: p.default for p in own} | late

    def check(self, name: str, options: Mapping[str, object]) -> None:
        """Raise ValueError for an option that the method, called `name`, does not have, or not with that value."""
        for option in options:
            check_name(f"option of method {name!r}:", option, self.options)
        confirm_arguments(self.objective, options)
        if self.delay:
            replace(self.delay, **{option: options[option] for option in vars(self.delay).keys() & options.keys()})


def check_objective(name: str, kind: type) -> None:
    """Raise ValueError unless `kind` is a subclass of Objective with a loss and a readout of its own."""
    if not issubclass(kind, Objective):
        raise ValueError(f"{name}: {kind.__name__} is no kit.objective.Objective: make it a subclass of that")
    if lacks := [part for part in ("loss", "readout") if getattr(kind, part) is getattr(Objective, part)]:
        raise ValueError(f"{name}: {kind.__name__} has no {' and no '.join(lacks)}: see kit.objective.Objective")
