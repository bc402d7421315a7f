"""Which dimension of a feature is which: said once, by the model that made it, and carried along.

The sizes of a map do not tell whether it is (C, H, W), as convolutions make it, or (H, W, C), as Swin's blocks do.
`Axes` follows a forward pass and notes where each operation puts the channels; a `Shape` carries that with the sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from kit.modules import apply, evaluating
from kit.settings import Count

Sizes = Annotated[Sequence[Count], Field(min_length=1, description="a shape without batch, such as (3, 32, 32)")]
"""Sizes of vectors, tokens or maps, as they are given."""


class Shape(tuple[int, ...]):
    """The sizes of a feature without its batch: (D,) vectors, (T, D) tokens, (C, H, W) or (H, W, C) maps.

    `axis` is the dimension that holds the channels; None is PyTorch's convention: the first of maps, else the last.
    """

    axis: int
    words: int
    """How many words there are, where the features are numbers of words; 0 where they are numbers."""

    def __new__(cls, sizes: Iterable[int], axis: int | None = None, words: int = 0) -> Shape:
        shape = super().__new__(cls, sizes)
        usual = 0 if len(shape) == 3 else len(shape) - 1
        shape.axis = getattr(sizes, "axis", usual) if axis is None else axis % len(shape)
        shape.words = getattr(sizes, "words", words)
        return shape

    @property
    def channels(self) -> int:
        """Number of channels, or of features of a vector or a token."""
        return self[self.axis]

    @property
    def size(self) -> tuple[int, ...]:
        """The other dimensions: (H, W) of a map, (T,) of tokens, () of vectors."""
        return tuple(size for dim, size in enumerate(self) if dim != self.axis)

    @property
    def is_map(self) -> bool:
        return len(self) == 3


def average(h: Tensor, shape: Shape) -> Tensor:
    """Return features (B, *shape), averaged over all but their channels: (B, channels)."""
    dims = tuple(dim for dim in range(1, h.ndim) if dim != shape.axis + 1)
    return h.mean(dim=dims) if dims else h


def real_mean(h: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (B, D) of the words (B, T, D) that the mask, bool (B, T), says are real; 0 where none is."""
    return (h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def channels_first(h: Tensor, shape: Shape) -> Tensor:
    """Return features (B, *shape) as (B, channels, …): a view."""
    return h.movedim(shape.axis + 1, 1)


class Axes(TorchFunctionMode):
    """Notes, for every tensor of three or more dimensions made inside, which dimension holds the channels.

    Convolutions put them second, Linear and LayerNorm read them last; permutations carry them along, and every other
    operation leaves them where its input had them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._axes: Any = WeakTensorKeyDictionary()

    def shape(self, tensor: Tensor) -> Shape:
        """Return the shape of `tensor` (B, …) without the batch; by convention where nothing was noted."""
        axis = self._axes.get(tensor)
        return Shape(tensor.shape[1:], None if axis is None else axis - 1)

    def note(self, tensor: Tensor, axis: int | None) -> None:
        """Say that dimension `axis` of `tensor`, its batch included, holds the channels."""
        if axis:
            self._axes[tensor] = axis

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.ndim > 2:  # looked up only here: most operations of a step make less
            before = (self._axes.get(t) for t in tree_leaves(args) if isinstance(t, Tensor))
            self.note(result, _axis(func, result, args, kwargs or {}, next(filter(None, before), None)))
        return result


_MOVING = {"permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims"}
_RESHAPING = {"reshape", "view", "flatten", "unflatten"}


def _axis(func: Callable[..., Any], result: Tensor, args: Any, kwargs: Any, before: int | None) -> int | None:
    """Return the dimension of `result` that holds the channels, or None where that is not known."""
    name = getattr(func, "__name__", "")
    if name.startswith("conv"):
        return 1
    if name in ("linear", "layer_norm", "embedding"):
        return result.ndim - 1
    if before is None:
        return None
    if name in _MOVING:  # moved once more, on a tensor whose sizes are the numbers of its dimensions
        return list(func(torch.empty([*range(args[0].ndim)], device="meta"), *args[1:], **kwargs).shape).index(before)
    if name in _RESHAPING:
        old, new = args[0].shape, result.shape
        if old[: before + 1] == new[: before + 1]:
            return before
        return result.ndim - 1 if before == len(old) - 1 and old[-1] == new[-1] else None
    return before if before < result.ndim else None


@torch.no_grad()
def output_shapes(stages: Sequence[nn.Module], example: Tensor, shape: Shape | None = None) -> list[Shape]:
    """Return each stage's output shape, found by one forward of `example` (B, *shape) in evaluation mode.

    Those that read a mask are told that all words are real.

    Raises ValueError for a stage that does not take what the one before gives.
    """
    h, found = example, []
    mask = torch.ones(h.shape[:2], dtype=torch.bool, device=h.device)
    with Axes() as axes:
        axes.note(h, Shape(h.shape[1:] if shape is None else shape).axis + 1)
        for stage in stages:
            try:
                with evaluating(stage):
                    h = apply(stage, h, mask)
            except (RuntimeError, ValueError, IndexError) as error:
                kind, given, reason = type(stage).__name__, tuple(h.shape), str(error).splitlines()[0]
                raise ValueError(f"the stage {kind} does not take what it gets, {given}: {reason}") from error
            found.append(axes.shape(h))
    return found
