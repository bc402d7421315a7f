"""Files that are either whole or not there, and folders that one run at a time writes into."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

DRAFT = ".draft."
"""How the names of what is not whole yet begin."""
_OF_SYSTEMS = ("__MACOSX", "Thumbs.db", "desktop.ini")


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it into place when the block ends well, remove it when it fails.

    A reader therefore sees the old file or the new one, never half of one, even after `kill -9` or a power cut.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{DRAFT}{secrets.token_hex(4)}.{path.name}")
    draft.touch(exist_ok=False)
    try:
        yield draft
        put(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """Return what lies in `folder`, by name, without what systems put there: hidden files and folders, thumbnails."""
    found = ((path, path.relative_to(folder).parts) for path in sorted(folder.glob(pattern)))
    return [path for path, parts in found if not any(part[0] == "." or part in _OF_SYSTEMS for part in parts)]


def put(draft: Path, path: Path) -> None:
    """Move a finished file into place, whole even after a power cut."""
    with draft.open("rb+") as file:
        os.fsync(file.fileno())
    draft.replace(path)


def sweep(folder: Path) -> None:
    """Remove the drafts, files and folders, that killed processes left in `folder`."""
    for draft in folder.glob(f"{DRAFT}*"):
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Give a folder in `parent` (None: the system's), and remove it at the end, with those that killed processes left.

    Its process holds a lock beside it, and lets go of that when it is killed: what is not locked can be swept.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent.resolve()
    for lock in parent.glob(f"{prefix}.*.lock"):
        with suppress(Timeout, OSError), FileLock(lock, timeout=0):
            _remove(lock)
    lock = parent / f"{prefix}.{secrets.token_hex(4)}.lock"
    with FileLock(lock):
        try:
            (folder := lock.with_suffix("")).mkdir(0o700)
            yield folder
        finally:
            _remove(lock)


def _remove(lock: Path) -> None:
    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    lock.unlink(missing_ok=True)


@contextmanager
def folder_lock(folder: Path | None) -> Iterator[None]:
    """Hold the folder's lock, which a killed process lets go of by itself. ValueError if another run holds it."""
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            sweep(folder)
            yield
    except Timeout as error:
        raise ValueError(f"another run is writing into {folder}: wait for it, or choose another output") from error
