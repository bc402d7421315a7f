"""What the cases are tried on: small, made once, and left as they were by whatever is refused."""

import tempfile
from pathlib import Path

import torch
from torch import nn

import kit
from kit.exits import curve

X, Y = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8)
Z = torch.rand(8, 4, generator=torch.Generator().manual_seed(1))
MODEL = kit.backbone("mlp", 1, 10, image_size=8, depth=3, hidden=16)
STAGES = kit.split(MODEL, 3, X)
NET = kit.decouple(STAGES, "greedy", 10, X)
BP = kit.decouple(kit.split(MODEL, 3, X), "bp", 10, X)
CONV = kit.decouple([nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)], "greedy", 10, X)
NORMED = kit.decouple([nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8))], "greedy", 10, X)
SEEN = kit.decouple(kit.split(MODEL, 3, X), "greedy", 10, {"x": X, "top": X[:, :, :4]})
SIGNAL = NET.signal(X, Y)
DATA = kit.load_data("digits", limit=100)
CONFIG = kit.RunConfig(backbone="mlp", method="greedy", limit=100, epochs=1, output=None)
NAN, INF = float("nan"), float("inf")
LOGITS = torch.rand(3, 8, 10, generator=torch.Generator().manual_seed(2))
COSTS = [1.0, 2.0, 3.0]
POINTS = curve("confidence", LOGITS, Y, COSTS)
FOLDER = Path(tempfile.mkdtemp(prefix="kit-bad-input-"))
