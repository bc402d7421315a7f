"""What is checked before a run begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kit import data
from kit.net import Net
from kit.train.config import RunConfig


def check(net: Net, loaded: data.Data, config: RunConfig) -> None:
    """Raise ValueError for a net, data and settings that cannot train together."""
    for part in ("train", "val", "test"):
        if len(getattr(loaded, part)) == 0:
            raise ValueError(f"the {part} split of {loaded.name} is empty: raise limit or val_fraction")
    asked = net.views | set(filter(None, config.growth.side if config.growth else ()))
    for view in sorted(asked - set(loaded.views)):
        beside = ", ".join(loaded.views) or "nothing"
        raise ValueError(
            f"the net asks for the view {view!r}, but {loaded.name} carries {beside} beside the input: name it in "
            "views=(input, view, …), or use data.with_views"
        )
    if loaded.num_classes != net.num_classes:
        raise ValueError(f"{loaded.name} has {loaded.num_classes} classes, but the net answers {net.num_classes}")
    for part in ("train", "val", "test"):
        labels = getattr(loaded, part).labels
        for label in (labels.min().item(), labels.max().item()):
            if not 0 <= label < net.num_classes:
                raise ValueError(
                    f"label {label} in the {part} split of {loaded.name}: labels have to be 0 to {net.num_classes - 1}"
                )
    if net.uses_batch_statistics and min(config.batch_size, len(loaded.train)) < 2:
        raise ValueError(
            f"batch_size={config.batch_size} with {len(loaded.train)} training images: "
            "batch norm and batch-wise losses take at least 2 images per step"
        )


def not_finite(block: int, term: str, value: float, config: RunConfig, epoch: int, step: int) -> FloatingPointError:
    """Return the error for a loss term of block number `block` that is no number any more."""
    kept = f" The last good checkpoint is kept in {config.folder}." if config.folder else ""
    return FloatingPointError(
        f"block {block + 1}: its loss term {term!r} became {value} in epoch {epoch + 1}, step {step + 1}.{kept} Try a "
        f"smaller lr (now {config.lr:g}), warm-up or fp32"
    )


@contextmanager
def only_one(folder: Path | None) -> Iterator[None]:
    """Hold the folder's lock, which a killed process lets go of by itself."""
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ValueError(f"another run is writing into {folder}: wait for it, or choose another output") from error
