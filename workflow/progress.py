"""How far a batch is: the cells that are done, running, failed and left, and the time that these may take."""

import json
from pathlib import Path

from filelock import FileLock, Timeout

from workflow.schema import Experiment


def held(lock: Path) -> bool:
    """Say whether a process holds the lock."""
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def status(experiment: Experiment, batch: Path) -> dict[str, list[str]]:
    """Return the cells that are done, running, failed and left."""
    found: dict[str, list[str]] = {"done": [], "running": [], "failed": [], "left": []}
    for name in experiment.cells():
        if (batch / "cells" / name / "result.parquet").exists():
            found["done"].append(name)
        elif held(batch / "work" / name / ".cell-lock"):
            found["running"].append(name)
        elif (batch / "work" / name / "notebook.failed.ipynb").exists():
            found["failed"].append(name)
        else:
            found["left"].append(name)
    return found


def print_status(experiment: Experiment, batch: Path) -> None:
    found = status(experiment, batch)
    print(f"{experiment.name} in {batch}: " + ", ".join(f"{len(cells)} {kind}" for kind, cells in found.items()))
    for name in found["failed"]:
        print(f"  failed: {name}: see {batch / 'work' / name / 'notebook.failed.ipynb'}")
    seconds = [json.loads(p.read_text())["seconds"] for p in (batch / "work").glob("*/done.json")]
    each = sum(seconds) / len(seconds) if seconds else 60 * experiment.minutes
    jobs = max(1, len(found["running"]))
    left = each * (len(found["left"]) + len(found["failed"]) + len(found["running"]) / 2) / jobs
    basis = f"measured on {len(seconds)}" if seconds else "the experiment file's guess"
    print(f"expected: {left / 60:.0f} more minutes, {jobs} at a time ({each:.0f} s a cell, {basis})")
