"""The networks to train, by name: the papers' own, and every torchvision classifier."""

from functools import partial
from inspect import signature
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from kit.backbones.cifar import densenet_bc, resnet, wide_resnet
from kit.backbones.plain import ACTIVATIONS, INITS, NORMS, mlp, vgg_paper
from kit.backbones.sequences import lstm, transformer
from kit.errors import unknown
from kit.measure.costs import copied, meta
from kit.settings import Count, Positive, confirm

__all__ = ["ACTIVATIONS", "BACKBONES", "INITS", "NORMS", "TAKE_WIDTH", "TEXT_BACKBONES",
           "backbone", "backbone_names", "mlp"]  # fmt: skip

Kinds = Annotated[int, Field(ge=2, description="a whole number of at least 2")]

_DEPTHS = (20, 32, 56, 110, 1202)
BACKBONES = {
    "vgg-paper": "DeInfoReg's VGG: nine 3×3 convolutions in four groups, block1 … block4; takes width, groups",
    "mlp": "flatten and `depth` hidden linear layers, layer1 … layerN; takes width",
    **{f"resnet{n}": f"He et al.'s CIFAR ResNet: {n} layers in three stages; takes width" for n in _DEPTHS},
    "densenet100": "DenseNet-BC-100-12 of Huang et al. for CIFAR: three dense stages; takes width, and growth",
    "wrn28": "WRN-28-10 of Zagoruyko and Komodakis for CIFAR: three wide stages; takes width, and widen",
    "resnet18": "ResNet-18; below 64 pixels with a 3×3 stem and no first pool, from there on torchvision's own",
    "resnet34": "ResNet-34; stem as for resnet18",
    "resnet50": "ResNet-50; stem as for resnet18",
    "lstm": "texts: word vectors, `depth` bidirectional LSTM layers, layer1 … layerN; takes width, hidden",
    "transformer": "texts: word vectors, `depth` Transformer encoder layers, layer1 … layerN; takes width, hidden",
}
"""The kit's own backbones: name → description. All torchvision classifiers can be named as well."""

_OWN = {"vgg-paper": vgg_paper, "mlp": mlp, **{f"resnet{n}": partial(resnet, (n - 2) // 6) for n in _DEPTHS}}
TEXT_BACKBONES = {"lstm": lstm, "transformer": transformer}
"""Those that read word numbers and a mask, with their builders."""
_OWN |= {"densenet100": densenet_bc, "wrn28": wide_resnet, **TEXT_BACKBONES}
TAKE_WIDTH = [*_OWN, "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"]


def backbone_names() -> list[str]:
    """Return every name that `backbone` knows: the kit's own and torchvision's classifiers."""
    from torchvision import models  # takes a second, which importing the kit should not

    return [*_OWN, *models.list_models(module=models)]


def backbone(
    name: str, in_channels: Count = 3, num_classes: Kinds = 10, width: Positive = 1.0, image_size: Count = 32, **options
) -> nn.Module:
    """Build a classifier, untrained: images (B, in_channels, image_size, image_size) → logits (B, num_classes).

    Those of texts take word numbers and a mask, (B, image_size) each; `in_channels` is then the number of words.

    `name` is one of `BACKBONES` or of torchvision's classifiers, which come without auxiliary heads. `width` multiplies
    the channels of those in `TAKE_WIDTH`. `options` go to the builder: for vgg-paper `groups` and `classifier`, for mlp
    `depth`, `hidden`, `activation`, `norm`, `residual`, `init`, for CIFAR's ResNets `shortcut`, `init`, `dropout`, for
    wrn28 also `widen`, `bias`, `stride`, for texts `depth`, `hidden`, and of the transformer `heads` and `dropout`; for
    torchvision's what its own take, and `init="pytorch"`, without its own first weights. The flattened map of
    vgg-paper, the mlp and vision transformers fit only the `image_size` they were built for.

    Raises ValueError for an unknown name, an option or a width that the backbone does not take, and too small images.
    """
    if name not in [*_OWN] and name not in (known := backbone_names()):
        raise unknown("backbone", name, known)
    build = _OWN.get(name) or partial(_torchvision, name)
    sizes = {"in_channels": in_channels, "num_classes": num_classes, "width": width, "image_size": image_size}
    known = {**signature(build).parameters, **signature(backbone).parameters}
    for option, value in {**sizes, **options}.items():
        if option in known:
            confirm(option, value, known[option].annotation)
        elif name in _OWN:  # torchvision's own builders know theirs
            own = [other for other in signature(build).parameters if other not in sizes]
            raise unknown(f"option of backbone {name!r}:", option, own)
    if width != 1 and name not in TAKE_WIDTH:
        raise ValueError(f"width={width}, but {name} comes in one width; these take one: {', '.join(TAKE_WIDTH)}")
    try:
        model = build(**sizes, **options)
    except TypeError as error:
        raise ValueError(f"backbone {name!r} does not take the options {options}: {error}") from error
    if name in TEXT_BACKBONES:  # which take texts of any length
        return model
    try:
        logits = copied(model, meta).eval()(torch.empty(2, in_channels, image_size, image_size, device="meta"))
    except Exception as error:  # an image too small for the model fails on its way
        advice = "Choose a larger image_size, or a backbone for small images such as vgg-paper or resnet20"
        raise ValueError(f"{name} does not take {image_size}×{image_size} images: {error}. {advice}") from error
    assert logits.shape == (2, num_classes), logits.shape
    return model


def _torchvision(
    name: str, in_channels: int, num_classes: int, width: float, image_size: int,
    init: Literal["own", "pytorch"] = "own", **options: Any,
):  # fmt: skip
    """Build torchvision's classifier `name` without auxiliary heads, for the given images.

    `init`: its own first weights, or those that PyTorch gives each layer, as DeInfoReg trains ResNets.
    """
    from torchvision import models

    family = name.split("_")[0]
    if family in ("googlenet", "inception"):  # their own initialisation takes minutes
        options = {"aux_logits": False, "init_weights": False, **options}
    sizes = {"vit": {"image_size": image_size}, "maxvit": {"input_size": (image_size, image_size)}}
    options = sizes.get(family, {}) | ({} if width == 1 else {"width_mult": width}) | options
    try:
        model = models.get_model(name, weights=None, num_classes=num_classes, **options)
    except (AssertionError, ValueError) as error:
        size = f"{image_size}×{image_size}"
        raise ValueError(f"{name} cannot be built for {size} images with {options}: {error}") from error
    if name in BACKBONES and image_size < 64:  # the stem that papers give these networks on CIFAR
        model.conv1 = nn.Conv2d(in_channels, model.conv1.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    if in_channels != 3:
        path, conv = next((path, module) for path, module in model.named_modules() if isinstance(module, nn.Conv2d))
        settings = {key: getattr(conv, key) for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
        model.set_submodule(path, nn.Conv2d(in_channels, conv.out_channels, bias=conv.bias is not None, **settings))
    for layer in model.modules() if init == "pytorch" else ():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return model
