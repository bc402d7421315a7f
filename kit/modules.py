"""What is done to modules of any kind."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from inspect import signature
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
Feature = Callable[[Tensor, Tensor], Tensor]
"""Makes of an output for words (B, T, ·) and the mask (B, T) what heads read: one row (B, D) for each text."""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch `module` and all in it to evaluation, so that no buffer changes; each flag back as it was on leaving."""
    flags = {part: part.training for part in module.modules()}
    try:
        module.eval()
        yield
    finally:
        for part, training in flags.items():
            part.training = training


@cache
def _takes_mask(kind: type[nn.Module]) -> bool:
    mask = signature(kind.forward).parameters.get("mask")
    return mask is not None and mask.default is mask.empty


def takes_mask(module: nn.Module) -> bool:
    """Whether `module` has to be told, beside its input, which of the words are real: `mask`, bool (B, T)."""
    return bool(vars(module).get("takes_mask")) or _takes_mask(cast(Any, type(module)))


def own_feature(module: nn.Module) -> Feature | None:
    """Return the method `feature(h, mask)` of a layer that reads a mask, or None where it has none.

    It has to be of its class: a part that a model calls `feature` is none.
    """
    return cast(Feature, module.feature) if takes_mask(module) and hasattr(type(module), "feature") else None


def apply(module: nn.Module, h: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the output of `module` for `h` (B, …), given the mask (B, T) if it reads one."""
    return cast(Tensor, module(h, mask) if takes_mask(module) else module(h))


def on(device: torch.device, module: M) -> M:
    """Return `module`, moved to `device` unless all of it is there: tensors without data refuse even an idle move."""
    return module if all(p.device == device for p in module.parameters()) else module.to(device)


def fan_out_normal(net: M) -> M:
    """Return `net` with the weights of its convolutions drawn anew: normal, variance 2 / (places × outputs).

    Source: He et al. 2015; so InfoPro's and ContSup's code begins, heads and encoders included.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net
