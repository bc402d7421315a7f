"""Checkpoints of a run over several ranks: each writes its blocks, any number of ranks can read them.

    folder/checkpoint/step-00000120/    complete, for only then it gets this name
    folder/checkpoint/.step-00000160/   being written, or left by a rank that was killed; removed at the next start

`torch.distributed.checkpoint` writes and reads. A state is taken apart into its tensors, each an entry of its own,
and an outline that says where they belong.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kit.pipeline.exceptions import waiting

FOLDER = "checkpoint"
_MARK = "a tensor of this name, shape, strides and type"


def save(folder: Path, name: str, states: Mapping[str, Any], main: bool) -> None:
    """Write the states of all ranks as `folder/name`, whole or not at all; every rank has to call it.

    `main` is True on one rank, the one that puts the result in place and removes what it replaces. Raises OSError if
    any rank cannot write; the checkpoint before stands.
    """
    import torch.distributed.checkpoint as dcp  # it takes over a second, so only where there is something to write
    from torch.distributed.checkpoint.api import CheckpointException

    draft, final = folder / f".{name}", folder / name
    entries: dict[str, Tensor] = {}
    for key, state in states.items():
        entries[f"{key}/outline"] = _to_bytes(_take_apart(state, key, entries))
    try:
        with waiting("writing a checkpoint with all ranks"):
            dcp.save(entries, storage_writer=dcp.FileSystemWriter(draft))
    except CheckpointException as error:
        if main:
            shutil.rmtree(draft, ignore_errors=True)
        rank, (cause, _) = min(error.failures.items())
        before = latest(folder, name.partition("-")[0])
        kept = f"the last complete one is {before}" if before else "there is none before it"
        raise OSError(f"the checkpoint {final} could not be written by rank {rank} ({cause}); {kept}") from error
    if main:
        draft.rename(final)
        for old in _complete(folder, name.partition("-")[0])[:-1]:
            shutil.rmtree(old)


def load(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    """Read the states of these keys from a complete checkpoint. Raises ValueError if it is damaged."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        sizes = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
        outlines = {f"{key}/outline": torch.empty(sizes[f"{key}/outline"].size, dtype=torch.uint8) for key in keys}
        dcp.load(outlines, storage_reader=dcp.FileSystemReader(path), no_dist=True)
        states = {key: _from_bytes(outlines[f"{key}/outline"]) for key in keys}
        tensors: dict[str, Tensor] = {}
        states = {key: _put_together(state, tensors) for key, state in states.items()}
        dcp.load(tensors, storage_reader=dcp.FileSystemReader(path), no_dist=True)
    except (CheckpointException, OSError, RuntimeError, KeyError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {error}). Nothing was changed. Choose "
            "another output folder, or move this one away to start anew"
        ) from error
    return states


def latest(folder: Path, prefix: str) -> Path | None:
    """Return the newest complete checkpoint of that kind, or None."""
    return next(reversed(_complete(folder, prefix)), None)


def sweep(folder: Path) -> None:
    """Remove what killed ranks left half done: checkpoints, and the temporary files of `kit.files.atomic`."""
    for draft in (folder / FOLDER).glob(".*-*"):
        shutil.rmtree(draft)
    for kind in ("json", "parquet", "pt"):
        for file in folder.glob(f".*.{kind}.*.{kind}"):
            file.unlink()


def remove(folder: Path) -> None:
    """Remove the run's checkpoint folder, once `checkpoint.pt` holds all of it."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _complete(folder: Path, prefix: str) -> list[Path]:
    return sorted(folder.glob(f"{prefix}-*"))


def _take_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value.detach()
        return (_MARK, name, tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, Mapping):
        return {key: _take_apart(item, f"{name}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_take_apart(item, f"{name}/{i}", tensors) for i, item in enumerate(value))
    return value


def _put_together(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the state with empty tensors in their places, which are noted in `tensors` to be filled."""
    if isinstance(value, tuple) and value[:1] == (_MARK,):
        _, name, shape, stride, dtype = value
        tensors[name] = torch.empty_strided(shape, stride, dtype=dtype)
        return tensors[name]
    if isinstance(value, dict):
        return {key: _put_together(item, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_put_together(item, tensors) for item in value)
    return value


def _to_bytes(outline: Any) -> Tensor:
    buffer = io.BytesIO()
    torch.save(outline, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _from_bytes(data: Tensor) -> Any:
    return torch.load(io.BytesIO(data.numpy().tobytes()), weights_only=True)
