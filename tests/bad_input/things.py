"""What the cases are tried on: small, made once, and left as they were by whatever is refused."""

import tempfile
from pathlib import Path

import torch
from torch import nn

import kit
from kit.exits import curve

NAN, INF = float("nan"), float("inf")
X, Y = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8)
Z = torch.rand(8, 4, generator=torch.Generator().manual_seed(1))
MODEL = kit.backbone("mlp", 1, 10, image_size=8, depth=3, hidden=16)
STAGES = kit.split(MODEL, 3, X)


def net(method: str = "greedy", **options: object) -> kit.Net:
    """Return a net of three blocks."""
    return kit.decouple(kit.split(MODEL, 3, X), method, 10, X, **options)


NET, BP, FDG, SCPL = net(), net("bp"), net("fdg"), net("scpl", widths=(8, 8))
CONV = kit.decouple([nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)], "greedy", 10, X)
NORMED = kit.decouple([nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8))], "greedy", 10, X)
SEEN = kit.decouple(kit.split(MODEL, 3, X), "greedy", 10, {"x": X, "top": X[:, :, :4]})
SIGNAL = NET.signal(X, Y)
DATA = kit.load_data("digits", limit=100)
CONFIG = kit.RunConfig(backbone="mlp", method="greedy", limit=100, epochs=1, output=None)
HISTORY = kit.History({}, {}, [(1, 1, "val", 1, "accuracy", 0.5)])
LOGITS = torch.rand(3, 8, 10, generator=torch.Generator().manual_seed(2))
COSTS = [1.0, 2.0, 3.0]
POINTS = curve("confidence", LOGITS, Y, COSTS)
_ROOM = tempfile.TemporaryDirectory(prefix="kit-bad-input-")  # removed when the process ends
FOLDER = Path(_ROOM.name)


def resting() -> kit.Net:
    """Return a net in evaluation mode."""
    return net().eval()
