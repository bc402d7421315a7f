"""Checkpoints: a folder with a file for each block, written by whoever owns it, and one for the run.

    FOLDER/checkpoint/step-00000120/         run.pt, block0.pt, …: complete, for only then it gets this name
    FOLDER/checkpoint/.draft.step-00000160/  being written, or left by a killed process; removed at the next start
    FOLDER/checkpoint/best-00000003/         the weights after the best epoch

Any number of processes writes and reads them. Nothing that is read here can run code.
"""

import os
import pickle
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from kit.files import DRAFT, sweep
from kit.train.ends import ALONE

FORMAT = "decoupled-kit checkpoint 2"
_WAY_OUT = "Nothing was changed. Choose another output folder, or move this one away to start anew"


def save(folder: Path, name: str, states: Mapping[str, Mapping], ranks=ALONE) -> None:
    """Write `states`, file by file, as the checkpoint `name` of the run in `folder`; every rank has to call it.

    A state holds tensors, numbers, strings, and containers of them. The rank that `is_main` puts the whole in place and
    removes what it replaces. Raises OSError on every rank if one of them cannot write; the checkpoint before stands.
    """
    home = folder / "checkpoint"
    draft, final, kind = home / f"{DRAFT}{name}", home / name, name.partition("-")[0]
    told = ranks.gather([_write(draft, states), list(states)], "writing a checkpoint")
    failure = next((f" by rank {rank} ({why})" for rank, (why, _) in enumerate(told) if why), "")
    if ranks.is_main:
        lost = [key for _, keys in told for key in keys if not (draft / f"{key}.pt").exists()]
        if lost and not failure:
            failure = f": {', '.join(lost)} went elsewhere. Give a folder that all hosts share"
        if failure or final.exists():  # made anew after a kill, so it is there already, with the same bits
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.rename(final)
        _remove_older(folder, kind)
    failure = ranks.gather(failure, "putting a checkpoint in place")[0]  # nobody begins the next before it is there
    if failure:
        before = latest(folder, kind)
        kept = f"the last complete one is {before}" if before else "there is none before it"
        raise OSError(f"the checkpoint {final} could not be written{failure}; {kept}")


def _write(draft: Path, states: Mapping[str, Mapping]) -> str | None:
    """Write a file for each state, and return why that failed, if it did."""
    try:
        draft.mkdir(parents=True, exist_ok=True)
        for key, state in states.items():
            with (draft / f"{key}.pt").open("wb") as file:
                torch.save({"format": FORMAT, **state}, file)
                os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # the archive's writer turns a full disk into a RuntimeError
        return getattr(error, "strerror", None) or "the system did not take all of it; is the disk full?"
    return None


def _remove_older(folder: Path, kind: str) -> None:
    for old in _complete(folder, kind)[:-1]:
        shutil.rmtree(old)


def load(path: Path, keys: Iterable[str], device: torch.device | str = "cpu") -> list[dict]:
    """Read the states of these keys from a complete checkpoint. Raises ValueError if it is damaged or foreign."""
    return [_read(path / f"{key}.pt", device) for key in keys]


def _read(path: Path, device: torch.device | str) -> dict:
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # compares every part with its checksum, which torch.load does not
                raise ValueError(f"{damaged} does not have the checksum it was written with")
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a checkpoint ({reason}). {_WAY_OUT}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of this kit ({FORMAT!r} expected). {_WAY_OUT}")
    return state


def latest(folder: Path, kind: str = "step") -> Path | None:
    """Return the newest complete checkpoint of the run in `folder`, `step` or `best`, or None."""
    return next(reversed(_complete(folder, kind)), None)


def weights(folder: str | os.PathLike, kind: str = "best") -> dict[str, Tensor]:
    """Return the weights of the run in `folder`, `best` or after the last `step`, for `net.load_state_dict`.

    Raises FileNotFoundError where there are none.
    """
    path = latest(Path(folder), kind)
    if path is None:
        raise FileNotFoundError(f"{folder} holds no {kind} checkpoint: give the folder of a run that has begun")
    (run,) = load(path, ["run"])
    blocks = load(path, [f"block{k}" for k in range(run["num_blocks"])])
    return {f"blocks.{k}.{name}": tensor for k, block in enumerate(blocks) for name, tensor in block["module"].items()}


def sweep_drafts(folder: Path) -> None:
    """Remove checkpoints that killed processes left half written or half removed."""
    sweep(folder / "checkpoint")
    for kind in ("step", "best"):
        _remove_older(folder, kind)


def check_identity(path: Path, identity: Mapping, saved: Mapping) -> None:
    """Raise ValueError, naming the differences, unless the checkpoint at `path` was `saved` by the same run."""
    differing = sorted(k for k in {*identity, *saved} if identity.get(k) != saved.get(k))
    if differing:
        listed = ", ".join(f"{k}={saved.get(k)!r} there, {identity.get(k)!r} now" for k in differing)
        raise ValueError(f"{path} belongs to a run with other settings: {listed}. {_WAY_OUT}")


def _complete(folder: Path, kind: str) -> list[Path]:
    return sorted((folder / "checkpoint").glob(f"{kind}-*"))
