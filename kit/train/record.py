"""What a run was and what it measured, as tidy tables."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

import pandas as pd

from kit.files import atomic
from kit.settings import typed


@dataclass
class History:
    """The record of one run.

    `table` has a row per (step, epoch, split, block, metric, value); blocks (more exactly exits) count from 1. A run
    done again gives the same table. `costs` (epoch, metric, value, unit) has what differs each time: seconds, bytes.
    """

    config: dict
    versions: dict = field(default_factory=lambda: versions())
    rows: list[tuple] = field(default_factory=list)
    cost_rows: list[tuple] = field(default_factory=list)
    noise: dict = field(default_factory=dict)
    """Split → share of its labels that noise really changed, for splits with noise."""

    @property
    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=["step", "epoch", "split", "block", "metric", "value"])

    @property
    def costs(self) -> pd.DataFrame:
        return pd.DataFrame(self.cost_rows, columns=["epoch", "metric", "value", "unit"])

    @typed
    def accuracy(self, split: Literal["val", "test"] = "val") -> pd.DataFrame:
        """Accuracy on `split`, a row per epoch and a column per exit."""
        rows = self.table.query("split == @split and metric == 'accuracy'")
        return rows.pivot(index="epoch", columns="block", values="value")

    @typed
    def last_exit(self, split: Literal["val", "test"] = "val") -> list[float]:
        """Return the accuracy on `split` of each epoch's last exit, epoch by epoch; a net that grows has ever more."""
        found = {e: v for _, e, part, _, metric, v in self.rows if (part, metric) == (split, "accuracy")}
        return [found[epoch] for epoch in sorted(found)]

    def best(self) -> dict[str, float]:
        """The epoch and exit with the highest validation accuracy, the earliest of equals, with both accuracies.

        Chosen on validation only; the test accuracy is what that choice happens to give.
        """
        val, test = self.accuracy("val"), self.accuracy("test")
        epoch, block = val.stack().idxmax()
        accuracies = {"val": float(val.at[epoch, block]), "test": float(test.at[epoch, block])}
        return {"epoch": int(epoch), "block": int(block), **accuracies}

    def exits(self) -> pd.DataFrame:
        """Final accuracies by exit: a row per exit, at the epoch that is best for it on validation."""
        val, test = self.accuracy("val"), self.accuracy("test")
        epochs = val.idxmax()
        rows = [(b, e, val.at[e, b], test.at[e, b]) for b, e in epochs.items()]
        return pd.DataFrame(rows, columns=["block", "epoch", "val", "test"])

    def save(self, folder: str | Path) -> None:
        """Write `history.parquet`, `costs.parquet` and `config.json` (settings, versions, noise) into `folder`."""
        folder = Path(folder)
        for name, table in (("history", self.table), ("costs", self.costs)):
            with atomic(folder / f"{name}.parquet") as path:
                table.to_parquet(path, index=False)
        with atomic(folder / "config.json") as path:
            head = {"config": self.config, "versions": self.versions, "noise_realised": self.noise}
            path.write_text(json.dumps(head, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> History:
        """Read what `save` wrote. Raises FileNotFoundError for a folder without a record."""
        folder = Path(folder)
        if not (folder / "config.json").exists():
            raise FileNotFoundError(f"no run is recorded in {folder}: it has no config.json. Give a run's folder")
        head = json.loads((folder / "config.json").read_text())
        tables = [pd.read_parquet(folder / f"{name}.parquet") for name in ("history", "costs")]
        rows, costs = [list(table.itertuples(index=False, name=None)) for table in tables]
        return cls(head["config"], head["versions"], rows, costs, head.get("noise_realised", {}))


def versions() -> dict[str, str]:
    """Python, packages, machine and the code's revision: what a figure needs beside its settings."""
    found = {name: metadata.version(name) for name in ("torch", "torchvision", "numpy", "pandas")}
    return {"python": sys.version.split()[0], **found, "machine": platform.machine(), "revision": revision()}


def revision() -> str:
    """The commit of the kit's checkout, with `+` where files differ from it; `unknown` outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
