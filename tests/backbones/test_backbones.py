"""Backbones have the shapes, names and sizes they promise, and refuse what they cannot be."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from kit.backbones import BACKBONES, backbone
from kit.measure.costs import parameters
from kit.modules import apply
from kit.splitting.split import split

torch.set_num_threads(1)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in ("resnet1202", "resnet50", "wrn28")])
def test_own_backbones_answer_with_logits_of_every_class(name):
    model = backbone(name, num_classes=7)
    assert model.training
    x = torch.ones(2, 32, dtype=torch.int64) if name in ("lstm", "transformer") else torch.rand(2, 3, 32, 32)
    assert apply(model, x, x != 0).shape == (2, 7)


def convolutions(model: nn.Module) -> list[int]:
    return [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]


def test_vgg_paper_is_the_papers():
    model = backbone("vgg-paper", num_classes=100)
    assert [name for name, _ in model.named_children()] == [
        *(f"block{k}" for k in (1, 2, 3, 4)),
        "flatten",
        "classifier",
    ]
    assert [convolutions(model.get_submodule(f"block{k}")) for k in (1, 2, 3, 4)] == [
        [128, 128, 128, 256],
        [256, 512],
        [512, 512],
        [512],
    ]
    assert all(module.bias is None for module in model.modules() if isinstance(module, nn.Conv2d))
    assert [tuple(model[: k + 1](torch.rand(1, 3, 32, 32)).shape[2:]) for k in range(4)] == [
        (16, 16),
        (8, 8),
        (4, 4),
        (2, 2),
    ]
    assert model.classifier.in_features == 512 * 2 * 2
    assert round((parameters(model) - parameters(model.classifier)) / 1e6, 1) == 9.4  # the figure in METHODS.md


def test_width_multiplies_the_channels():
    model = backbone("vgg-paper", width=0.125)
    assert convolutions(model) == [16, 16, 16, 32, 32, 64, 64, 64, 64]
    assert convolutions(backbone("vgg-paper", width=0.001)) == [1] * 9
    assert convolutions(backbone("resnet20", width=0.5))[-1] == 32
    assert backbone("mlp", width=0.25).layer1[0].out_features == 32


@pytest.mark.parametrize("size", [8, 28])
def test_vgg_paper_takes_small_and_odd_images(size):
    model = backbone("vgg-paper", in_channels=1, width=0.1, image_size=size)
    assert model(torch.rand(2, 1, size, size)).shape == (2, 10)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (56, 0.85), (110, 1.7)])
def test_cifar_resnets_have_the_published_depth_and_size(depth, millions):
    model = backbone(f"resnet{depth}")
    assert len(convolutions(model)) + 1 == depth  # option A: the shortcuts hold no convolution
    assert parameters(model) / 1e6 == pytest.approx(millions, rel=0.02)  # He et al. (2016), table 6


@pytest.mark.parametrize(
    ("name", "depth", "counted"),
    [("densenet100", 100, 769_162), ("wrn28", 28, 36_479_194)],  # published as 0.8 M and 36.5 M
)
def test_densenet_and_wide_resnet_have_the_published_depth_and_size(name, depth, counted):
    model = backbone(name)
    linear = int(name == "densenet100")  # Zagoruyko and Komodakis count the three 1×1 shortcuts instead
    assert len(convolutions(model)) + linear == depth
    assert parameters(model) == counted


@pytest.mark.parametrize(("name", "num_blocks"), [("densenet100", 16), ("wrn28", 12)])
def test_densenet_and_wide_resnet_can_be_cut_behind_every_layer(name, num_blocks):
    model, x = backbone(name, num_classes=5, width=0.1).eval(), torch.rand(2, 3, 32, 32)
    expected = model(x)
    assert expected.shape == (2, 5)
    stages = split(model, num_blocks, x, balance="layers")
    for stage in stages:
        x = stage(x)
    assert torch.equal(x, expected)


def test_densenets_stages_halve_the_map_and_the_channels():
    model, x, shapes = backbone("densenet100"), torch.rand(2, 3, 32, 32), []
    for name, module in model.named_children():
        x = module(x)
        shapes += [tuple(x.shape[1:])] if name.startswith(("dense", "transition")) else []
    expected = [(216, 32, 32), (108, 16, 16), (300, 16, 16), (150, 8, 8), (342, 8, 8)]  # 24 + 16·12, half, …
    assert shapes == expected


def test_wide_resnet_widens_and_strides():
    model = backbone("wrn28", width=0.1, widen=10)
    first = [model.get_submodule(f"layer{k}")[0] for k in (1, 2, 3)]
    assert [block.conv1.stride for block in first] == [(1, 1), (2, 2), (2, 2)]
    assert [block.conv2.out_channels for block in first] == [16, 32, 64]
    assert convolutions(backbone("wrn28", widen=2))[-1] == 128


def test_resnet18_has_a_small_stem_for_small_images_only():
    small, large = backbone("resnet18", image_size=32), backbone("resnet18", image_size=64)
    assert small.conv1.kernel_size == (3, 3) and isinstance(small.maxpool, nn.Identity)
    assert large.conv1.kernel_size == (7, 7) and isinstance(large.maxpool, nn.MaxPool2d)
    assert small.layer1(small.relu(small.bn1(small.conv1(torch.rand(1, 3, 32, 32))))).shape[2:] == (32, 32)


def test_mlp_can_be_thirty_tanh_layers_without_norms_and_skips():
    model = backbone("mlp", in_channels=1, image_size=8, depth=30, hidden=16, activation="tanh", init="xavier")
    assert [name for name, _ in model.named_children()] == [
        "flatten",
        *(f"layer{k}" for k in range(1, 31)),
        "classifier",
    ]
    assert [type(step) for step in model.layer30] == [nn.Linear, nn.Tanh]
    assert not model.layer1[0].bias.any()


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm)])
def test_mlp_norms(norm, kind):
    assert [type(step) for step in backbone("mlp", norm=norm).layer1] == [nn.Linear, kind, nn.ReLU]


def test_mlp_residual_adds_the_input_where_sizes_agree():
    model = backbone("mlp", in_channels=1, image_size=4, depth=2, hidden=8, residual=True, init="orthogonal")
    h = torch.rand(3, 8)
    assert torch.equal(model.layer2(h), h + model.layer2[1](model.layer2[0](h)))
    assert torch.allclose(model.layer2[0].weight @ model.layer2[0].weight.T, torch.eye(8), atol=1e-5)
    assert model(torch.rand(3, 1, 4, 4)).shape == (3, 10)


@pytest.mark.parametrize(
    ("name", "size"),
    [("vit_b_32", 32), ("swin_t", 32), ("googlenet", 32), ("mobilenet_v3_small", 32), ("densenet121", 32)],
)
def test_torchvision_with_one_channel(name, size):
    model = backbone(name, in_channels=1, num_classes=5, image_size=size).eval()
    assert model(torch.rand(2, 1, size, size)).shape == (2, 5)


def test_a_replaced_first_convolution_keeps_its_settings():
    old, new = backbone("alexnet", image_size=64).features[0], backbone("alexnet", 1, image_size=64).features[0]
    assert new.weight.shape == (64, 1, 11, 11)
    assert (new.stride, new.padding, new.bias is None) == (old.stride, old.padding, old.bias is None)


def test_torchvision_width_and_options_reach_the_builder():
    assert parameters(backbone("mobilenet_v2", width=0.5)) < parameters(backbone("mobilenet_v2"))
    assert backbone("alexnet", image_size=64, dropout=0.1).classifier[0].p == 0.1


def test_probing_the_size_leaves_no_trace():
    torch.manual_seed(0)
    model = backbone("resnet20", width=0.25)
    assert int(model.bn1.num_batches_tracked) == 0
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet19"}, "unknown backbone 'resnet19': did you mean 'resnet1"),
        ({"name": ["mlp"]}, "unknown backbone ['mlp']"),
        ({"name": "mlp", "num_classes": 1}, "num_classes=1, but it has to be a whole number of at least 2"),
        ({"name": "mlp", "in_channels": 0}, "in_channels=0, but it has to be a whole number of at least 1"),
        ({"name": "mlp", "image_size": 8.0}, "image_size=8.0, but it has to be a whole number"),
        ({"name": "mlp", "width": 0}, "width=0, but it has to be a positive number"),
        ({"name": "mlp", "width": "1"}, "width='1', but it has to be a positive number"),
        ({"name": "mlp", "width": True}, "width=True, but it has to be a positive number"),
        ({"name": "mlp", "depth": 0}, "depth=0, but it has to be a whole number of at least 1"),
        ({"name": "mlp", "depth": "3"}, "depth='3', but it has to be a whole number of at least 1"),
        ({"name": "mlp", "depth": True}, "depth=True, but it has to be a whole number of at least 1"),
        ({"name": "mlp", "hidden": -1}, "hidden=-1, but it has to be a whole number of at least 1, or None"),
        ({"name": "mlp", "residual": "False"}, "residual='False', but it has to be True or False"),
        ({"name": "wrn28", "widen": 1.5}, "widen=1.5, but it has to be a whole number of at least 1"),
        ({"name": "densenet100", "growth": None}, "growth=None, but it has to be a whole number of at least 1"),
        ({"name": "resnet20", "blocks": 2}, "unknown option of backbone 'resnet20': 'blocks'"),
        ({"name": "mlp", "activation": "rellu"}, "unknown activation 'rellu': did you mean 'relu'"),
        ({"name": "mlp", "norm": "group"}, "unknown norm 'group'"),
        ({"name": "mlp", "init": "xavir"}, "unknown init 'xavir': did you mean 'xavier'"),
        ({"name": "vgg-paper", "groups": 5}, "groups=5, but it has to be 1 to 4: vgg-paper has 4 groups of layers"),
        ({"name": "vgg-paper", "groups": True}, "groups=True, but it has to be 1 to 4"),
        (
            {"name": "mlp", "deep": 3},
            "unknown option of backbone 'mlp': 'deep': did you mean 'depth'? Choose one of depth",
        ),
        ({"name": "alexnet", "image_size": 64, "nonsense": 3}, "backbone 'alexnet' does not take the options"),
        ({"name": "resnet18", "width": 0.5}, "width=0.5, but resnet18 comes in one width; these take one: vgg-paper"),
        ({"name": "alexnet", "image_size": 8}, "alexnet does not take 8×8 images: "),
        ({"name": "vit_b_16", "image_size": 30}, "vit_b_16 cannot be built for 30×30 images"),
        ({"name": "maxvit_t", "image_size": 32}, "maxvit_t cannot be built for 32×32 images"),
    ],
)
def test_what_cannot_be_built_says_why(settings, message):
    with pytest.raises(ValueError) as error:
        backbone(**settings)
    assert message in str(error.value)


def test_importing_the_backbones_does_not_import_torchvision():
    code = "import kit.backbones, kit.splitting.split, sys; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
