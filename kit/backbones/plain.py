"""The networks that are plain rows of layers: DeInfoReg's VGG, and multilayer perceptrons."""

from collections import OrderedDict
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from kit.settings import Count, one_of

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "sigmoid": nn.Sigmoid, "leaky_relu": nn.LeakyReLU}
ACTIVATIONS |= {"silu": nn.SiLU, "identity": nn.Identity}
NORMS = {None: nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
INITS = {"default": None, "xavier": nn.init.xavier_uniform_, "kaiming": nn.init.kaiming_normal_}
INITS |= {"orthogonal": nn.init.orthogonal_}

Groups = Annotated[int, Field(ge=1, le=4, description="1 to 4: vgg-paper has 4 groups of layers")]


def vgg_paper(
    in_channels: int, num_classes: int, width: float, image_size: int, groups: Groups = 4,
    classifier: Literal["linear", "mlp"] = "linear",
) -> nn.Sequential:  # fmt: skip
    """[128,128,128,256,M] [256,512,M] [512,512,M] [512,M]; M rounds odd sizes up, so that 28 and 8 pixels work.

    `groups` keeps the first so many: the shallow network that a block's exit is to be compared with. `classifier`:
    "mlp" has a hidden layer of 2048 · width, as the paper's backprop and SCPL have. The default has none, so that
    backprop and the methods that bring heads of their own train the same layers.
    """
    layers, channels = OrderedDict(), in_channels
    for number, group in enumerate([(128, 128, 128, 256), (256, 512), (512, 512), (512,)][:groups], start=1):
        block = []
        for planned in group:
            out = max(1, round(planned * width))
            block += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
        layers[f"block{number}"] = nn.Sequential(*block, nn.MaxPool2d(2, ceil_mode=True))
        image_size = (image_size + 1) // 2
    layers["flatten"], features = nn.Flatten(), channels * image_size**2
    if classifier == "mlp":
        hidden = max(1, round(2048 * width))
        layers |= OrderedDict(hidden=nn.Linear(features, hidden), relu=nn.ReLU())
        features = hidden
    layers["classifier"] = nn.Linear(features, num_classes)
    return nn.Sequential(layers)


class _Skip(nn.Sequential):
    """Adds its input to its output."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def mlp(
    in_channels: int, num_classes: int, width: float, image_size: int, depth: Count = 3, hidden: Count | None = None,
    activation: Annotated[str, one_of("activation", lambda: ACTIVATIONS)] = "relu",
    norm: Annotated[str, one_of("norm", lambda: list(NORMS)[1:])] | None = None,
    residual: bool = False, init: Annotated[str, one_of("init", lambda: INITS)] = "default",
) -> nn.Sequential:  # fmt: skip
    """Build flatten, `depth` hidden layers (Linear, norm, activation) called layer1 … layerN, and a linear classifier.

    `hidden` is their width, by default 128 · width; `residual` adds a layer's input to its output where the sizes
    agree; `init` fills the weight matrices (biases then are 0), "default" leaves PyTorch's. `activation`, `norm` and
    `init` are keys of `ACTIVATIONS`, `NORMS` and `INITS`.
    """
    hidden = max(1, round(128 * width)) if hidden is None else hidden
    layers, size = OrderedDict(flatten=nn.Flatten()), in_channels * image_size**2
    for number in range(1, depth + 1):
        kind = _Skip if residual and size == hidden else nn.Sequential
        steps = [nn.Linear(size, hidden), NORMS[norm](hidden), ACTIVATIONS[activation]()]
        layers[f"layer{number}"] = kind(*(step for step in steps if not isinstance(step, nn.Identity)))
        size = hidden
    layers["classifier"] = nn.Linear(size, num_classes)
    model = nn.Sequential(layers)
    for module in model.modules() if INITS[init] else ():
        if isinstance(module, nn.Linear):
            INITS[init](module.weight)
            nn.init.zeros_(module.bias)
    return model
