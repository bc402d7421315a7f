"""Training: from a config to a record."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from kit import seeds
from kit.backbones import TEXT_BACKBONES, backbone
from kit.data import Data, load_data
from kit.files import folder_lock
from kit.losses import check_class_numbers
from kit.measure import memory
from kit.methods import decouple, lookup
from kit.net import Net
from kit.settings import typed
from kit.splitting import paper_cuts
from kit.splitting.split import choose_cuts, split
from kit.train import checkpoint
from kit.train.config import RunConfig
from kit.train.ends import FromData
from kit.train.identity import identify, net_fingerprint, with_known_folder
from kit.train.record import History
from kit.train.run import Run
from kit.train.stagewise import FromFinished

Model = nn.Module | Sequence[nn.Module] | None
"""A model of one's own, whole or as the stages that it is cut into; None takes the config's backbone."""


@typed
def run(config: RunConfig, on_epoch: Callable[[int, Net], None] | None = None, model: Model = None) -> History:
    """Load the data, build the net, train, evaluate, and record into the config's folder.

    If that folder holds a checkpoint of the same settings, go on from there; the end is bit for bit that of a run
    never stopped. `model` as for `build`. Raises ValueError for settings that cannot be, and before any training.
    """
    loaded = load_data(config)
    return fit(build(config, loaded, model=model), loaded, config, on_epoch)


def build(config: RunConfig, loaded: Data, cuts: Sequence[str] | None = None, model: Model = None) -> Net:
    """Return the config's net for that data. First weights depend on the seed and the backbone, not on the method.

    `cuts` are the cut points that `measured_cuts` found, for a config whose cuts take a measurement. `model` comes in
    the backbone's place: a module, cut as the config says, or a list of stages. It is copied, and stays as it is.
    Raises ValueError for a model that cannot be cut so, and says why.
    """
    cuts = measured_cuts(config, loaded, model) if cuts is None else list(cuts)
    balance, at = paper_cuts.find(config.cuts, config.backbone if model is None else "own", config.num_blocks)
    example = torch.zeros(2, *loaded.shape, dtype=loaded.dtype, device=config.resolved_device())
    whole, given = _model(config, loaded, model), isinstance(model, list | tuple)
    few = example[:, :4] if loaded.words else example  # an LSTM on the meta device is slow
    stages = list(whole) if given else split(whole, config.num_blocks, few, balance=balance, at=cuts or at)
    if len(stages) != config.num_blocks:
        raise ValueError(f"model has {len(stages)} stages, but num_blocks={config.num_blocks}: give {len(stages)}")
    start = config.growth and config.growth.start
    net = _decoupled(config, loaded, stages, precision=config.precision, pixels=loaded.denormalize, start=start)
    origin = config.net_content() | {"fingerprint": net_fingerprint(net)}
    net.cuts, net.origin = cuts, origin if model is None else None
    return net


def _decoupled(config: RunConfig, loaded: Data, stages: Sequence[nn.Module], **how: object) -> Net:
    """Return the net that the config's method makes of `stages`."""
    shapes, device = {"x": loaded.shape, **loaded.view_shapes}, config.resolved_device()
    examples = {name: torch.zeros(2, *shape, dtype=loaded.dtype, device=device) for name, shape in shapes.items()}
    settings = {"seed": config.seed, "context_options": config.context_options, **how, **config.options}
    return decouple(stages, config.method, loaded.num_classes, examples, config.context, config, **settings)


def measured_cuts(config: RunConfig, loaded: Data, model: Model = None) -> list[str] | None:
    """Return the names of the cut points, if they take a measurement. A run that goes on keeps those it began with.

    Cuts by memory count bodies, heads and losses, as `kit.measure.memory.plan` does for fp32; but bodies alone where
    one loss trains the whole net.
    """
    if isinstance(model, list | tuple):
        return None
    balance, at = paper_cuts.find(config.cuts, config.backbone if model is None else "own", config.num_blocks)
    heads = balance == "memory" and not lookup(config.method).one_loss
    if at is not None or config.num_blocks == 1 or not (heads or balance == "time"):
        return None
    if config.folder and (path := checkpoint.latest(config.folder)):
        return checkpoint.load(path, ["run"])[0]["cuts"]
    batch = config.batch_size if heads else min(config.batch_size, 32)
    example = torch.zeros(batch, *loaded.shape, dtype=loaded.dtype, device=config.resolved_device())

    def peaks(stages: Sequence[nn.Module]) -> tuple[list[int], ...]:
        smallest = replace(config, method="greedy", options={})
        builds = [partial(_decoupled, own, loaded, pixels=torch.sigmoid) for own in (smallest, config)]
        return tuple(memory.peaks(stages, build, example) for build in builds)

    return choose_cuts(_model(config, loaded, model), config.num_blocks, example, balance, peaks if heads else None)


def _model(config: RunConfig, loaded: Data, own: Model) -> nn.Module:
    """Return the config's backbone for that data, whole, on its device; or a copy of one's own model."""
    if own is not None and (config.width != 1 or config.backbone_options):
        raise ValueError("width and backbone_options are of the kit's backbones; leave them out where model= is given")
    if own is not None:
        model = nn.ModuleList(own) if isinstance(own, list | tuple) else own
        return deepcopy(model).to(config.resolved_device())
    reads = "texts" if config.backbone in TEXT_BACKBONES else "images"
    has = "texts" if loaded.words else "images" if len(loaded.shape) > 1 else "rows of numbers"
    if reads != has and not (config.backbone == "mlp" and has != "texts"):
        ways = {"texts": " or ".join(TEXT_BACKBONES), "images": "vgg-paper or another one", "rows of numbers": "mlp"}
        raise ValueError(f"backbone={config.backbone!r} reads {reads}, and {loaded.name} has {has}: take {ways[has]}")
    first, last = loaded.shape[0], loaded.shape[-1]
    sizes = {"texts": (len(loaded.words), first), "images": (first, last), "rows of numbers": (first, 1)}
    channels, side = sizes[has]
    with seeds.seeded(config.seed, "backbone"):
        options = dict(config.backbone_options) | ({} if loaded.vectors is None else {"vectors": loaded.vectors})
        model = backbone(config.backbone, channels, loaded.num_classes, config.width, side, **options)
    return model.to(config.resolved_device())


@typed
def fit(net: Net, loaded: Data, config: RunConfig, on_epoch: Callable[[int, Net], None] | None = None) -> History:
    """Train `net` on `loaded` and return the record. Uses the config's training settings and its folder.

    Every epoch ends with the accuracy of every exit on validation and test, outside any timed region. With a folder,
    a checkpoint is written each epoch and every `checkpoint_steps` steps, the best epoch's weights (by validation) are
    kept beside it (`kit.train.checkpoint.weights`), and a checkpoint that is there already is gone on from. Raises
    ValueError for a net, data and settings that cannot train together, and for a folder of another run.
    """
    check_fit(net, loaded, config)
    config, identity = with_known_folder(net, loaded, config), identify(net, loaded, config)
    with folder_lock(config.folder):
        source = (FromFinished if config.stagewise else FromData)(net, loaded, config)
        return Run(net, loaded, config, identity, source, on_epoch=on_epoch).run()


def check_fit(net: Net, loaded: Data, config: RunConfig) -> None:
    """Raise ValueError for a net, data and settings that cannot train together."""
    if loaded.num_classes != net.num_classes:
        raise ValueError(f"{loaded.name} has {loaded.num_classes} classes, but the net answers {net.num_classes}")
    for name, part in loaded.splits.items():
        if len(part) == 0:
            raise ValueError(f"the {name} split of {loaded.name} is empty: raise limit or val_fraction")
        check_class_numbers(part.labels.cpu(), len(part), net.num_classes, f"{loaded.name}, {name} labels")
    asked = net.views | set(filter(None, config.growth.side if config.growth else ()))
    for view in sorted(asked - set(loaded.views) - ({"mask"} if loaded.words else set())):
        beside = ", ".join(loaded.views) or "nothing"
        raise ValueError(
            f"the net asks for the view {view!r}, but {loaded.name} carries {beside} beside the input: name it in "
            "views=(input, view, …), or use data.with_views"
        )
    if net.uses_batch_statistics and min(config.batch_size, len(loaded.train)) < 2:
        raise ValueError(
            f"batch_size={config.batch_size} with {len(loaded.train)} training images: "
            "batch norm and batch-wise losses take at least 2 images per step"
        )
