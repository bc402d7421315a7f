"""A bar where somebody watches, one line per epoch where nobody does."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from tqdm.auto import tqdm


class Progress:
    """Shows how far a run is. `KIT_HEADLESS` in the environment means that nobody watches; `quiet` shows nothing."""

    def __init__(self, method: str, num_epochs: int, num_batches: int, quiet: bool = False):
        self.method, self.num_epochs, self.num_batches, self.quiet = method, num_epochs, num_batches, quiet
        self.began = time.perf_counter()
        in_notebook = "ipykernel" in sys.modules and not os.environ.get("KIT_HEADLESS")
        unwatched = quiet or not (sys.stderr.isatty() or in_notebook)
        self.bar = tqdm(total=num_epochs * num_batches, desc=method, unit="step", disable=unwatched)

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
            line = f"{self.method:>10}  epoch {epoch:>3}/{self.num_epochs}  val by exit: {exits}"
            print(f"{line}  {seconds:6.1f} s", flush=True)
        else:
            self.bar.set_postfix_str(f"val {exits}")
