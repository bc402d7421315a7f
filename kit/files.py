"""Files that are either whole or not there, and folders that one run at a time writes into."""

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it into place when the block ends well, remove it when it fails.

    A reader therefore sees the old file or the new one, never half of one, even after `kill -9` or a power cut.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}{path.suffix}")
    draft.touch(exist_ok=False)
    try:
        yield draft
        put(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def put(draft: Path, path: Path) -> None:
    """Move a finished file into place, whole even after a power cut."""
    with draft.open("rb+") as file:
        os.fsync(file.fileno())
    draft.replace(path)


def sweep(folder: Path) -> None:
    """Remove what killed processes left of `atomic`'s drafts in `folder`."""
    for kind in ("json", "parquet", "npz"):
        for draft in folder.glob(f".*.{kind}.????????.{kind}"):
            draft.unlink(missing_ok=True)


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Give a temporary folder, and remove it at the end, with those that killed processes of this machine left."""
    begin = f"{prefix}-{socket.gethostname()}-"
    for left in Path(tempfile.gettempdir()).glob(f"{begin}*-*"):
        number = left.name.removeprefix(begin).partition("-")[0]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{begin}{os.getpid()}-") as folder:
        yield Path(folder)


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
