"""`load_data`: a named dataset, cut into splits, with the label noise asked for."""

import os
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kit.data.dataset import Data, Split
from kit.data.folders import ImageFiles, load_images
from kit.data.noise import check_labels, corrupt
from kit.data.readers import READERS, Raw
from kit.data.stratified import draw
from kit.errors import unknown
from kit.seeds import derive, generator

DATASETS = {  # name -> the augmentation used unless another is named
    "digits": "none",
    "fashion-mnist": "shift-flip",
    "cifar10": "crop-flip",
    "cifar100": "crop-flip",
    "svhn": "shift",
    "stl10": "crop-flip",
    "tiny-imagenet": "crop-flip",
    "imagenet": "resized-crop",
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_data(
    name: str,
    root: str | os.PathLike = "data",
    *,
    val_fraction: float = 0.1,
    limit: int | None = None,
    seed: int = 0,
    noise: str = "none",
    noise_rate: float = 0.0,
    noisy_val: bool = False,
    image_size: int | None = None,
    download: bool = False,
    num_workers: int | None = None,
) -> Data:
    """Load the dataset `name`, one of DATASETS, from the folder `root`.

    The test split is the published one ("digits", which has none: a fixed fifth) and is never cut, limited or noisy.
    From the training images `limit` are drawn, balanced over the classes (None: all); of these the share
    `val_fraction`, stratified by class, becomes the validation split and the rest the training split. `noise`, a kind
    of NOISE, then changes training labels at `noise_rate`, a fraction (see `corrupt`); with `noisy_val` those of the
    validation split too, as for a user who has no clean ones. `seed` draws the subset, the validation split and the
    noise; the seed of a training run is another one, so runs may share one dataset.

    `image_size` resizes images to that many pixels square, bilinear with antialiasing (imagenet: the size of its crops,
    224 unless given). `download=True` lets torchvision fetch what is missing. `num_workers` processes decode imagenet
    (None: one per CPU, at most 8).

    Raises FileNotFoundError naming a file or folder that is missing and how to get it; ValueError for an unknown name,
    a damaged file, labels out of range, or a limit, fraction or noise that cannot be met.
    """
    if name not in READERS:
        raise unknown("dataset", name, READERS)
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction={val_fraction:g}, but it must lie between 0 and 1, both excluded, e.g. 0.1")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size={image_size}, but images have at least 1 pixel; None keeps their own size")
    raw = READERS[name](Path(root).expanduser().absolute(), download)
    check_labels(raw.train_labels, len(raw.classes), f"{name}, training labels")
    check_labels(raw.test_labels, len(raw.classes), f"{name}, test labels")
    train, val = _cut(name, raw, val_fraction, limit, seed)
    images = [_ready(name, part, image_size) for part in (train.images, val.images, raw.test_images)]
    train, val = replace(train, images=images[0]), replace(val, images=images[1])
    mean, std = _statistics(images[0])
    return Data(
        name=name,
        train=_with_noise(train, len(raw.classes), noise, noise_rate, seed),
        val=_with_noise(val, len(raw.classes), noise, noise_rate, derive(seed, "validation")) if noisy_val else val,
        test=Split(images[2], raw.test_labels),
        shape=tuple(images[0].shape[1:]) if isinstance(images[0], Tensor) else (3, images[0].size, images[0].size),
        classes=raw.classes,
        mean=mean,
        std=std,
        augmentation=DATASETS[name],
        num_workers=min(8, os.cpu_count() or 1) if num_workers is None else num_workers,
    )


def _cut(name: str, raw: Raw, val_fraction: float, limit: int | None, seed: int) -> tuple[Split, Split]:
    """Draw the subset and cut it into the training and the validation split."""
    labels, num_classes = raw.train_labels, len(raw.classes)
    keep = torch.arange(len(labels))
    if limit is not None:
        if limit > len(labels):
            raise ValueError(f"limit={limit}, but {name} has only {len(labels)} training images; None takes them all")
        if limit < 2 * num_classes:
            raise ValueError(
                f"limit={limit} is too small for {name}: its {num_classes} classes need at least "
                f"{2 * num_classes}, two images each"
            )
        keep, _ = draw(labels, limit, generator(seed, "subset"), proportional=False)
    count = round(len(keep) * val_fraction)
    if not 0 < count < len(keep):
        empty, way = ("validation", "raise") if count == 0 else ("training", "lower")
        raise ValueError(f"val_fraction={val_fraction:g} leaves no {empty} image of {len(keep)}; {way} it")
    val, train = draw(labels[keep], count, generator(seed, "validation"), proportional=True)
    return tuple(Split(_select(raw.train_images, rows), labels[rows]) for rows in (keep[train], keep[val]))


def _with_noise(split: Split, num_classes: int, kind: str, rate: float, seed: int) -> Split:
    """Return the split with the noise asked for, and the mask of the labels that changed."""
    noisy, mask = corrupt(split.labels, num_classes, kind, rate, seed, split.images)
    return split if kind == "none" else Split(split.images, noisy, mask, split.labels)


def _select(images: Tensor | ImageFiles, rows: Tensor) -> Tensor | ImageFiles:
    return images[rows] if isinstance(images, Tensor) else images.subset(rows)


def _ready(name: str, images: Tensor | ImageFiles, size: int | None) -> Tensor | ImageFiles:
    """Read images that fit into memory, and bring them to `size`; imagenet stays files."""
    if name == "imagenet":
        return ImageFiles(images.paths, size or images.size)
    images = images if isinstance(images, Tensor) else load_images(images)
    return images if size is None else _resize(images, size)


def _resize(images: Tensor, size: int) -> Tensor:
    if images.shape[2:] == (size, size):
        return images
    parts = images.split(2000)  # as floats, all at once would need four times the memory
    resized = (F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True) for part in parts)
    return torch.cat([part.round_().clamp_(0, 255).to(torch.uint8) for part in resized])


def _statistics(images: Tensor | ImageFiles) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, each float32 (C,) in units of [0, 1]; ImageNet's usual ones for files."""
    if not isinstance(images, Tensor):
        return torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    histogram = torch.stack([channel.flatten().bincount(minlength=256) for channel in images.unbind(1)]).double()
    share = histogram / histogram.sum(1, keepdim=True)
    level = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ level
    std = (share @ level.square() - mean.square()).clamp(min=0).sqrt()
    return mean.float(), torch.where(std < 1e-6, 1, std).float()
