"""The frozen description of one run, validated when it is made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

from kit import context, growth, methods
from kit.backbones import BACKBONES, backbone_names
from kit.compute import optimizers, precision
from kit.data import AUGMENTATIONS, DATASETS, VIEWS
from kit.data.noise import check_noise
from kit.errors import unknown
from kit.splitting import paper_cuts

CUTS = (*paper_cuts.NAMED_CUTS, "params", "layers", "time", "memory")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run: data, model, method, training, and where its record goes."""

    dataset: str = "digits"
    """Name of a dataset: see `kit.data.DATASETS`."""

    root: str = "data"
    """Folder of the datasets."""

    image_size: int | None = None
    """Side in pixels to which images are resized; None leaves them."""

    limit: int | None = None
    """Number of training and validation images to keep, balanced over classes; None keeps all."""

    val_fraction: float = 0.1
    """Share of the training images kept aside for validation, between 0 and 1."""

    data_seed: int = 0
    """Seed of the subset, the validation split and the label noise: the same for every training `seed`."""

    augment: str | None = None
    """Augmentation recipe; None is the dataset's own."""

    noise: str = "none"
    """Model of the label noise put on training labels."""

    noise_rate: float = 0.0
    """Probability, in [0, 1], that the noise touches a label."""

    noisy_val: bool = False
    """Whether validation labels get the noise too, as for a user who has no clean ones; test labels never do."""

    backbone: str = "vgg-paper"
    """Name of a model: one of the kit's, or a torchvision classifier."""

    width: float = 1.0
    """Multiplier of the backbone's channels."""

    backbone_options: Mapping[str, object] = field(default_factory=dict)
    """The backbone's own options, such as `depth` of an mlp."""

    method: str = "deinforeg"
    """Name of a method: see `kit.METHODS`."""

    options: Mapping[str, object] = field(default_factory=dict)
    """The method's own options, such as `variant` of deinforeg."""

    num_blocks: int = 4
    """Number of blocks (or, for bp, of exits watched)."""

    cuts: str | tuple[str, ...] = "auto"
    """Where to cut: what `kit.split` balances, names of places, or the papers' cuts: `auto` (DeInfoReg's, else by
    parameters), `infopro` and `infopro-balanced` (by memory)."""

    context: str = "none"
    """What blocks see beside their predecessor's output."""

    grow: Mapping[str, object] | None = None
    """When blocks are added while it trains, up to `num_blocks`: the settings of `kit.growth.Growth`, such as
    `{"at": [20, 40], "freeze": "earlier"}` or `{"when": "plateau", "patience": 3}`; None starts with all."""

    views: tuple[str, ...] | None = None
    """What of an image the network's input shows, and the further views that are carried along for blocks that ask for
    them, such as `("top", "bottom")`: see `kit.data.VIEWS`. None is the image."""

    epochs: int = 10
    """Passes over the training images; with `stagewise`, for each block."""

    stagewise: bool = False
    """Whether blocks train one after another, each on the finished outputs of the one before."""

    batch_size: int = 128
    """Images per step."""

    optimizer: str = "adamw"
    """Every block's optimizer: sgd, adam, adamw or lars."""

    lr: float = 1e-3
    """Learning rate at the schedule's top."""

    weight_decay: float | None = None
    """Weight decay; None is the optimizer's own."""

    momentum: float = 0.9
    """Momentum of sgd and lars."""

    nesterov: bool = False
    """Nesterov's momentum for sgd."""

    schedule: str = "cosine"
    """How the learning rate falls: constant, cosine or step."""

    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises from zero."""

    precision: str = "auto"
    """Number format: fp32, bf16, or auto: bf16 where the processor has units for it."""

    device: str = "auto"
    """Where to train: cpu, cuda, cuda:1, …, or auto: cuda where there is one."""

    seed: int = 0
    """Seed of first weights, order of the images, augmentation and dropout."""

    output: str | None = "auto"
    """Folder of checkpoint and record; auto is `runs/<settings>`; None keeps nothing on disk."""

    checkpoint_steps: int | None = None
    """Steps between checkpoints within an epoch; None writes one per epoch."""

    def __new__(cls, **settings: object) -> RunConfig:
        for name in settings:
            if name not in cls.__dataclass_fields__:
                raise unknown("setting", name, cls.__dataclass_fields__)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        one_of = {
            "dataset": DATASETS,
            "optimizer": optimizers.OPTIMIZERS,
            "schedule": optimizers.SCHEDULES,
            "precision": precision.PRECISIONS,
        }
        for name, allowed in one_of.items():
            if getattr(self, name) not in allowed:
                raise unknown(name, getattr(self, name), allowed)
        if self.augment is not None and self.augment not in AUGMENTATIONS:
            raise unknown("augmentation", self.augment, AUGMENTATIONS)
        if isinstance(self.cuts, str) and self.cuts not in CUTS:
            raise unknown("cuts", self.cuts, CUTS)
        paper_cuts.find(self.cuts, self.backbone, self.num_blocks)
        check_noise(self.noise, self.noise_rate)
        context.parse(self.context, self.num_blocks)
        methods.lookup(self.method, self.options)
        if self.backbone not in BACKBONES and self.backbone not in (known := backbone_names()):
            raise unknown("backbone", self.backbone, known)
        try:
            self.resolved_device()
        except RuntimeError as error:
            raise ValueError(f"device={self.device!r}, but it has to be auto, cpu, cuda or cuda:N") from error
        self._check_ranges()
        self._check_growth()

    def _check_ranges(self) -> None:
        _check("val_fraction", self.val_fraction, 0 < self.val_fraction < 1, "a fraction between 0 and 1")
        _check("width", self.width, self.width > 0, "a positive multiplier")
        _check("lr", self.lr, self.lr > 0, "a positive number")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "a number in [0, 1)")
        _check("warmup_epochs", self.warmup_epochs, 0 <= self.warmup_epochs <= self.epochs, "between 0 and epochs")
        if self.weight_decay is not None:
            _check("weight_decay", self.weight_decay, self.weight_decay >= 0, "0 or more, or None")
        for name in ("num_blocks", "epochs", "batch_size"):
            value = getattr(self, name)
            _check(name, value, isinstance(value, int) and value >= 1, "a whole number of at least 1")
        for name in ("limit", "image_size", "checkpoint_steps"):
            value = getattr(self, name)
            _check(name, value, value is None or (isinstance(value, int) and value >= 1), "at least 1, or None")

    def _check_growth(self) -> None:
        views = self.views or ("image",)
        for view in views:
            if view not in VIEWS:
                raise unknown("view", view, VIEWS)
        if len(set(views)) < len(views):
            raise ValueError(f"views={list(views)!r}, but every view is named once")
        if self.growth is None:
            return
        if self.stagewise:
            raise ValueError("grow with stagewise=True: blocks that train one after another come one by one anyway")
        if methods.lookup(self.method).end_to_end:
            raise ValueError(
                f"grow={self.grow!r}, but a {self.method} net does not grow: one loss at its end trains it as a whole. "
                "Choose a method that trains blocks by themselves, such as greedy or dgl"
            )
        for view in filter(None, self.growth.side):
            if view not in views[1:]:
                raise unknown("view of grow side:", view, views[1:])

    @property
    def growth(self) -> growth.Growth | None:
        """`grow`, checked and with its defaults; None for a net that has all its blocks from the start."""
        return None if self.grow is None else growth.parse(self.grow, self.num_blocks, self.epochs)

    @property
    def name(self) -> str:
        """A folder name that no run with other settings has."""
        digest = hashlib.blake2b(json.dumps(self.identity(), sort_keys=True).encode(), digest_size=4).hexdigest()
        return f"{self.dataset}-{self.backbone}-{self.method}-K{self.num_blocks}-seed{self.seed}-{digest}"

    @property
    def folder(self) -> Path | None:
        """Where the run keeps its checkpoint and record, or None."""
        return Path("runs", self.name) if self.output == "auto" else self.output and Path(self.output)

    def resolved_device(self) -> torch.device:
        """The device itself, with `auto` decided."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def identity(self) -> dict:
        """All that decides the run's numbers, as plain JSON values: two runs of the same identity are the same run."""
        elsewhere = {"root", "output", "checkpoint_steps"}
        plain = {f.name: asdict(self)[f.name] for f in fields(self) if f.name not in elsewhere}
        return json.loads(json.dumps(plain))


def _check(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value!r}, but it has to be {expected}")
