"""`python -m workflow.batch paper EXPERIMENT`: published figures, and what was measured where there is a record."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from workflow import results
from workflow.experiment import FOLDER, read
from workflow.schema import Experiment


def answers() -> dict[tuple[str, str, str, str, str], tuple[str, str]]:
    """Return, for every figure that a cell answers, the experiment and the cell, without its seed.

    Figures are told by (source, dataset, backbone, method, setting).
    """
    found = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        experiment = read(path, checked=True)
        cells = results.answers(experiment)
        for entry in experiment.published:
            for figure, cell in cells.items():
                found[(entry.source, *figure)] = experiment.name, cell["name"]
    return found


def beside(experiment: Experiment, batch: Path) -> pd.DataFrame:
    """Return the experiment's published figures and what was measured, mean and median over seeds, side by side."""
    table, _ = results.join(experiment, batch)
    values = results.measures(experiment, table) if len(table) else pd.DataFrame()
    numbers = results.summary(experiment, values) if len(values) else pd.DataFrame()
    return results.published(experiment, numbers)


def print_paper(experiment: Experiment, batch: Path) -> None:
    """Print the figures side by side, and in which points the cells differ from what was published."""
    found = beside(experiment, batch)
    if found.empty:
        print(f"{experiment.name}: no published figure stands beside it")
        return
    columns = ["dataset", "backbone", "method", "setting", "metric", "paper says", "we measured"]
    print(found[columns].to_string(index=False))
    for text in dict.fromkeys(found["differs in"]):
        print(f"differs in: {text}")
