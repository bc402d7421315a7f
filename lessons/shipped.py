"""What comes with the lessons beside code: the notebooks, and the benchmarks' tables that they show."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

_HOMES = {"notebooks": "notebooks", "measured": "benchmarks/results"}


def shipped(kind: str) -> Path:
    """Return the folder of `notebooks` or of what was `measured`: the repository's, or in a wheel the package's own."""
    inside = Path(__file__).parent.parent / _HOMES[kind]
    return inside if inside.is_dir() else Path(str(files("lessons") / kind))


def copy_lessons(folder: str | Path) -> list[Path]:
    """Copy the notebooks with their solutions and figures into `folder`, and return the notebooks there.

    Copies are one's own: what is run and changed in them marks nothing as changed elsewhere. Raises ValueError where
    `folder` holds something already, so that nobody's work is written over.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is not empty: name a new folder, so that nothing there is written over")
    leave = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "__init__.py")
    shutil.copytree(shipped("notebooks"), target, ignore=leave, dirs_exist_ok=True)
    return sorted(target.rglob("*.ipynb"))
