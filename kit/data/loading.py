"""`load_data`: a named dataset, cut into splits, with the label noise and the views that the settings ask for."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor

from kit.data.augment import AUGMENTATIONS
from kit.data.dataset import Data, Split
from kit.data.image_files import ImageFiles
from kit.data.noise import check_labels, check_noise, corrupt
from kit.data.own import SOURCES, checked_pair, known_dataset, set_aside
from kit.data.readers import DATASETS
from kit.data.stratified import apart, stratified
from kit.data.text_files import TEXT_DATASETS, Texts
from kit.data.tokens import encode, text_views, vocabulary, warn_of_unreadable, word_vectors
from kit.data.views import VIEWS, View
from kit.errors import unknown
from kit.seeds import derive, generator
from kit.settings import Count, Folder, Share, Whole, accept, check, confirm, one_of

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
    augment: one_of("augmentation", AUGMENTATIONS.keys) | None = None
    """Augmentation recipe; None is the dataset's own."""
    classes_per_batch: Count | None = None
    """Of how many classes most training batches are, as PredSim trains where asked; None draws from all."""
    scaling: one_of("input scaling", lambda: SCALINGS) = "measured"
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
        for view in self.views or ():
            if view not in VIEWS and self.of_images:
                raise unknown("view", view, VIEWS)
        if self.views and len(set(self.views)) < len(self.views):
            raise ValueError(f"views={list(self.views)!r}, but every view is named once")

    @property
    def of_images(self) -> bool:
        """Whether the dataset is one of images."""
        name, kind = self.dataset, self.dataset.partition(":")[0]
        return name not in TEXT_DATASETS and (name in DATASETS or kind == "folder")

    def data_identity(self) -> dict:
        """Return all that decides which data are loaded, as plain JSON values: not from where, nor how augmented."""
        not_data = ("root", "augment", "classes_per_batch")
        own = {f.name: getattr(self, f.name) for f in fields(DataSettings) if f.name not in not_data}
        return json.loads(json.dumps(own))


def load_data(
    name: str | DataSettings, root: Folder = "data", *, download: bool = False, num_workers: Whole | None = None,
    seed: int = 0, **others: object,
) -> Data:  # fmt: skip
    """Load a dataset by name, one of DATASETS, from the folder `root`; or the one that settings, as a config, describe.

    One's own data are named `folder:PATH` or `table:FILE`: see `kit.data.own`.

    `others` are the further settings of `DataSettings`, such as `limit` or `noise`. `seed` is its `data_seed`: the seed
    of a training run is another one, so runs may share one dataset.

    The test split is the published one ("digits", which has none: a fixed fifth) and is never cut, limited or noisy. Of
    the training images that `limit` leaves, the share `val_fraction`, stratified by class, becomes the validation split
    and the rest the training split. Images are resized bilinearly with antialiasing; imagenet's `image_size` is that of
    its crops, 224 unless given. `download=True` fetches what is missing. `num_workers` processes decode imagenet
    (None: one per CPU, at most 8).

    Raises FileNotFoundError naming a file or folder that is missing and how to get it; ValueError for settings that
    cannot be, a damaged file, labels out of range, or a limit, fraction or noise that these data cannot meet.
    """
    confirm("download", download, bool)
    confirm("num_workers", num_workers, Whole | None)
    settings = name
    if not isinstance(name, DataSettings):
        given = {"dataset": name, "root": root, "data_seed": seed}
        settings = DataSettings(**given | accept("setting", others, DataSettings))
    kind, _, path = settings.dataset.partition(":")
    read, augmentation = DATASETS.get(settings.dataset) or (partial(SOURCES[kind], path, settings.image_size), "none")
    train, test, classes, *views = read(Path(settings.root).expanduser().absolute(), download)
    data = _assemble(settings.dataset, train, test, None, classes, settings, augmentation, num_workers, *views)
    return replace(data, origin=settings.data_identity() | {"fingerprint": data.fingerprint()})


def data_of(
    train: tuple, test: tuple | None, val: tuple | None, classes: Sequence[str] | None, name: str, **others: object
) -> Data:
    """Return arrays as a dataset: `Data.of`, which calls this."""
    settings = DataSettings(**accept("setting", others, DataSettings))
    given = {"train": train, "test": test, "val": val}
    pairs = {what: checked_pair(part, what) for what, part in given.items() if part is not None}
    shapes = {what: tuple(x.shape[1:]) for what, (x, _) in pairs.items()}
    if len({*shapes.values()}) > 1:
        raise ValueError(f"samples differ in shape between the splits: {shapes}")
    names = range(1 + max(int(y.max()) for _, y in pairs.values())) if classes is None else classes
    train, test = (pairs["train"], pairs["test"]) if test is not None else set_aside(*pairs["train"])
    return _assemble(name, train, test, pairs.get("val"), tuple(map(str, names)), settings, "none", 0)


def _assemble(
    name: str, train: tuple, test: tuple, val: tuple | None, classes: tuple[str, ...], settings: DataSettings,
    augmentation: str, num_workers: int | None, views: Mapping[str, View] = VIEWS,
) -> Data:  # fmt: skip
    """Cut what was read into splits, and put on them the noise, the size and the views that are asked for."""
    for part, (_, labels) in (("training", train), ("test", test)):
        check_labels(labels, len(classes), f"{name}, {part} labels")
    seed, published = settings.data_seed, Split(*train)
    splits = *((published, Split(*val)) if val else _cut(published, name, len(classes), settings)), Split(*test)
    words, vectors = (), None
    if isinstance(published.images, Texts):
        (train, val, test), words, vectors = _encoded(splits, name, settings)
        views, mean, std = text_views([*published.images.fields], settings.views or ()), torch.zeros(1), torch.ones(1)
    else:
        train, val, test = (replace(split, images=_ready(split.images, settings.image_size)) for split in splits)
        mean, std = _scaling(settings.scaling, train.images)
    train = _with_noise(train, len(classes), settings, seed)
    if settings.noisy_val:
        val = _with_noise(val, len(classes), settings, derive(seed, "validation"))
    workers = min(8, os.cpu_count() or 1) if num_workers is None else num_workers
    shape, augmentation = tuple(train.images.shape[1:]), settings.augment or augmentation
    if len(shape) == 1 and augmentation != "none":
        kind = "texts" if words else "rows of numbers"
        raise ValueError(f"augment={augmentation!r} is of images, and {name} has {kind}: leave it out")
    data = Data(name, train, val, test, shape, classes, mean, std, augmentation, workers, words=words, vectors=vectors)
    return replace(data, known_views=views if words else {**VIEWS, **views}).with_views(*settings.views or ())


def _encoded(splits: Sequence[Split], name: str, settings: DataSettings) -> tuple[list[Split], tuple, Tensor | None]:
    """Return the splits of texts as numbers, their words, found in the first, and the words' vectors, if any."""
    if settings.noise == "instance":
        raise ValueError("noise='instance' compares images, and these are texts: choose another kind")
    words = vocabulary(splits[0].images, settings.vocabulary)
    length = settings.max_tokens or (60 if settings.dataset in ("ag-news", "stdlib") else 350)
    tokens = [encode(split.images, words, length) for split in splits]
    longest = max(rows.shape[1] for rows in tokens)
    tokens = [F.pad(rows, (0, longest - rows.shape[1])) for rows in tokens]
    for split, rows, part in zip(splits, tokens, ("training", "validation", "test"), strict=True):
        warn_of_unreadable(split.images, rows, f"{name}, {part}")
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
