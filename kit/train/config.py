"""The frozen description of one run, validated when it is made."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator

from kit import context, growth, methods
from kit.backbones import BACKBONES, backbone_names
from kit.compute.optimizers import OptimizerSettings
from kit.compute.precision import PRECISIONS
from kit.data.splits import DataSettings
from kit.devices import available
from kit.errors import check_name, unknown
from kit.settings import Count, Positive, Whole, accept
from kit.splitting import paper_cuts
from kit.splitting.balance import BALANCES

CUTS = (*paper_cuts.NAMED_CUTS, *BALANCES)
_ELSEWHERE = ("root", "output", "checkpoint_steps")
"""Settings that say where things are and how often they are kept, and change no number."""

_OF_THE_NET = (
    *("backbone", "width", "backbone_options", "method", "options", "num_blocks", "cuts", "context", "context_options"),
    *("optimizer", "lr", "weight_decay", "momentum", "nesterov", "trust", "precision", "device", "seed"),
)


def _known_backbone(name: str) -> str:
    if name not in BACKBONES and name not in (known := backbone_names()):  # asking torchvision takes a second
        raise unknown("backbone", name, known)
    return name


@dataclass(frozen=True, kw_only=True)
class RunConfig(DataSettings, OptimizerSettings):
    """One training run: data, model, method, optimizer, training, and where its record goes.

    The settings of the data and of the optimizer are `kit.data.splits.DataSettings` and
    `kit.compute.optimizers.OptimizerSettings`. Raises ValueError for settings that cannot be.
    """

    backbone: Annotated[str, AfterValidator(_known_backbone)] = "vgg-paper"
    """Name of a model: one of the kit's, or a torchvision classifier."""
    width: Positive = 1.0
    """Multiplier of the backbone's channels."""
    backbone_options: Mapping[str, object] = field(default_factory=dict)
    """The backbone's own options, such as `depth` of an mlp."""
    method: str = "deinforeg"
    """Name of a method: see `kit.METHODS`."""
    options: Mapping[str, object] = field(default_factory=dict)
    """The method's own options, such as `variant` of deinforeg."""
    num_blocks: Count = 4
    """Number of blocks (or, for bp, of exits watched)."""
    cuts: str | Sequence[str] = "auto"
    """Where to cut: what `kit.split` balances, names of cut points, or the papers' cuts: `auto` (DeInfoReg's, else by
    parameters), `infopro`, `infopro-balanced` (by memory), `fdg` and `ddg`."""
    context: str = "none"
    """What blocks see beside their predecessor's output."""
    context_options: Mapping[str, object] = field(default_factory=dict)
    """How they read it: the settings of `kit.context.Encoding`."""
    grow: Mapping[str, object] | None = None
    """When blocks are added while it trains, up to `num_blocks`: the settings of `kit.growth.Growth`, such as
    `{"at": [20, 40], "freeze": "earlier"}` or `{"when": "plateau", "patience": 3}`; None starts with all."""
    epochs: Count = 10
    """Passes over the training images; with `stagewise`, for each block."""
    stagewise: bool = False
    """Whether blocks train one after another, each on the finished outputs of the one before."""
    batch_size: Count = 128
    """Images per step."""
    precision: Literal[PRECISIONS] = "auto"
    """Number format: fp32, bf16, or auto: bf16 where the processor has units for it."""
    device: str = "auto"
    """Where to train: cpu, cuda, cuda:1, …, or auto: cuda where there is one."""
    seed: Whole = 0
    """Seed of first weights, order of the images, augmentation and dropout."""
    output: str | os.PathLike | None = "auto"
    """Folder of checkpoint and record; auto is `runs/<settings>`; None keeps nothing on disk."""
    checkpoint_steps: Count | None = None
    """Steps between checkpoints within an epoch; None writes one per epoch."""

    def __new__(cls, **settings: object) -> RunConfig:
        accept("setting", settings, cls)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        super().__post_init__()  # types and ranges first: the rest compares values
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs!r}, but it has to be between 0 and epochs")
        if isinstance(self.cuts, str):
            check_name("cuts", self.cuts, CUTS)
        paper_cuts.find(self.cuts, self.backbone, self.num_blocks)
        context.parse(self.context, self.num_blocks)
        context.Encoding(**accept("context option", self.context_options, context.Encoding))
        methods.lookup(self.method, self.options)
        self.resolved_device()
        if self.stagewise and methods.lookup(self.method).delay:
            raise ValueError(f"stagewise=True with method={self.method!r}, whose blocks all learn from one loss")
        self._check_growth()

    def _check_growth(self) -> None:
        if self.growth is None:
            return
        if self.stagewise:
            raise ValueError("grow with stagewise=True: blocks that train one after another come one by one anyway")
        if methods.lookup(self.method).one_loss:
            raise ValueError(
                f"grow={self.grow!r}, but a {self.method} net does not grow: one loss at its end trains it as a whole. "
                "Choose a method that trains blocks by themselves, such as greedy or dgl"
            )
        for view in filter(None, self.growth.side):
            check_name("view of grow side:", view, (self.views or ())[1:])

    @property
    def growth(self) -> growth.Growth | None:
        """`grow`, checked and with its defaults; None for a net that has all its blocks from the start."""
        return None if self.grow is None else growth.schedule(self.grow, self.num_blocks, self.epochs)

    @property
    def most_blocks(self) -> int:
        """The number of blocks in the end: one where one loss trains the whole net."""
        if methods.lookup(self.method).end_to_end:
            return 1
        return self.growth.max_blocks if self.growth else self.num_blocks

    @property
    def label(self) -> str:
        """What a progress bar calls the run: its method, with what it adds to it."""
        context = f" + {self.context}" if self.context != "none" else ""
        return f"{self.method}{context}{', stagewise' if self.stagewise else ''}"

    @property
    def name(self) -> str:
        """A folder name that no run with other settings has."""
        digest = hashlib.blake2b(json.dumps(self.identity(), sort_keys=True).encode(), digest_size=4).hexdigest()
        dataset = Path(self.dataset.partition("#")[0].split(":")[-1]).stem  # of one's own data, the file's
        return f"{dataset}-{self.backbone}-{self.method}-K{self.num_blocks}-seed{self.seed}-{digest}"

    @property
    def folder(self) -> Path | None:
        """Where the run keeps its checkpoint and record, or None."""
        return Path("runs", self.name) if self.output == "auto" else self.output and Path(self.output)

    def resolved_device(self) -> torch.device:
        """The device itself, with `auto` decided. Raises ValueError for one that is not there."""
        return available(self.device)

    def plain(self) -> dict:
        """Return every setting as plain JSON values: what `RunConfig(**…)` makes the same run of."""
        return json.loads(json.dumps(asdict(self), default=os.fspath))

    def identity(self) -> dict:
        """All that decides the run's numbers, as plain JSON values: two runs of the same identity are the same run."""
        return {name: value for name, value in self.plain().items() if name not in _ELSEWHERE}

    def net_content(self) -> dict:
        """Return the settings that decide what net is built."""
        return {name: value for name, value in self.plain().items() if name in _OF_THE_NET}
