"""Checkpoints: one file that is whole or not there, and that belongs to one set of settings."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from kit.files import atomic

FORMAT = "decoupled-kit checkpoint 1"
LATEST, BEST = "checkpoint.pt", "best.pt"


def save(path: Path, config: Mapping, state: Mapping) -> None:
    """Write `state` (tensors, numbers, strings, containers of them) with the settings it belongs to."""
    with atomic(path) as temporary:
        torch.save({"format": FORMAT, "config": dict(config), **state}, temporary)


def load(path: Path, config: Mapping, device: torch.device) -> dict:
    """Read what `save` wrote. ValueError for a damaged or foreign file, and for one of other settings."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a checkpoint ({reason}). {_WAY_OUT}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of this kit ({FORMAT!r} expected). {_WAY_OUT}")
    check_settings(path, config, state["config"])
    return state


def check_settings(path: Path, config: Mapping, saved: Mapping) -> None:
    """Raise ValueError, naming the differences, unless the checkpoint at `path` was `saved` with these settings."""
    differing = {k for k in {*config, *saved} if config.get(k) != saved.get(k)}
    if differing:
        listed = ", ".join(f"{k}={saved.get(k)!r} there, {config.get(k)!r} now" for k in sorted(differing))
        raise ValueError(f"{path} belongs to a run with other settings: {listed}. {_WAY_OUT}")


_WAY_OUT = "Nothing was changed. Choose another output folder, or move this one away to start anew"
