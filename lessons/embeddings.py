"""Embeddings of a fixed sample, block by block and epoch by epoch: recorded while a net trains, read again later."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from kit.files import atomic
from kit.measure import representations
from kit.modules import evaluating
from kit.seeds import generator
from kit.shapes import Shape, average

FORMAT = "decoupled-kit embeddings 1"
FILE = "embeddings.npz"


@dataclass(eq=False)
class Embeddings:
    """Features and answers of every exit of a net, for one sample of images.

    Call it with an epoch and a net to record: `kit.fit(net, data, config, on_epoch=embeddings)`. The features of an
    exit are its stage's output, averaged over the places of a map and the positions of a sequence.
    """

    images: np.ndarray
    """float32 (N, C, H, W) in [0, 1], to look at."""
    inputs: Tensor | None
    """float32 (N, C, H, W), what the net sees; None for embeddings read from a file, which cannot record."""
    labels: np.ndarray
    """int64 (N,), the labels in the data, with noise where there is noise."""
    noisy: np.ndarray
    """bool (N,), whether the label was corrupted."""
    classes: tuple[str, ...]
    about: dict = field(default_factory=dict)
    """What the reader should know: method, dataset, split, …"""
    epochs: Collection[int] | None = None
    """The epochs to record; None records all."""
    features: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    """(epoch, exit) → float32 (N, D); exits count from 1."""
    logits: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    """(epoch, exit) → float32 (N, C)."""

    @torch.no_grad()
    def __call__(self, epoch: int, net: nn.Module) -> None:
        """Record `net` as that epoch's. Changes nothing in it, draws no random number."""
        if self.inputs is None:
            raise ValueError("these embeddings were read from a file: record with sample(data, …)")
        if self.epochs is not None and epoch not in self.epochs:
            return
        self.about.setdefault("method", net.method)
        with evaluating(net):
            for number, visit in enumerate(net.walk(net.signal(self.inputs.to(net.device))), 1):
                shapes = visit.block.shapes
                shape = shapes[visit.stage + 1] if shapes else Shape(visit.h.shape[1:])
                self.features[epoch, number] = average(visit.h, shape).float().cpu().numpy()
                self.logits[epoch, number] = visit.logits().cpu().numpy()

    @property
    def recorded_epochs(self) -> list[int]:
        return sorted({epoch for epoch, _ in self.features})

    @property
    def exits(self) -> list[int]:
        return sorted({number for _, number in self.features})

    def of_epoch(self, epoch: int | None = None) -> list[np.ndarray]:
        """Return the features of every exit at `epoch`, by default the last."""
        epoch = self.recorded_epochs[-1] if epoch is None else epoch
        return [self.features[epoch, number] for number in self.exits]

    def table(self, epochs: Collection[int] | None = None) -> pd.DataFrame:
        """Return epoch, block, metric, value: what `representations` says of every exit, and its accuracy.

        Metrics: effective_rank, class_separation, linear_probe, accuracy, all on the sample and by its labels.
        `epochs` are those to measure, by default all that were recorded.
        """
        rows, epochs = [], self.recorded_epochs if epochs is None else epochs
        for epoch, number in [key for key in sorted(self.features) if key[0] in epochs]:
            z = self.features[epoch, number]
            right = self.logits[epoch, number].argmax(1) == self.labels
            values = {"effective_rank": representations.effective_rank(z), "accuracy": float(right.mean())}
            values["class_separation"] = representations.class_separation(z, self.labels)
            values["linear_probe"] = representations.linear_probe(z, self.labels)
            rows += [(epoch, number, metric, value) for metric, value in values.items()]
        return pd.DataFrame(rows, columns=["epoch", "block", "metric", "value"])

    def save(self, folder: str | Path) -> Path:
        """Write all but the inputs into `folder`/embeddings.npz; ValueError if nothing was recorded."""
        if not self.features:
            raise ValueError("no epoch was recorded, so there are no embeddings to save: had the run ended before?")
        manifest = {"format": FORMAT, "classes": list(self.classes), "about": self.about}
        arrays = {f"features/{e}/{k}": z for (e, k), z in self.features.items()}
        arrays |= {f"logits/{e}/{k}": z for (e, k), z in self.logits.items()}
        path = Path(folder) / FILE
        with atomic(path) as draft:
            np.savez_compressed(
                draft, manifest=np.array(json.dumps(manifest)), images=self.images, labels=self.labels,
                noisy=self.noisy, **arrays,
            )  # fmt: skip
        return path


def sample(
    data,
    split: str = "test",
    num_images: int = 400,
    seed: int = 0,
    epochs: Collection[int] | None = None,
    **about: object,
) -> Embeddings:
    """Return empty embeddings over a fixed sample of a kit dataset's split, drawn by `seed`; call them to record.

    `epochs` are those to record, by default all; `about` goes into the file for its reader. Take `split="train"` to see
    corrupted labels: the others have none. Raises ValueError for fewer images than classes.
    """
    total = len(getattr(data, split))
    if min(num_images, total) < data.num_classes:
        raise ValueError(
            f"{min(num_images, total)} images of {data.num_classes} classes in the {split} split: a sample takes at "
            f"least one of each; raise num_images"
        )
    chosen = torch.randperm(total, generator=generator(seed, "sample"))[:num_images].sort().values
    inputs, labels, first = [], [], 0
    for x, y in data.batches(split, 512):
        rows = chosen[(chosen >= first) & (chosen < first + len(x))] - first
        inputs, labels, first = [*inputs, x[rows]], [*labels, y[rows]], first + len(x)
    x, noisy = torch.cat(inputs), getattr(data, split).noisy
    noisy = torch.zeros(total, dtype=torch.bool) if noisy is None else noisy
    return Embeddings(
        images=data.denormalize(x).numpy(),
        inputs=x,
        labels=torch.cat(labels).numpy(),
        noisy=noisy[chosen].numpy(),
        classes=tuple(data.classes),
        about={"dataset": data.name, "split": split, **about},
        epochs=epochs,
    )


def read_embeddings(folder: str | Path) -> Embeddings:
    """Read what `save` wrote into a run's folder.

    Raises FileNotFoundError for a folder without embeddings, ValueError for a damaged file or another format.
    """
    path = Path(folder) / FILE
    if not path.exists():
        reason = f"it has no {FILE}" if Path(folder).is_dir() else "there is no such folder"
        raise FileNotFoundError(
            f"no embeddings in {folder}: {reason}. Record them with kit.run(config, on_epoch=embeddings.sample(data)) "
            f"and save them into the run's folder"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        manifest = json.loads(str(arrays["manifest"])) if "manifest" in arrays else {}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}): it is damaged. Record the embeddings again") from error
    if manifest.get("format") != FORMAT:
        found = repr(manifest.get("format", "no format at all"))
        raise ValueError(f"{path} has format {found}, but {FORMAT!r} is expected. Record the embeddings again")

    def numbered(kind: str) -> dict[tuple[int, int], np.ndarray]:
        names = [name for name in arrays if name.startswith(f"{kind}/")]
        return {(int(name.split("/")[1]), int(name.split("/")[2])): arrays[name] for name in names}

    return Embeddings(
        images=arrays["images"],
        inputs=None,
        labels=arrays["labels"],
        noisy=arrays["noisy"],
        classes=tuple(manifest["classes"]),
        about=manifest["about"],
        features=numbered("features"),
        logits=numbered("logits"),
    )


def read_runs(folder: str | Path) -> dict[str, Embeddings]:
    """Read the embeddings of a run's folder, or of every run in a folder of runs, by name of the run.

    Raises FileNotFoundError where neither holds any, and what `read_embeddings` raises.
    """
    folder = Path(folder)
    runs = [folder] if (folder / FILE).exists() else sorted(path.parent for path in folder.glob(f"*/{FILE}"))
    return {run.name: read_embeddings(run) for run in runs} or {folder.name: read_embeddings(folder)}
