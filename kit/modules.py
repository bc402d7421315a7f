"""What is done to modules of any kind."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


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
