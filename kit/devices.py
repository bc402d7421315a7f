"""Which device computes."""

import re

import torch


def available(device: torch.device | str) -> torch.device:
    """Return the device of this name, with `auto` decided. Raises ValueError for one that is not there.

    A `torch.device` may be of any kind, such as `meta`; names are those of the devices that the kit is tested on.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(device, str) and not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device={device!r}, but it has to be auto, cpu, cuda or cuda:N")
    found = torch.device(device)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={str(device)!r}, but PyTorch sees {torch.cuda.device_count()} GPUs here: take auto")
    return found
