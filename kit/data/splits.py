"""Which data, and how they are seen: the settings, and the splits that are made by them of what was read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor

from kit.data.augment import AUGMENTATIONS
from kit.data.image_files import ImageFiles
from kit.data.noise import check_noise, corrupt
from kit.data.own import known_dataset
from kit.data.stratified import apart, stratified
from kit.data.text_files import TEXT_DATASETS, Texts
from kit.data.tokens import encode, text_views, vocabulary, warn_of_unreadable, word_vectors
from kit.data.views import VIEWS, View
from kit.devices import available
from kit.errors import check_name
from kit.losses import check_class_numbers
from kit.seeds import derive, generator
from kit.settings import Count, Folder, Share, check, one_of

SCALINGS = {
    "measured": None,
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "tiny-imagenet": ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
    "infopro": ((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)),
    "half": ((0.5,) * 3, (0.5,) * 3),
}
"""Mean and deviation of RGB in published code: of DeInfoReg, DGL, SCPL and FDG (whose deviations of cifar10 are smaller
than the data's); infopro, and half for SVHN and STL-10, of InfoPro and ContSup."""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """A named dataset: what is taken of it and how it is seen. Raises ValueError for a setting that cannot be."""

    dataset: Annotated[str, AfterValidator(known_dataset), Field(description="the name of a dataset")] = "digits"
    """Name of a dataset of `kit.data.DATASETS`, or one's own: `folder:PATH` or `table:FILE` (see `kit.data.own`)."""
    root: Folder = "data"
    """Folder of the datasets."""
    image_size: Count | None = None
    """Side in pixels to which images are resized; None leaves them."""
    limit: Count | None = None
    """Number of training and validation images to keep, balanced over classes; None keeps all."""
    val_fraction: Share = 0.1
    """Share of the training images kept aside for validation, between 0 and 1."""
    data_seed: int = 0
    """Seed of the subset, the validation split and the label noise: the same for every training `seed`."""
    augment: Annotated[str, one_of("augmentation", AUGMENTATIONS.keys)] | None = None
    """Augmentation recipe; None is the dataset's own."""
    classes_per_batch: Count | None = None
    """Of how many classes most training batches are, as PredSim trains where asked; None draws from all."""
    scaling: Annotated[str, one_of("input scaling", lambda: SCALINGS)] = "measured"
    """Mean and standard deviation that inputs are scaled by: the training images' own, or those of published code."""
    noise: str = "none"
    """Model of the label noise put on training labels."""
    noise_rate: float = 0.0
    """Probability, in [0, 1], that the noise touches a label."""
    noisy_val: bool = False
    """Whether validation labels get the noise too, as for a user who has no clean ones; test labels never do."""
    max_tokens: Count | None = None
    """Words of a text that are read; None takes 350, of ag-news and stdlib 60."""
    vocabulary: Count = 30_000
    """Most words that the vocabulary has; what it lacks are unknown words."""
    vectors: Folder | None = None
    """A text file of word vectors, as GloVe's, to begin with; None learns all of them."""
    views: Sequence[Annotated[str, Field(description="the name of a view")]] | None = None
    """What of an image the network's input shows, and the further views that are carried along for blocks that ask for
    them, such as `("top", "bottom")`: see `kit.data.VIEWS`. None is the image. Of tables, prefixes of columns; of texts
    `firstN` and `afterN` words, fields, and `whole`."""

    def __post_init__(self) -> None:
        check(self)
        check_noise(self.noise, self.noise_rate)
        of_texts = self.dataset in TEXT_DATASETS or self.dataset.startswith("text:")
        of_images = not of_texts and not self.dataset.startswith("table:")
        if (self.max_tokens or self.vectors) and not of_texts:
            raise ValueError(f"max_tokens and vectors are of texts, and {self.dataset} has none: leave them out")
        if self.image_size and not of_images:
            raise ValueError(f"image_size={self.image_size}, but {self.dataset} has no images: leave it out")
        for view in self.views or () if of_images else ():
            check_name("view", view, VIEWS)
        if self.views and len(set(self.views)) < len(self.views):
            raise ValueError(f"views={list(self.views)!r}, but every view is named once")

    def data_identity(self) -> dict:
        """Return all that decides which data are loaded, as plain JSON values: not from where, nor how augmented."""
        not_data = ("root", "augment", "classes_per_batch")
        own = {f.name: getattr(self, f.name) for f in fields(DataSettings) if f.name not in not_data}
        return json.loads(json.dumps(own))


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images and labels of one split. Raises ValueError if their numbers differ."""

    images: Tensor | ImageFiles | Texts
    """uint8 (N, C, H, W), or for imagenet a lazy torch Dataset of N images; of a table float32 (N, F), of texts word
    numbers int32 (N, T), 0 behind their ends."""
    labels: Tensor
    """int64 (N,) in 0..C-1; of the training split, and of the validation split if asked, with noise."""
    noisy: Tensor | None = None
    """bool (N,), True where noise really changed the label; None where no noise was asked for."""
    clean_labels: Tensor | None = None
    """int64 (N,), the labels before noise; equal to `labels` where there is none."""

    def __post_init__(self):
        if self.clean_labels is None:
            object.__setattr__(self, "clean_labels", self.labels)
        sizes = [len(part) for part in (self.images, self.labels, self.clean_labels)]
        if len(set(sizes)) > 1:
            raise ValueError(f"a split needs as many labels as images, but images, labels, clean_labels are {sizes}")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self)} images)"

    def to(self, device: torch.device | str) -> "Split":
        """Return the split with its tensors on `device`; images that are not in memory stay files."""
        device = available(device)
        return replace(self, **{name: part.to(device) for name, part in vars(self).items() if torch.is_tensor(part)})


def prepared(
    name: str, train: tuple, test: tuple, val: tuple | None, classes: tuple[str, ...], settings: DataSettings,
    augmentation: str = "none", views: Mapping[str, View] = VIEWS,
) -> dict[str, Any]:  # fmt: skip
    """Return the fields of a `Data`: pairs (x, y) that were read, cut, noised and scaled as the settings ask."""
    for part, (_, labels) in {"training": train, "validation": val or train, "test": test}.items():
        check_class_numbers(labels, len(labels), len(classes), f"{name}, {part} labels")
    seed, published, words = settings.data_seed, Split(*train), ()
    splits = *((published, Split(*val)) if val else _cut(published, name, len(classes), settings)), Split(*test)
    if isinstance(published.images, Texts):
        (train, val, test), words, vectors = _encoded(splits, name, settings)
        known = {"known_views": text_views([*published.images.fields], settings.views or ()), "vectors": vectors}
        mean, std = torch.zeros(1), torch.ones(1)
    else:
        train, val, test = (replace(split, images=_ready(split.images, settings.image_size)) for split in splits)
        known, (mean, std) = {"known_views": {**VIEWS, **views}}, _scaling(settings.scaling, train.images)
    train = _with_noise(train, len(classes), settings, seed)
    if settings.noisy_val:
        val = _with_noise(val, len(classes), settings, derive(seed, "validation"))
    shape, augmentation = tuple(train.images.shape[1:]), settings.augment or augmentation
    if len(shape) == 1 and augmentation != "none":
        kind = "texts" if words else "rows of numbers"
        raise ValueError(f"augment={augmentation!r} is of images, and {name} has {kind}: leave it out")
    known |= {"name": name, "train": train, "val": val, "test": test, "shape": shape, "classes": classes}
    return known | {"mean": mean, "std": std, "augmentation": augmentation, "words": words}


def _encoded(splits: Sequence[Split], name: str, settings: DataSettings) -> tuple[list[Split], tuple, Tensor | None]:
    """Return the splits of texts as numbers, their words, found in the first, and the words' vectors, if any."""
    if settings.noise == "instance":
        raise ValueError("noise='instance' compares images, and these are texts: choose another kind")
    words = vocabulary(splits[0].images, settings.vocabulary)
    length = settings.max_tokens or (60 if settings.dataset in ("ag-news", "stdlib") else 350)
    tokens = [encode(split.images, words, length) for split in splits]
    longest = max(rows.shape[1] for rows in tokens)
    tokens = [F.pad(rows, (0, longest - rows.shape[1])) for rows in tokens]
    for rows, part in zip(tokens, ("training", "validation", "test"), strict=True):
        warn_of_unreadable(rows, f"{name}, {part}")
    file = settings.vectors and Path(settings.vectors).expanduser()
    vectors = word_vectors(file, words, generator(settings.data_seed, "vectors")) if file else None
    return [replace(s, images=rows) for s, rows in zip(splits, tokens, strict=True)], words, vectors


def _cut(split: Split, name: str, num_classes: int, settings: DataSettings) -> tuple[Split, Split]:
    """Draw the subset and cut it into the training and the validation split.

    Each draw has a generator of its own, so that it is the same whatever the others are asked for.
    """
    limit, rows = settings.limit, torch.arange(len(split))
    if limit is not None:
        if limit > len(split):
            raise ValueError(f"limit={limit}, but {name} has only {len(split)} training images; None takes them all")
        if limit < 2 * num_classes:
            need = f"its {num_classes} classes need at least {2 * num_classes}, two images each"
            raise ValueError(f"limit={limit} is too small for {name}: {need}")
        rows, _ = stratified(split.labels, limit, generator(settings.data_seed, "subset"), proportional=False)
    count = round(len(rows) * settings.val_fraction)
    if not 0 < count < len(rows):
        empty, way = ("validation", "raise") if count == 0 else ("training", "lower")
        raise ValueError(f"val_fraction={settings.val_fraction:g} leaves no {empty} image of {len(rows)}; {way} it")
    draws = generator(settings.data_seed, "validation")
    if isinstance(split.images, Texts) and split.images.groups:
        val, train = apart(split.labels[rows], split.images[rows].groups, count, draws)
    else:
        val, train = stratified(split.labels[rows], count, draws, proportional=True)
    return tuple(Split(split.images[part], split.labels[part]) for part in (rows[train], rows[val]))


def _with_noise(split: Split, num_classes: int, settings: DataSettings, seed: int) -> Split:
    if settings.noise == "none":
        return split
    labels, changed = corrupt(split.labels, num_classes, settings.noise, settings.noise_rate, seed, split.images)
    return replace(split, labels=labels, noisy=changed)


def _ready(images: Tensor | ImageFiles, size: int | None) -> Tensor | ImageFiles:
    """Read images that fit into memory, and bring them to `size`; imagenet stays files."""
    if isinstance(images, ImageFiles):
        if images.size is not None:
            return replace(images, size=size or images.size)
        images = images.load()
    if size is None or images.ndim == 2 or images.shape[2:] == (size, size):
        return images
    parts = images.split(2000)  # as floats, all at once would need four times the memory
    resized = (F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True) for part in parts)
    return torch.cat([part.round_().clamp_(0, 255).to(torch.uint8) for part in resized])


def _scaling(name: str, images: Tensor | ImageFiles) -> tuple[Tensor, Tensor]:
    if SCALINGS[name] is None:
        return _statistics(images)
    if images.shape[1] != 3:
        raise ValueError(f"scaling={name!r} is of RGB, but there are {images.shape[1]} channel(s): use 'measured'")
    return tuple(map(torch.tensor, SCALINGS[name]))


def _statistics(images: Tensor | ImageFiles) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation: float32 (C,) in units of [0, 1], of a table (F,); ImageNet's for files."""
    if isinstance(images, Tensor) and images.ndim == 2:
        mean, std = images.double().mean(0), images.double().std(0, correction=0)
        return mean.float(), torch.where(std < 1e-12, 1, std).float()
    if not isinstance(images, Tensor):
        return torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    histogram = torch.stack([channel.flatten().bincount(minlength=256) for channel in images.unbind(1)]).double()
    share = histogram / histogram.sum(1, keepdim=True)
    level = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ level
    std = (share @ level.square() - mean.square()).clamp(min=0).sqrt()
    return mean.float(), torch.where(std < 1e-6, 1, std).float()
