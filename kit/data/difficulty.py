"""Which images are easily mistaken, seen without training: for label noise that depends on the image."""

import torch
from torch import Tensor


def difficulty(images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return how hard each image is, float64 (N,) in (0, 1), and the other class it resembles most, int64 (N,).

    `images` are uint8 (N, C, H, W), `labels` int64 (N,). An image's margin is its squared distance to the mean image of
    the nearest other class less that to the mean of its own, the image itself left out. Difficulty is the margin's
    rank: (rank + 1/2)/N, the hardest last, so that it is spread evenly whatever the data. Classes without images
    resemble nothing. Raises ValueError where fewer than two classes have images.
    """
    counts = labels.bincount(minlength=num_classes)
    if (counts > 0).sum() < 2:
        raise ValueError("noise='instance' needs images of at least 2 classes to confuse; raise limit or val_fraction")
    distances = _distances(images, labels, counts)
    rows = torch.arange(len(labels))
    own = distances[rows, labels]
    distances[rows, labels] = torch.inf
    nearest, other = distances.min(1)
    margin = nearest - own
    rank = torch.empty_like(margin)
    rank[margin.argsort(descending=True, stable=True)] = rows.double()
    return (rank + 0.5) / len(labels), other


def flip_probability(hardness: Tensor, rate: float) -> Tensor:
    """Return each image's probability (N,) to be mislabelled: proportional to its difficulty, at most 1, mean `rate`.

    With difficulty spread evenly over (0, 1), min(1, s·d) has mean s/2 up to s = 1 and 1 - 1/(2s) above; solved for s.
    Rises with the rate for every image.
    """
    if rate >= 1:
        return torch.ones_like(hardness)
    scale = 2 * rate if rate <= 0.5 else 1 / (2 * (1 - rate))
    return (scale * hardness).clamp(max=1)


def _distances(images: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Return the mean squared pixel distance of each image to each class's mean image, float64 (N, C)."""
    parts = list(zip(images.flatten(1).split(2000), labels.split(2000), strict=True))  # floats are eight times the size
    sums = torch.zeros(len(counts), images[0].numel(), dtype=torch.float64)
    for pixels, classes in parts:
        sums.index_add_(0, classes, pixels.double())
    means = sums / counts.clamp(min=1).unsqueeze(1)
    distances = torch.cat([_squared(pixels.double(), means) for pixels, _ in parts])
    distances[:, counts == 0] = torch.inf
    # An image pulls its class's mean towards itself: n/(n-1) is its distance's growth when it is left out.
    growth = (counts / (counts - 1).clamp(min=1)).double().square()
    rows = torch.arange(len(labels))
    distances[rows, labels] *= growth[labels]
    return distances


def _squared(pixels: Tensor, means: Tensor) -> Tensor:
    products = pixels @ means.T
    return (pixels.square().sum(1, keepdim=True) - 2 * products + means.square().sum(1)) / pixels.shape[1]
