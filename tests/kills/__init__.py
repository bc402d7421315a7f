"""Kills aimed at every point where a file is renamed or removed, and what must be so after each."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
HOOK = Path(__file__).with_name("sitecustomize.py")


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of processes that have `folder`/temporary for theirs, and that `alive` finds by it."""
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    paths = os.pathsep.join(map(str, (HOOK.parent, ROOT)))
    return os.environ | {"PYTHONPATH": paths, "TMPDIR": str(temporary), "KIT_TEST": str(folder), "OMP_NUM_THREADS": "1"}


def alive(folder: Path) -> list[str]:
    """Return the command lines of the processes started in `environment(folder)`, or by one that was."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("KIT_TEST") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:  # another user's, or gone
            continue
    return found


def none_alive(folder: Path, seconds: float = 5) -> None:
    """Wait until no process is alive, at most that long; AssertionError, naming them, if there is one then."""
    end = time.monotonic() + seconds
    while (left := alive(folder)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left, left


def starts(command: list[str], folder: Path, pattern: str, **options: object) -> Iterator[subprocess.CompletedProcess]:
    """Start the command until no new call on a path with `pattern` ends it, and give what each start came to.

    AssertionError if one leaves a process alive.
    """
    points, count = folder / "points", -1
    points.touch()
    aimed = environment(folder) | {"KIT_KILL": pattern, "KIT_KILLED": str(points)}
    while len(points.read_text().splitlines()) > count:
        count = len(points.read_text().splitlines())
        yield subprocess.run(command, env=aimed, capture_output=True, text=True, **options)
        none_alive(folder)


def tree(folder: Path) -> set[str]:
    """Return every file and folder below, by its path there."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
