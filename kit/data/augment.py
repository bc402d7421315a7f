"""Random image transformations, drawn for every image of a batch at once.

Each function takes float images (B, C, H, W) in [0, 1] and a CPU `torch.Generator`, and returns new images of the same
shape, dtype and device. Parameters are drawn on the CPU and then moved, so a run draws the same on every device.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kit.errors import unknown

GREY = (0.2989, 0.587, 0.114)  # ITU-R 601 luma, the weights torchvision uses


def random_crop(x: Tensor, pad: int, mode: str = "constant", *, generator: Generator) -> Tensor:
    """Pad by `pad` pixels on every side ("constant": black, or "reflect") and cut one H x W window out of each image.

    Raises ValueError for another mode, or a "reflect" pad that is not smaller than the image.
    """
    if mode not in ("constant", "reflect"):
        raise unknown("padding mode", mode, ("constant", "reflect"))
    b, _, h, w = x.shape
    if mode == "reflect" and pad >= min(h, w):
        raise ValueError(f"pad={pad} reflects more than a {h}x{w} image holds; choose pad below {min(h, w)}")
    padded = F.pad(x, (pad,) * 4, mode=mode)
    windows = padded.unfold(2, h, 1).unfold(3, w, 1)  # a view: (B, C, 2 pad + 1, 2 pad + 1, H, W)
    top, left = torch.randint(2 * pad + 1, (2, b), generator=generator).to(x.device)
    return windows[torch.arange(b, device=x.device), :, top, left]


def random_flip(x: Tensor, p: float = 0.5, *, generator: Generator) -> Tensor:
    """Mirror each image left to right with probability `p`."""
    return torch.where(_chosen(x, p, generator).view(-1, 1, 1, 1), x.flip(3), x)


def random_grey(x: Tensor, p: float, *, generator: Generator) -> Tensor:
    """Replace each RGB image by its luma (in all three channels) with probability `p`; one channel is left alone."""
    chosen = _chosen(x, p, generator).view(-1, 1, 1, 1)
    return torch.where(chosen, _luma(x), x) if x.shape[1] == 3 else x


def color_jitter(
    x: Tensor,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    p: float = 0.8,
    *,
    generator: Generator,
) -> Tensor:
    """With probability `p` per image, change brightness, contrast, saturation and hue, in an order drawn per image.

    Factors are uniform in [max(0, 1 - a), 1 + a] for the first three and the hue shift is uniform in [-hue, hue] (in
    turns), as in torchvision's ColorJitter, which draws them once per call. Saturation and hue leave one-channel
    images alone. Raises ValueError for a negative strength or hue above 0.5.
    """
    strengths = (brightness, contrast, saturation, hue)
    if min(strengths) < 0 or hue > 0.5:
        raise ValueError(f"jitter strengths are {strengths}; each must be at least 0, and hue at most 0.5")
    high = torch.tensor([1 + brightness, 1 + contrast, 1 + saturation, hue])
    low = torch.tensor([max(0.0, 1 - brightness), max(0.0, 1 - contrast), max(0.0, 1 - saturation), -hue])
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


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).clamp_(0, 1)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = (_luma(x) if x.shape[1] == 3 else x).mean((1, 2, 3), keepdim=True)
    return (mean + factor * (x - mean)).clamp_(0, 1)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    grey = _luma(x)
    return (grey + factor * (x - grey)).clamp_(0, 1)


def _hue(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue of RGB images (B, 3, H, W) by `turns` (B, 1, 1, 1), through HSV."""
    r, g, b = x.unbind(1)
    value, least = x.amax(1), x.amin(1)
    chroma = value - least
    safe = torch.where(chroma == 0, 1, chroma)
    sextant = torch.where(value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    sextant = sextant + 6 * turns.squeeze(1)
    k = (sextant.unsqueeze(1) + x.new_tensor([5, 3, 1]).view(1, 3, 1, 1)) % 6  # the distance from each channel's edge
    return value.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp_(0, 1)


ADJUSTMENTS = (_brightness, _contrast, _saturation, _hue)


def _luma(x: Tensor) -> Tensor:
    return (x * x.new_tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _chosen(x: Tensor, p: float, generator: Generator) -> Tensor:
    return (torch.rand(len(x), generator=generator) < p).to(x.device)


def _none(x: Tensor, generator: Generator) -> Tensor:
    return x


def _shift(x: Tensor, generator: Generator) -> Tensor:
    return random_crop(x, 1 if min(x.shape[2:]) < 16 else 2, generator=generator)


def _shift_flip(x: Tensor, generator: Generator) -> Tensor:
    return random_flip(_shift(x, generator), generator=generator)


def _crop_flip(x: Tensor, generator: Generator) -> Tensor:
    return random_flip(random_crop(x, 4, generator=generator), generator=generator)


def _reflect(x: Tensor, generator: Generator) -> Tensor:
    return random_flip(random_crop(x, 4, "reflect", generator=generator), generator=generator)


def _paper(x: Tensor, generator: Generator) -> Tensor:
    x = color_jitter(_crop_flip(x, generator), 0.4, 0.4, 0.4, 0.1, p=0.8, generator=generator)
    return random_grey(x, 0.2, generator=generator)


Recipe = Callable[[Tensor, Generator], Tensor]

AUGMENTATIONS: dict[str, Recipe] = {
    "none": _none,
    "shift": _shift,  # pad 2 (1 below 16 pixels), no mirror image: for digits
    "shift-flip": _shift_flip,  # pad 2 (1 below 16 pixels), then flip
    "crop-flip": _crop_flip,  # pad 4 black, then flip: the usual CIFAR recipe
    "reflect": _reflect,  # pad 4 reflected, then flip: InfoPro's
    "paper": _paper,  # crop-flip, jitter (.4, .4, .4, .1) at p .8, grey at p .2: DeInfoReg's
}


def recipe(name: str) -> Recipe:
    """Return the recipe `(x, generator) -> x` of that name; raise ValueError with the nearest name if there is none."""
    if name not in AUGMENTATIONS:
        raise unknown("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]
