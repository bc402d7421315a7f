"""Files that are either whole or not there, and folders that one run at a time writes into."""

import errno
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it into place when the block ends well, remove it when it fails.

    A reader therefore sees the old file or the new one, never half of one, even after `kill -9` or a power cut. Raises
    OSError, saying how much room there is, where a disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}{path.suffix}")
    try:
        draft.touch(exist_ok=False)
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OSError(f"{path} could not be written ({why_not_written(error, path.parent)})") from error
    finally:
        draft.unlink(missing_ok=True)


def why_not_written(error: Exception, folder: Path) -> str:
    """Return why nothing could be written into `folder`, in words: not every writer has any for a full disk."""
    reason = os.strerror(error.errno) if getattr(error, "errno", None) else "the system did not take all of it"
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return f"{reason}; {shutil.disk_usage(there).free / 2**20:.1f} MiB are free in {there}"


def sweep(folder: Path) -> None:
    """Remove what killed processes left of `atomic`'s drafts in `folder`."""
    for kind in ("json", "parquet", "npz"):
        for draft in folder.glob(f".*.{kind}.????????.{kind}"):
            draft.unlink(missing_ok=True)


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Give a temporary folder that only this user can read, and remove it at the end.

    Those of the same prefix that killed processes of this machine left are removed first: their names tell whose.
    """
    begin = f"{prefix}-{socket.gethostname()}-"
    for left in Path(tempfile.gettempdir()).glob(f"{begin}*"):
        with suppress(ValueError, PermissionError):  # not one of ours, or another user's
            try:
                os.kill(int(left.name.removeprefix(begin).partition("-")[0]), 0)
            except ProcessLookupError:
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
