"""What a run trains, so that a record is never taken for that of another: settings, data and net."""

import hashlib
import warnings
from dataclasses import replace

import torch

from kit.data import Data
from kit.net import Net
from kit.train.config import RunConfig


def net_fingerprint(net: Net) -> str:
    """Return the number of blocks and 16 hexadecimal digits of structure, losses, optimizers and weights as they are.

    Of each tensor its shape and up to 256 evenly spaced numbers are read: enough to tell two seeds or two pretrained
    nets apart, and quick for nets of any size.
    """
    digest = hashlib.blake2b(repr(net).encode(), digest_size=8)
    for block in net:
        digest.update(repr((sorted(block.objective.weights.items()), block.optimizer.defaults)).encode())
    for name, tensor in net.state_dict().items():
        rows = torch.linspace(0, tensor.numel() - 1, min(tensor.numel(), 256)).long()
        sample = tensor[torch.unravel_index(rows.to(tensor.device), tensor.shape)] if tensor.ndim else tensor
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + sample.detach().double().cpu().numpy().tobytes())
    return f"{len(net)} blocks, {digest.hexdigest()}"


def identify(net: Net, loaded: Data, config: RunConfig) -> dict:
    """Return what the run is, as plain JSON values: its settings, and a fingerprint of its data and of its net.

    A net keeps the fingerprint it had at its first run: one that goes on in the same process is the same net.
    """
    net.fingerprint = net.fingerprint or net_fingerprint(net)
    sizes = ", ".join(str(len(split)) for split in (loaded.train, loaded.val, loaded.test))
    data = f"{loaded.name}, {sizes} samples, {loaded.fingerprint()}"
    return config.identity() | {"data": data, "net": net.fingerprint}


def with_known_folder(net: Net, loaded: Data, config: RunConfig) -> RunConfig:
    """Return the config, without the folder that "auto" names if the net or the data did not come from the config.

    That name tells of settings, which say nothing of own data or an own net: a stale result would come back under it.
    """
    pairs = {
        "data": (loaded.origin, config.data_identity() | {"fingerprint": loaded.fingerprint()}),
        "net": (net.origin, config.net_content() | {"fingerprint": net.fingerprint or net_fingerprint(net)}),
    }
    own = [what for what, (origin, expected) in pairs.items() if origin != expected]
    if not own or config.output != "auto":
        return config
    warnings.warn(
        f"nothing of this run is kept on disk: its {' and '.join(own)} did not come from the config, which names the "
        "folder. Name one with output= to keep record and checkpoints",
        stacklevel=3,
    )
    return replace(config, output=None)
