"""Which dimension holds the channels: told by the operations that made a feature, not by its sizes."""

import copy

import pytest
import torch
import torchvision
from torch import nn

import kit
from kit import seeds
from kit.context import Context, Encoding
from kit.shapes import Axes, Shape, average, channels_first, output_shapes


def axis_of(model, x):
    """Return the dimension, batch included, that holds the channels of the model's output."""
    with torch.no_grad(), Axes() as axes:
        axes.note(x, 1 if x.ndim == 4 else x.ndim - 1)
        return axes.shape(model.eval()(x)).axis + 1


class Permuted(nn.Module):
    """A convolution whose map leaves with its channels last."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.how = nn.Conv2d(3, 8, 3, padding=1), how

    def forward(self, x):
        return self.how(self.conv(x))


@pytest.mark.parametrize(
    ("how", "axis"),
    [
        (lambda h: h, 1),
        (lambda h: h.relu() + 1, 1),
        (lambda h: h.permute(0, 2, 3, 1), 3),
        (lambda h: nn.functional.gelu(torch.permute(h, (0, 2, 3, 1))), 3),
        (lambda h: h.movedim(1, -1), 3),
        (lambda h: h.transpose(1, 3).transpose(1, 3), 1),
        (lambda h: nn.functional.layer_norm(h.permute(0, 2, 3, 1), (8,)), 3),
        (lambda h: nn.functional.linear(h.permute(0, 2, 3, 1), torch.ones(5, 8)), 3),
        (lambda h: nn.functional.max_pool2d(h, 2), 1),
        (lambda h: torch.cat([h, h], 1), 1),
        (lambda h: h.flatten(2), 1),
        (lambda h: h.flatten(2).transpose(1, 2), 2),
        (lambda h: h.mul_(2), 1),
    ],
)
@pytest.mark.parametrize("size", [(8, 8), (8, 4)])
def test_operations_carry_the_channels(how, axis, size):
    assert axis_of(Permuted(how), torch.randn(2, 3, *size)) == axis


@pytest.mark.parametrize(
    ("name", "channels", "axis"), [("swin_t", [192, 384, 768], 2), ("convnext_tiny", [192, 384, 768], 0)]
)
def test_networks_that_move_channels_about(name, channels, axis):
    model, x = torchvision.models.get_model(name), torch.zeros(2, 3, 64, 64)
    shapes = output_shapes(list(model.features), x)
    found = [shape for shape in shapes if shape.channels in channels]
    assert len(found) >= 3 and {shape.axis for shape in found} == {axis}


def test_half_a_picture_has_maps_that_look_turned():
    """The upper half of a 32×32 image: ResNet-32's first stage makes (16, 16, 32), which are 16 channels."""
    model, x = kit.backbone("resnet32"), torch.randn(4, 3, 16, 32)
    stages = kit.split(model, 2, x, at=["layer1"])
    (first, _) = output_shapes(stages, x)
    assert first == (16, 16, 32) and first.axis == 0 and first.size == (16, 32)
    net = kit.decouple(stages, "greedy", 10, x)
    head, h = net[0].objective.head, stages[0](x)
    assert torch.allclose(head[0](h), h.mean((2, 3))) and head[-1].in_features == 16


def test_a_caller_may_tell():
    x = torch.randn(4, 8, 8, 5)
    stages = [nn.Identity(), nn.Sequential(nn.Flatten(), nn.Linear(320, 3))]
    net = kit.decouple(stages, "greedy", 3, x, shapes=[Shape((8, 8, 5), axis=2), (3,)])
    assert torch.allclose(net[0].objective.head[0](x), x.mean((1, 2)))


@pytest.mark.parametrize("axis", [0, 2])
def test_context_between_maps_of_either_kind(axis):
    sizes = (6, 4, 4) if axis == 0 else (4, 4, 6)
    target, image = Shape(sizes, axis), Shape((3, 8, 8))
    context = Context(target, image, [target], Encoding())
    signal = kit.Signal(torch.randn(2, *sizes), x=torch.randn(2, 3, 8, 8), context=(torch.randn(2, *sizes),))
    assert context(signal).shape == signal.h.shape


def test_a_shape_is_a_tuple_that_knows_its_axis():
    shape = Shape((4, 5, 6), axis=-1)
    assert shape == (4, 5, 6) and shape.axis == 2 and shape.channels == 6 and shape.size == (4, 5)
    assert Shape(shape).axis == copy.deepcopy(shape).axis == 2
    assert [Shape(s).axis for s in ((3,), (5, 3), (3, 4, 4))] == [0, 1, 0]
    h = torch.randn(2, 4, 5, 6, generator=seeds.generator("test"))
    assert torch.equal(average(h, shape), h.mean((1, 2))) and channels_first(h, shape).shape == (2, 6, 4, 5)
