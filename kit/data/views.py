"""Views: parts and other renderings of a sample, made from a batch as it comes out of augmentation."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

View = Callable[[Tensor], Tensor]


def half(x: Tensor, side: str) -> Tensor:
    """Return the `top`, `bottom`, `left` or `right` half of images (B, C, H, W); of odd sizes the first is smaller."""
    dim = 2 if side in ("top", "bottom") else 3
    first, second = x.tensor_split([x.shape[dim] // 2], dim)
    return first if side in ("top", "left") else second


def smaller(x: Tensor, factor: int = 2) -> Tensor:
    """Return images (B, C, H, W) averaged down to a `factor`-th of their side."""
    return F.avg_pool2d(x, factor, ceil_mode=True, count_include_pad=False)


def edges(x: Tensor) -> Tensor:
    """Return how fast images (B, C, H, W) change at each pixel, as one more channel (B, 1, H, W)."""
    grey = F.pad(x.mean(1, keepdim=True), (0, 1, 0, 1), mode="replicate")
    across, down = grey[..., :-1, 1:] - grey[..., :-1, :-1], grey[..., 1:, :-1] - grey[..., :-1, :-1]
    return torch.hypot(across, down)


_HALVES = {side: partial(half, side=side) for side in ("top", "bottom", "left", "right")}
VIEWS: dict[str, View] = {"image": nn.Identity(), **_HALVES, "smaller": smaller, "edges": edges}
"""Views by name; a function of one's own, (B, …) to (B, …), goes into `Data.with_views` as well."""
