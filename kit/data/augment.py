"""Random image transformations, drawn for every image of a batch at once.

Each function takes float images (B, C, H, W) in [0, 1] and a CPU `torch.Generator`, and returns new images of the same
shape, dtype and device; `two_crops` twice as many. Parameters are drawn on the CPU and then moved, so a run draws the
same on every device.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kit.errors import check_name


def random_crop(x: Tensor, pad: int, mode: str = "constant", *, generator: Generator) -> Tensor:
    """Pad by `pad` pixels on every side ("constant": black, or "reflect") and cut one H x W window out of each image.

    Raises ValueError for another mode, or a "reflect" pad that is not smaller than the image.
    """
    check_name("padding mode", mode, ("constant", "reflect"))
    b, _, h, w = x.shape
    if mode == "reflect" and pad >= min(h, w):
        raise ValueError(f"pad={pad} reflects more than a {h}x{w} image holds; choose pad below {min(h, w)}")
    padded = F.pad(x, (pad,) * 4, mode=mode)
    windows = padded.unfold(2, h, 1).unfold(3, w, 1)  # a view: (B, C, 2 pad + 1, 2 pad + 1, H, W)
    top, left = torch.randint(2 * pad + 1, (2, b), generator=generator).to(x.device)
    return windows[torch.arange(b, device=x.device), :, top, left]


def random_shift(x: Tensor, *, generator: Generator) -> Tensor:
    """Crop randomly with a pad of 2 pixels, or 1 where images are smaller than 16."""
    return random_crop(x, 1 if min(x.shape[2:]) < 16 else 2, generator=generator)


def random_flip(x: Tensor, p: float = 0.5, *, generator: Generator) -> Tensor:
    """Mirror each image left to right with probability `p`."""
    return torch.where(_chosen(x, p, generator), x.flip(3), x)


def random_grey(x: Tensor, p: float, *, generator: Generator) -> Tensor:
    """Replace each RGB image by its luma (in all three channels) with probability `p`; one channel is left alone."""
    return torch.where(_chosen(x, p, generator), _luma(x), x)


def random_cutout(x: Tensor, length: int = 16, *, generator: Generator) -> Tensor:
    """Black out a square around a random pixel of each image (DeVries & Taylor 2017); PredSim, after scaling, at 0."""
    inside = []
    for side in x.shape[2:]:
        offset = torch.arange(side) - torch.randint(side, (len(x), 1), generator=generator) + length // 2
        inside.append((offset >= 0) & (offset < length))
    return x.masked_fill((inside[0][:, None, :, None] & inside[1][:, None, None]).to(x.device), 0.0)


def two_crops(x: Tensor, *, generator: Generator) -> Tensor:
    """Return each image twice, (2B, C, H, W), by a weak and a strong recipe, as DeInfoReg's code trains SCPL."""
    return torch.cat([recipe(name)(x, generator) for name in ("crop-flip", "paper")])


def color_jitter(x: Tensor, strengths: Sequence[float], p: float = 0.8, *, generator: Generator) -> Tensor:
    """With probability `p` per image, change brightness, contrast, saturation and hue, in an order drawn per image.

    Factors are uniform in [max(0, 1 - a), 1 + a] for the first three `strengths` a, and the hue shift is uniform in
    [-a, a] (in turns) for the fourth, as in torchvision's ColorJitter, which draws them once per call. Saturation and
    hue leave one-channel images alone. Raises ValueError for a negative strength or hue above 0.5.
    """
    *blends, hue = strengths
    if min(strengths) < 0 or hue > 0.5:
        raise ValueError(f"jitter strengths are {strengths}; each must be at least 0, and hue at most 0.5")
    high = torch.tensor([*(1 + a for a in blends), hue])
    low = torch.tensor([*(max(0.0, 1 - a) for a in blends), -hue])
    factors = low + (high - low) * torch.rand(len(x), 4, generator=generator)
    order = torch.rand(len(x), 4, generator=generator).argsort(1)
    order[torch.rand(len(x), generator=generator) >= p] = -1  # no operation has number -1
    return jitter(x, factors, order)


def jitter(x: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Apply ADJUSTMENTS[order[i, j]] with factors[i, order[i, j]] to image i, for j = 0 to 3; -1 stands for nothing.

    Shapes: x (B, C, H, W), factors (B, 4) float, order (B, 4) int64. The deterministic part of `color_jitter`.
    """
    x = x.clone()
    for j in range(order.shape[1]):
        for number, adjust in enumerate(ADJUSTMENTS):
            rows = (order[:, j] == number).nonzero().squeeze(1)
            if len(rows) and (x.shape[1] == 3 or number < 2):
                factor, rows = factors[rows, number].to(x.device), rows.to(x.device)
                x[rows] = adjust(x[rows], factor.view(-1, 1, 1, 1))
    return x


def _hue(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue of RGB images (B, 3, H, W) by `turns` (B, 1, 1, 1), through HSV."""
    r, g, b = x.unbind(1)
    value, chroma = x.amax(1), x.amax(1) - x.amin(1)
    safe = torch.where(chroma == 0, 1, chroma)  # a grey pixel has no hue, and none divides by zero
    sextant = torch.where(value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    sextant = sextant + 6 * turns.squeeze(1)
    k = (sextant.unsqueeze(1) + x.new_tensor([5, 3, 1]).view(1, 3, 1, 1)) % 6  # the distance from each channel's edge
    return value.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp_(0, 1)


def _luma(x: Tensor) -> Tensor:
    weights = x.new_tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R 601, as torchvision
    return (x * weights).sum(1, keepdim=True) if x.shape[1] == 3 else x


def _blend(x: Tensor, base: Tensor | float, factor: Tensor) -> Tensor:
    return (base + factor * (x - base)).clamp_(0, 1)


ADJUSTMENTS = (  # brightness, contrast, saturation and hue
    lambda x, factor: _blend(x, 0, factor),
    lambda x, factor: _blend(x, _luma(x).mean((1, 2, 3), keepdim=True), factor),
    lambda x, factor: _blend(x, _luma(x), factor),
    _hue,
)


def _chosen(x: Tensor, p: float, generator: Generator) -> Tensor:
    return (torch.rand(len(x), generator=generator) < p).to(x.device).view(-1, 1, 1, 1)


CROP, JITTER = partial(random_crop, pad=4), partial(color_jitter, strengths=(0.4, 0.4, 0.4, 0.1))
AUGMENTATIONS: dict[str, tuple[Callable[..., Tensor], ...]] = {  # what is done one after another
    "none": (),
    "shift": (random_shift,),  # no mirror image: for digits
    "shift-flip": (random_shift, random_flip),
    "crop-flip": (CROP, random_flip),  # the usual CIFAR recipe
    "reflect": (partial(CROP, mode="reflect"), random_flip),  # InfoPro's
    "crop-flip-cutout": (CROP, random_flip, random_cutout),
    "two-crops": (two_crops,),  # SCPL's, of every image
    "paper": (CROP, random_flip, JITTER, partial(random_grey, p=0.2)),  # DeInfoReg's
}


def recipe(name: str) -> Callable[[Tensor, Generator], Tensor]:
    """Return the recipe `(x, generator) -> x` of that name; raise ValueError with the nearest name if there is none."""
    check_name("augmentation", name, AUGMENTATIONS)

    def augment(x: Tensor, generator: Generator) -> Tensor:
        for transform in AUGMENTATIONS[name]:
            x = transform(x, generator=generator)
        return x

    return augment
