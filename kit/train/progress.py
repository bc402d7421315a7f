"""A bar where somebody watches, one line per epoch where nobody does."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from tqdm.auto import tqdm


class Progress:
    """Shows how far a run is, of which `done` steps were done before.

    `KIT_HEADLESS` in the environment means that nobody watches; `quiet` shows nothing.
    """

    def __init__(self, name: str, num_epochs: int, num_batches: int, done: int = 0, quiet: bool = False):
        self.name, self.num_epochs, self.num_batches, self.quiet = name, num_epochs, num_batches, quiet
        self.began = time.perf_counter()
        in_notebook = "ipykernel" in sys.modules and not os.environ.get("KIT_HEADLESS")
        unwatched = quiet or not (sys.stderr.isatty() or in_notebook)
        total, finished = num_epochs * num_batches, done >= num_epochs * num_batches
        title = f"{name}, finished before" if finished else name
        self.bar = tqdm(total=total, initial=done, desc=title, unit="step", disable=unwatched)
        if finished and unwatched and not quiet:
            print(f"{name:>10}  finished before: all {num_epochs} epochs are in its folder", flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.close()

    def step(self, epoch: int, batch: int) -> None:
        """Say that `batch` batches of epoch `epoch` (from 0) are done."""
        self.bar.update(epoch * self.num_batches + batch - self.bar.n)

    def epoch(self, epoch: int, accuracy: Mapping[str, Sequence[float]]) -> None:
        """Say that epoch `epoch` (from 1) ended with these accuracies of every exit on each split."""
        if self.quiet:
            return
        exits = " ".join(f"{value:.3f}" for value in accuracy["val"])
        if self.bar.disable:
            seconds = time.perf_counter() - self.began
            line = f"{self.name:>10}  epoch {epoch:>3}/{self.num_epochs}  val by exit: {exits}"
            print(f"{line}  {seconds:6.1f} s", flush=True)
        else:
            self.bar.set_postfix_str(f"val {exits}")
