"""Seeded label noise, with the mask of the labels that really changed."""

import torch
from torch import Tensor

from kit.errors import check_name
from kit.losses import check_class_numbers
from kit.seeds import generator

NOISE = {
    "none": "labels as published",
    "symmetric": "with probability rate, a class drawn uniformly from all C; the true one may come back",
    "symmetric-exclusive": "with probability rate, a class drawn uniformly from the C-1 others",
    "asymmetric": "with probability rate, the next class: c becomes c+1 mod C",
    "instance": "the class an image resembles most of the others; the harder the image, the likelier, rate on average",
}


def corrupt(
    labels: Tensor, num_classes: int, kind: str, rate: float, seed: int, images: object = None
) -> tuple[Tensor, Tensor]:
    """Return noisy labels, (N,) int64, and a mask, (N,) bool, of those that differ from `labels`, (N,) in 0..C-1.

    `rate` is the probability, a fraction in [0, 1], that a label is touched. The expected share really changed is
    `rate * (1 - 1/C)` for "symmetric" and `rate` for the other kinds (`NOISE` describes each). At one seed, the labels
    touched at a low rate are among those touched at a higher one. The input is left alone. "instance" takes `images`,
    uint8 (N, C, H, W), to see which are hard (`difficulty`); the other kinds do without.

    Raises ValueError for an unknown kind, a rate outside [0, 1], "none" with a rate above 0, fewer than two classes,
    a label outside 0..C-1, or "instance" without images in memory.
    """
    check_noise(kind, rate)
    check_class_numbers(labels, len(labels), num_classes)
    if kind == "none":
        return labels.clone(), torch.zeros_like(labels, dtype=torch.bool)
    if num_classes < 2:
        raise ValueError(f"noise={kind!r} needs at least 2 classes to confuse, but num_classes={num_classes}")
    rng = generator(seed, "noise")
    luck = torch.rand(len(labels), generator=rng)  # first and whatever the rate, so that a higher one only adds
    touched = luck < rate
    if kind == "symmetric":
        drawn = torch.randint(num_classes, labels.shape, generator=rng)
    elif kind == "symmetric-exclusive":
        drawn = (labels + torch.randint(1, num_classes, labels.shape, generator=rng)) % num_classes
    elif kind == "asymmetric":
        drawn = (labels + 1) % num_classes
    elif not isinstance(images, Tensor):
        raise ValueError("noise='instance' compares images in memory, and these stay in files: choose another kind")
    else:
        hardness, drawn = difficulty(images, labels, num_classes)
        touched = luck < flip_probability(hardness, rate)
    noisy = torch.where(touched, drawn, labels)
    return noisy, noisy != labels


def check_noise(kind: str, rate: float) -> None:
    """Raise ValueError for an unknown kind, a rate outside [0, 1], or a rate above 0 of no noise."""
    check_name("noise", kind, NOISE)
    if not 0 <= rate <= 1:
        hint = f"; did you mean {rate / 100:g}?" if 1 < rate <= 100 else ""
        raise ValueError(f"noise_rate={rate:g}, but a rate is a fraction in [0, 1]{hint}")
    if kind == "none" and rate > 0:
        kinds = ", ".join(name for name in NOISE if name != "none")
        raise ValueError(f"noise_rate={rate:g} with noise='none' would change nothing: choose noise among {kinds}")


def difficulty(images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return how hard each image is, float64 (N,) in (0, 1), and the other class it resembles most, int64 (N,).

    `images` are uint8 (N, C, H, W), `labels` int64 (N,). An image's margin is its squared distance to the mean image of
    the nearest other class less that to the mean of its own, the image itself left out. Difficulty is the margin's
    rank: (rank + 1/2)/N, the hardest last, so that it is spread evenly whatever the data. Classes without images
    resemble nothing. Raises ValueError where fewer than two classes have images.
    """
    counts, rows = labels.bincount(minlength=num_classes), torch.arange(len(labels))
    if (counts > 0).sum() < 2:
        raise ValueError("noise='instance' needs images of at least 2 classes to confuse; raise limit or val_fraction")
    distances = _distances(images.flatten(1), labels, counts)
    # Without itself an image's class has the mean (n m - x)/(n - 1), n/(n - 1) times as far from it as m is.
    growth = (counts / (counts - 1).clamp(min=1)).double().square()
    own = distances[rows, labels] * growth[labels]
    distances[rows, labels] = torch.inf
    nearest, other = distances.min(1)
    rank = torch.empty_like(own)
    rank[(nearest - own).argsort(descending=True, stable=True)] = rows.double()
    return (rank + 0.5) / len(labels), other


def _distances(pixels: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Return the mean squared distance of each image's `pixels`, (N, P), to each class's mean image, float64 (N, C)."""
    sums = torch.zeros(len(counts), pixels.shape[1], dtype=torch.float64)
    parts = pixels.split(2000)  # as doubles, all at once would need eight times the memory
    for part, own in zip(parts, labels.split(2000), strict=True):
        sums.index_add_(0, own, part.double())
    means = sums / counts.clamp(min=1).unsqueeze(1)
    doubles = map(Tensor.double, parts)
    squared = [x.square().sum(1, keepdim=True) - 2 * (x @ means.T) + means.square().sum(1) for x in doubles]
    return (torch.cat(squared) / pixels.shape[1]).masked_fill(counts == 0, torch.inf)


def flip_probability(hardness: Tensor, rate: float) -> Tensor:
    """Return each image's probability (N,) to be mislabelled: proportional to its difficulty, at most 1, mean `rate`.

    With difficulty spread evenly over (0, 1), min(1, s·d) has mean s/2 up to s = 1 and 1 - 1/(2s) above; solved for s.
    Rises with the rate for every image.
    """
    if rate >= 1:
        return torch.ones_like(hardness)
    scale = 2 * rate if rate <= 0.5 else 1 / (2 * (1 - rate))
    return (scale * hardness).clamp(max=1)
