"""Seeded label noise, with the mask of the labels that really changed."""

import torch
from torch import Tensor

from kit.data.difficulty import difficulty, flip_probability
from kit.errors import unknown
from kit.seeds import generator

NOISE = {
    "none": "labels as published",
    "symmetric": "with probability rate, a class drawn uniformly from all C; the true one may come back",
    "symmetric-exclusive": "with probability rate, a class drawn uniformly from the C-1 others",
    "asymmetric": "with probability rate, the next class: c becomes c+1 mod C",
    "instance": "the class an image resembles most of the others; the harder the image, the likelier, rate on average",
}


def corrupt(
    labels: Tensor, num_classes: int, kind: str, rate: float, seed: int, images: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return noisy labels, (N,) int64, and a mask, (N,) bool, of those that differ from `labels`, (N,) in 0..C-1.

    `rate` is the probability, a fraction in [0, 1], that a label is touched. The expected share really changed is
    `rate * (1 - 1/C)` for "symmetric" and `rate` for the other kinds (`NOISE` describes each). At one seed, the labels
    touched at a low rate are among those touched at a higher one. The input is left alone. "instance" takes `images`,
    uint8 (N, C, H, W), to see which are hard (`kit.data.difficulty`); the other kinds do without.

    Raises ValueError for an unknown kind, a rate outside [0, 1], "none" with a rate above 0, fewer than two classes,
    a label outside 0..C-1, or "instance" without images in memory.
    """
    check_noise(kind, rate)
    check_labels(labels, num_classes)
    if kind == "none":
        return labels.clone(), torch.zeros_like(labels, dtype=torch.bool)
    if num_classes < 2:
        raise ValueError(f"noise={kind!r} needs at least 2 classes to confuse, but num_classes={num_classes}")

    rng = generator(seed, "noise")
    luck = torch.rand(len(labels), generator=rng)
    touched = luck < rate
    if kind == "symmetric":
        drawn = torch.randint(num_classes, labels.shape, generator=rng)
    elif kind == "symmetric-exclusive":
        drawn = (labels + torch.randint(1, num_classes, labels.shape, generator=rng)) % num_classes
    elif kind == "asymmetric":
        drawn = (labels + 1) % num_classes
    else:
        if not isinstance(images, Tensor):
            raise ValueError("noise='instance' compares images in memory, and these stay in files: choose another kind")
        hardness, drawn = difficulty(images, labels, num_classes)
        touched = luck < flip_probability(hardness, rate)
    noisy = torch.where(touched, drawn, labels)
    return noisy, noisy != labels


def check_noise(kind: str, rate: float) -> None:
    """Raise ValueError for an unknown kind, a rate outside [0, 1], or a rate above 0 of no noise."""
    if kind not in NOISE:
        raise unknown("noise", kind, NOISE)
    if not 0 <= rate <= 1:
        hint = f"; did you mean {rate / 100:g}?" if 1 < rate <= 100 else ""
        raise ValueError(f"noise_rate={rate:g}, but a rate is a fraction in [0, 1]{hint}")
    if kind == "none" and rate > 0:
        kinds = ", ".join(name for name in NOISE if name != "none")
        raise ValueError(f"noise_rate={rate:g} with noise='none' would change nothing: choose noise among {kinds}")


def check_labels(labels: Tensor, num_classes: int, where: str = "labels") -> None:
    """Raise ValueError naming the first label outside 0..num_classes-1; `where` says whose labels, (N,), they are."""
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"{where}: label {int(labels[first])} at position {first}, but {num_classes} classes are numbered "
            f"0 to {num_classes - 1}; renumber the labels or check that the file is the right one"
        )
