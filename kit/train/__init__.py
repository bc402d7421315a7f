"""Training: from a config to a record."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kit import data, seeds
from kit.backbones import backbone
from kit.methods import decouple
from kit.net import Net
from kit.splitting import paper_cuts
from kit.splitting.split import split
from kit.train.checks import check, only_one
from kit.train.config import RunConfig
from kit.train.record import History
from kit.train.run import Fit
from kit.train.stagewise import Stagewise


def run(config: RunConfig, on_epoch: Callable[[int, Net], None] | None = None) -> History:
    """Load the data, build the net, train, evaluate, and record into the config's folder.

    If that folder holds a checkpoint of the same settings, go on from there; the end is bit for bit that of a run
    never stopped. Raises ValueError for settings that cannot be, and before any training.
    """
    loaded = load_data(config)
    return fit(build(config, loaded), loaded, config, on_epoch)


def load_data(config: RunConfig) -> data.Data:
    """Return the config's dataset, with its subset, validation split and label noise."""
    return data.load_data(
        config.dataset,
        config.root,
        val_fraction=config.val_fraction,
        limit=config.limit,
        seed=config.data_seed,
        noise=config.noise,
        noise_rate=config.noise_rate,
        noisy_val=config.noisy_val,
        image_size=config.image_size,
    ).with_views(*config.views or ())


def build(config: RunConfig, loaded: data.Data) -> Net:
    """Return the config's net for that data. First weights depend on the seed and the backbone, not on the method."""
    device = config.resolved_device()
    channels, *_, side = loaded.shape
    with seeds.seeded(config.seed, "backbone"):
        options = dict(config.backbone_options)
        model = backbone(config.backbone, channels, loaded.num_classes, config.width, side, **options).to(device)
    example = torch.zeros(2, *loaded.shape, device=device)
    examples = {"x": example} | {v: torch.zeros(2, *shape, device=device) for v, shape in loaded.view_shapes.items()}
    balance, at = paper_cuts.find(config.cuts, config.backbone, config.num_blocks)
    return decouple(
        split(model, config.num_blocks, example, balance=balance, at=at),
        config.method,
        loaded.num_classes,
        examples,
        config.context,
        config.optimizer,
        config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        nesterov=config.nesterov,
        precision=config.precision,
        seed=config.seed,
        pixels=loaded.denormalize,
        start=config.growth and config.growth.start,
        **config.options,
    )


def fit(net: Net, loaded: data.Data, config: RunConfig, on_epoch: Callable[[int, Net], None] | None = None) -> History:
    """Train `net` on `loaded` and return the record. Uses the config's training settings and its folder.

    Every epoch ends with the accuracy of every exit on validation and test, outside any timed region. With a folder,
    a checkpoint is written each epoch and every `checkpoint_steps` steps, the best epoch's weights (by validation) go
    to `best.pt`, and a checkpoint that is there already is gone on from.
    """
    check(net, loaded, config)
    with only_one(config.folder):
        return (Stagewise if config.stagewise else Fit)(net, loaded, config, on_epoch).run()
