"""The networks to train, by name: the papers' own, and every torchvision classifier."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kit.backbones.cifar import densenet_bc, resnet, wide_resnet
from kit.errors import unknown
from kit.measure.costs import on_meta

BACKBONES = {
    "vgg-paper": "DeInfoReg's VGG: nine 3×3 convolutions in four groups, block1 … block4; takes width, groups",
    "mlp": "flatten and `depth` hidden linear layers, layer1 … layerN; takes width",
    "resnet20": "CIFAR ResNet of He et al. with 20 layers in three stages; takes width",
    "resnet32": "CIFAR ResNet of He et al. with 32 layers in three stages; takes width",
    "resnet56": "CIFAR ResNet of He et al. with 56 layers in three stages; takes width",
    "resnet110": "CIFAR ResNet of He et al. with 110 layers in three stages; takes width",
    "resnet1202": "CIFAR ResNet of He et al. with 1202 layers in three stages; takes width",
    "densenet100": "DenseNet-BC-100-12 of Huang et al. for CIFAR: three dense stages; takes width, and growth",
    "wrn28": "WRN-28-10 of Zagoruyko and Komodakis for CIFAR: three wide stages; takes width, and widen",
    "resnet18": "ResNet-18; below 64 pixels with a 3×3 stem and no first pool, from there on torchvision's own",
    "resnet34": "ResNet-34; stem as for resnet18",
    "resnet50": "ResNet-50; stem as for resnet18",
}
"""The kit's own backbones: name → description. All torchvision classifiers can be named as well."""

SMALL_IMAGE = 64
"""Images with fewer pixels a side get the 3×3 stem in resnet18, resnet34 and resnet50."""

TAKE_WIDTH = ["vgg-paper", "mlp", "resnet20", "resnet32", "resnet56", "resnet110", "resnet1202"]
TAKE_WIDTH += ["densenet100", "wrn28"]
TAKE_WIDTH += ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"]

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "identity": nn.Identity,
}
NORMS = {None: nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
INITS = {
    "default": None,
    "xavier": nn.init.xavier_uniform_,
    "kaiming": nn.init.kaiming_normal_,
    "orthogonal": nn.init.orthogonal_,
}


def backbone(
    name: str, in_channels: int = 3, num_classes: int = 10, width: float = 1.0, image_size: int = 32, **options: Any
) -> nn.Module:
    """Build a classifier, untrained: images (B, in_channels, image_size, image_size) → logits (B, num_classes).

    `name` is one of `BACKBONES` or of torchvision's classifiers, which come without auxiliary heads. `width`
    multiplies the channels of vgg-paper, mlp and the CIFAR networks, and is passed as `width_mult` to those of
    torchvision that know it (mobilenet_v2, mobilenet_v3_*). `options` go to the builder: for vgg-paper `groups`, for
    mlp `depth`, `hidden`, `activation`, `norm`, `residual`, `init` (see `mlp`); for torchvision's what its own take.
    The flattened map of vgg-paper, the mlp and vision transformers fit only the `image_size` they were built for.

    Raises ValueError for an unknown name or option, a number out of range, a width the backbone does not take, and
    images too small for it.
    """
    builders = _builders()
    if name not in builders:
        raise unknown("backbone", name, builders)
    _check("in_channels", in_channels, 1)
    _check("num_classes", num_classes, 2)
    _check("image_size", image_size, 1)
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < float("inf"):
        raise ValueError(f"width={width!r}, expected a positive number; 1.0 is the width of the paper")
    if width != 1 and name not in TAKE_WIDTH:
        raise ValueError(f"width={width}, but {name} comes in one width; these take one: {', '.join(TAKE_WIDTH)}")
    try:
        model = builders[name](in_channels, num_classes, width, image_size, **options)
    except TypeError as error:
        raise ValueError(f"backbone {name!r} does not take the options {options}: {error}") from error
    _check_size(name, model, in_channels, num_classes, image_size)
    return model


def _check(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r}, expected an integer of at least {least}")


def _check_size(name: str, model: nn.Module, in_channels: int, num_classes: int, image_size: int) -> None:
    """Send two images without data through the model; an image too small for it fails on its way."""
    state, images = on_meta(model, [torch.empty(2, in_channels, image_size, image_size)])
    model.eval()
    try:
        logits = torch.func.functional_call(model, state, images)
    except Exception as error:
        raise ValueError(
            f"{name} does not take {image_size}×{image_size} images: {error}. Choose a larger image_size, or a "
            "backbone for small images such as vgg-paper or resnet20"
        ) from error
    finally:
        model.train()
    assert logits.shape == (2, num_classes), logits.shape


def backbone_names() -> list[str]:
    """Return every name that `backbone` knows: the kit's own and torchvision's classifiers."""
    return list(_builders())


def _builders() -> dict[str, Callable[..., nn.Module]]:
    """Return every backbone's builder, called with (in_channels, num_classes, width, image_size, **options)."""
    import torchvision

    builders = {name: partial(_torchvision, name) for name in torchvision.models.list_models(module=torchvision.models)}
    depths = {f"resnet{6 * blocks + 2}": partial(resnet, blocks) for blocks in (3, 5, 9, 18, 200)}
    own = {"vgg-paper": _vgg_paper, "mlp": mlp, **depths, "densenet100": densenet_bc, "wrn28": wide_resnet}
    return own | builders


def _vgg_paper(in_channels: int, num_classes: int, width: float, image_size: int, groups: int = 4) -> nn.Sequential:
    """[128,128,128,256,M] [256,512,M] [512,512,M] [512,M]; M rounds odd sizes up, so that 28 and 8 pixels work.

    `groups` keeps the first so many: the shallow network that a block's exit is to be compared with.
    """
    layers, channels = OrderedDict(), in_channels
    if groups not in range(1, 5):
        raise ValueError(f"groups={groups!r}, but vgg-paper has 4 groups of layers; keep the first 1 to 4")
    for number, group in enumerate([(128, 128, 128, 256), (256, 512), (512, 512), (512,)][:groups], start=1):
        block = []
        for planned in group:
            out = max(1, round(planned * width))
            block += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
        layers[f"block{number}"] = nn.Sequential(*block, nn.MaxPool2d(2, ceil_mode=True))
        image_size = (image_size + 1) // 2
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(channels * image_size**2, num_classes)
    return nn.Sequential(layers)


class _Skip(nn.Sequential):
    """Adds its input to its output."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def mlp(
    in_channels: int,
    num_classes: int,
    width: float,
    image_size: int,
    depth: int = 3,
    hidden: int | None = None,
    activation: str = "relu",
    norm: str | None = None,
    residual: bool = False,
    init: str = "default",
) -> nn.Sequential:
    """Build flatten, `depth` hidden layers (Linear, norm, activation) called layer1 … layerN, and a linear classifier.

    `hidden` is their width, by default 128 · width; `residual` adds a layer's input to its output where the sizes
    agree; `init` fills the weight matrices (biases then are 0), "default" leaves PyTorch's. `activation`, `norm` and
    `init` are keys of `ACTIVATIONS`, `NORMS` and `INITS`. Raises ValueError for any other value.
    """
    hidden = max(1, round(128 * width)) if hidden is None else hidden
    _check("depth", depth, 1)
    _check("hidden", hidden, 1)
    for kind, given, table in (("activation", activation, ACTIVATIONS), ("norm", norm, NORMS), ("init", init, INITS)):
        if given not in table:
            raise unknown(kind, given, table)
    layers, size = OrderedDict(flatten=nn.Flatten()), in_channels * image_size**2
    for number in range(1, depth + 1):
        kind = _Skip if residual and size == hidden else nn.Sequential
        steps = [nn.Linear(size, hidden), NORMS[norm](hidden), ACTIVATIONS[activation]()]
        layers[f"layer{number}"] = kind(*(step for step in steps if not isinstance(step, nn.Identity)))
        size = hidden
    layers["classifier"] = nn.Linear(size, num_classes)
    return _initialise(nn.Sequential(layers), INITS[init])


def _initialise(model: nn.Sequential, fill: Callable[[Tensor], Any] | None) -> nn.Sequential:
    for module in model.modules() if fill else ():
        if isinstance(module, nn.Linear):
            fill(module.weight)
            nn.init.zeros_(module.bias)
    return model


def _torchvision(
    name: str, in_channels: int, num_classes: int, width: float, image_size: int, **options: Any
) -> nn.Module:
    """Build torchvision's classifier `name` without auxiliary heads, for the given images."""
    import torchvision

    if name in ("googlenet", "inception_v3"):  # their own initialisation takes minutes
        options = {"aux_logits": False, "init_weights": False, **options}
    if name.startswith("vit_"):
        options = {"image_size": image_size, **options}
    if name.startswith("maxvit_"):
        options = {"input_size": (image_size, image_size), **options}
    if width != 1:
        options = {"width_mult": width, **options}
    try:
        model = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"{name} cannot be built for {image_size}×{image_size} images with {options}: {error}"
        ) from error
    if name in BACKBONES and image_size < SMALL_IMAGE:
        model.conv1 = nn.Conv2d(in_channels, model.conv1.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model if in_channels == 3 else _with_channels(model, in_channels)


def _with_channels(model: nn.Module, in_channels: int) -> nn.Module:
    """Replace the first convolution by one for `in_channels` channels and otherwise the same settings."""
    path, conv = next((path, module) for path, module in model.named_modules() if isinstance(module, nn.Conv2d))
    settings = {key: getattr(conv, key) for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    parent, _, last = path.rpartition(".")
    new = nn.Conv2d(in_channels, conv.out_channels, bias=conv.bias is not None, **settings)
    model.get_submodule(parent)._modules[last] = new
    return model
