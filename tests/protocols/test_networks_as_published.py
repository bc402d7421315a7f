"""Networks, heads and cuts: weights counted as in published code, and the published forms of their parts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kit
from kit.measure import memory
from kit.measure.costs import parameters
from kit.splitting.paper_cuts import DDG_CUTS, FDG_CUTS, find

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "options", "num_classes", "count"),
    [
        ("resnet32", {}, 10, 464_154),
        ("resnet32", {"shortcut": "conv"}, 10, 466_906),  # InfoPro, ContSup
        ("resnet110", {}, 10, 1_727_962),
        ("resnet110", {"shortcut": "conv"}, 10, 1_730_714),
        ("wrn28", {}, 10, 36_479_194),
        ("wrn28", {"bias": True, "stride": "second", "shortcut": "raw"}, 10, 36_489_290),  # FDG
        ("vgg-paper", {}, 100, 9_651_428),
        ("vgg-paper", {"classifier": "mlp"}, 100, 13_847_780),  # DeInfoReg's backprop
        ("vgg-paper", {"classifier": "mlp"}, 10, 13_663_370),
        ("resnet20", {"init": "pytorch"}, 10, 269_722),  # FDG: 0.27 M
        ("resnet18", {"init": "pytorch"}, 10, 11_173_962),  # DeInfoReg, FDG: 11.2 M
    ],
)
def test_networks_have_as_many_weights_as_published(name, options, num_classes, count):
    with memory.on_paper():
        assert parameters(kit.backbone(name, 3, num_classes, 1.0, 32, **options)) == count


def decoupled(name, method, num_blocks=4, context="none", num_classes=10, backbone=None, **options):
    """Return the net, built on paper: its weights have no data."""
    model = kit.backbone(name, 3, num_classes, 1.0, 32, **(backbone or {}))
    balance, at = find("auto", name, num_blocks)
    stages = kit.split(model, num_blocks, torch.zeros(2, 3, 32, 32), balance, at)
    nets = []

    def build(stages):
        example = torch.zeros(2, 3, 32, 32)
        nets.append(kit.decouple(stages, method, num_classes, example, context, pixels=torch.sigmoid, **options))
        return nets[0]

    memory.peaks(stages, build, torch.zeros(4, 3, 32, 32))
    return nets[0]


def head_weights(net, part):
    return [parameters(block.objective.get_submodule(part)) for block in net]


def linear(*sizes):
    return sum(a * b + b for a, b in zip(sizes[:-1], sizes[1:], strict=True))


def test_deinforegs_last_projector_reads_the_map():
    """25.2 M weights on ResNet-18, 9.4 M where it reads what the pool leaves."""
    norms = 2 * 2 * 2048
    own = head_weights(decoupled("resnet18", "deinforeg", last="map"), "projector")
    assert own[-1] == linear(8192, 2048, 2048, 2048) + norms == 25_180_160
    assert head_weights(decoupled("resnet18", "deinforeg"), "projector")[-1] == linear(512, 2048, 2048, 2048) + norms
    assert own[0] == linear(64 * 32 * 32, 2048, 2048, 2048) + norms


def test_deinforegs_own_heads_on_its_vgg():
    """256.7 M weights in projectors and merged classifiers (METHODS.md); unmerged ones are 2048-2048-C."""
    sizes = [256 * 16 * 16, 512 * 8 * 8, 512 * 4 * 4, 512 * 2 * 2]
    net = decoupled("vgg-paper", "deinforeg", num_classes=100, classifier="unmerge")
    norms = 2 * 2 * 2048
    assert head_weights(net, "projector") == [linear(size, 2048, 2048, 2048) + norms for size in sizes]
    merged = sum(head_weights(net, "projector")) + 4 * (linear(2048, 100) + 2 * 2048)
    assert round(merged / 1e6, 1) == 256.7
    assert head_weights(net, "classifier") == [linear(size, 2048, 2048, 100) + norms for size in sizes]


def test_als_own_modules_on_the_vgg():
    """287 M weights in all, bridges flatten-2500-500 and codes of 500; 65 M in the compact form."""
    options = {"code": 500, "hidden": 2500, "activation": "sigmoid", "inverse_lr": 2.0}
    net = decoupled("vgg-paper", "al", **options)
    sizes = [256 * 16 * 16, 512 * 8 * 8, 512 * 4 * 4, 512 * 2 * 2]
    assert head_weights(net, "bridge") == [linear(size, 2500, 500) for size in sizes]
    assert head_weights(net, "encoder") == [linear(10, 500), *[linear(500, 500)] * 3]
    assert head_weights(net, "decoder") == [linear(500, 10), *[linear(500, 500)] * 3]
    assert 286e6 < sum(map(parameters, net)) < 288e6
    assert 64e6 < sum(map(parameters, decoupled("vgg-paper", "al"))) < 76e6


def test_scpls_own_heads():
    net = decoupled("resnet18", "scpl", last="map")
    sizes = [64 * 32 * 32, 128 * 16 * 16, 256 * 8 * 8, 512 * 4 * 4]
    assert head_weights(net, "projector") == [linear(size, 512, 1024) for size in sizes]
    assert head_weights(net, "head")[-1] == linear(512, 10)  # average pool and Linear, as published
    wide = decoupled("vgg-paper", "scpl", classifier="mlp")
    assert head_weights(wide, "head")[-1] == linear(2048, 2048, 10) == 4_216_842


def test_infopros_heads():
    """Decoder and 1c2f at 16 channels, as published for ResNet-32 and -110."""
    net = decoupled("resnet32", "infopro", 2, task="contrast")
    decoder, embed = net[0].objective.decoder, net[0].objective.task.projector
    width = net[0].shapes[-1][0]
    assert parameters(decoder) == (9 * width + 1) * 12 + 24 + (9 * 12 + 1) * 3
    out = min(2 * width, 64)
    assert parameters(embed) == 9 * width * out + 2 * out + linear(out, 128, 128)


def test_contsups_encoders():
    net = decoupled("resnet32", "infopro", 4, "R1E", decoder="none")
    width = net[1].shapes[0][0]
    assert parameters(net[1].context.image) == (27 + 1) * 12 + 24 + (9 * 12 + 1) * width + 2 * width
    assert len(net[1].context.earlier) == 0 and len(net[2].context.earlier) == 1  # R's source would be the input
    source, width = net[1].shapes[0][0], net[2].shapes[0][0]
    assert parameters(net[2].context.earlier) == (source + 1) * width + 2 * width


# Forms


def test_the_shortcut_of_infopros_resnets():
    torch.manual_seed(0)
    model = kit.backbone("resnet20", width=0.25, shortcut="conv").eval()
    block, x = model.layer2[0], torch.randn(2, 4, 8, 8)
    conv, norm = block.shortcut
    assert conv.kernel_size == (1, 1) and conv.bias is None and model.layer2[1].shortcut is None
    main = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    theirs = F.relu(main + norm(F.conv2d(x, conv.weight, stride=2)))
    torch.testing.assert_close(block(x), theirs)


def test_fdgs_wide_block():
    torch.manual_seed(0)
    model = kit.backbone("wrn28", width=0.1, bias=True, stride="second", shortcut="raw").eval()
    block, x = model.layer2[0], torch.randn(2, 16, 8, 8)
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))
    inner = F.conv2d(F.relu(block.bn1(x)), block.conv1.weight, block.conv1.bias, padding=1)
    inner = F.conv2d(F.relu(block.bn2(inner)), block.conv2.weight, block.conv2.bias, 2, 1)
    theirs = inner + F.conv2d(x, block.shortcut.weight, block.shortcut.bias, 2)
    torch.testing.assert_close(block(x), theirs)
    assert all(m.bias is not None for m in model.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("name", ["resnet20", "wrn28"])
def test_dropout_stands_before_the_second_convolution(name):
    """As in InfoPro's ResNets and Zagoruyko and Komodakis' WRN; none without it, and nothing dropped in evaluation."""
    plain, dropping = (kit.backbone(name, width=0.25, dropout=p) for p in (0.0, 0.5))
    assert not any(isinstance(m, nn.Dropout) for m in plain.modules())
    dropping.load_state_dict(plain.state_dict())
    block, x, read = dropping.layer2[1], torch.randn(4, 8 if name == "resnet20" else 80, 8, 8), []
    block.conv2.register_forward_pre_hook(lambda module, given: read.append(*given))
    torch.testing.assert_close(plain.eval().layer2[1](x), block.eval()(x))
    block.dropout.train()
    block(x)
    whole, dropped = read
    left = dropped != 0
    assert 0.4 < left.sum() / (whole != 0).sum() < 0.6
    torch.testing.assert_close(dropped[left], 2 * whole[left])


@pytest.mark.parametrize("name", ["resnet18", "resnet20"])
def test_first_weights(name):
    """PyTorch's are uniform within 1 / sqrt(fan-in): .024 against .042 on ResNet-18 (METHODS.md)."""
    own, pytorch = (kit.backbone(name, image_size=32, **options) for options in ({}, {"init": "pytorch"}))
    weights = [net.layer1[0].conv1.weight for net in (own, pytorch)]
    width = len(weights[0])
    assert abs(weights[0].std() - (2 / (9 * width)) ** 0.5) < 0.1 * (2 / (9 * width)) ** 0.5
    bound = (9 * width) ** -0.5
    assert weights[1].abs().max() <= bound and abs(weights[1].std() - bound / 3**0.5) < 0.05 * bound


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet20", {"shortcut": "B"}, "unknown shortcut 'B': Choose one of A, conv"),
        ("wrn28", {"stride": "third"}, "unknown stride 'third'"),
        ("vgg-paper", {"classifier": "mlps"}, "unknown classifier 'mlps': did you mean 'mlp'"),
        ("resnet18", {"init": "fan"}, "unknown init 'fan'"),
        ("resnet20", {"dropout": 1.0}, r"dropout=1.0, but it has to be a number in \[0, 1\)"),
    ],
)
def test_refusals(name, options, message):
    with pytest.raises(ValueError, match=message):
        kit.backbone(name, **options)


# Cuts


def places(name, at):
    """Return how many residual blocks each module holds."""
    per_stage = {"resnet20": 3, "resnet56": 9, "resnet110": 18, "wrn28": 4}[name]
    ends = [(int(stage[5:]) - 1) * per_stage + int(block) + 1 for stage, block in (each.split(".") for each in at)]
    bounds = [0, *ends, 3 * per_stage]
    return [b - a for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


FDG = {
    ("resnet20", 2): [4, 5],
    ("resnet20", 3): [3, 3, 3],
    ("resnet56", 2): [13, 14],
    ("resnet56", 3): [9, 9, 9],
    ("resnet56", 4): [6, 7, 7, 7],
    ("resnet110", 2): [27, 27],
    ("resnet110", 4): [13, 14, 14, 13],
    ("resnet110", 5): [10, 11, 11, 11, 11],
    ("wrn28", 2): [6, 6],
    ("wrn28", 4): [3, 3, 3, 3],
}
DDG = {("resnet56", 2): [13, 14], ("resnet110", 2): [26, 28], ("resnet110", 4): [12, 15, 15, 12]}


@pytest.mark.parametrize(("table", "counts"), [(FDG_CUTS, FDG), (DDG_CUTS, DDG)])
def test_fdgs_and_ddgs_cuts(table, counts):
    assert {case: places(case[0], at) for case, at in table.items() if case[0] != "resnet18"} == counts
    assert FDG_CUTS["resnet18", 2] == ("layer2",)


@pytest.mark.parametrize(("cuts", "case"), [("fdg", case) for case in FDG_CUTS] + [("ddg", case) for case in DDG_CUTS])
def test_their_networks_can_be_cut_there(cuts, case):
    name, num_blocks = case
    size = 32 if name != "resnet18" else 16
    width = {} if name == "resnet18" else {"width": 0.1}
    model = kit.backbone(name, image_size=size, **width)
    at = find(cuts, name, num_blocks)[1]
    assert len(kit.split(model, num_blocks, torch.zeros(2, 3, size, size), at=at)) == num_blocks


@pytest.mark.slow
@pytest.mark.parametrize(("num_blocks", "most"), [(4, 30), (16, 15)])
def test_cuts_by_memory_count_heads(num_blocks, most):
    """InfoPro on ResNet-110, batches of 1,024: the planned peak, in per cent of backprop's."""
    from kit.data import Data, Split
    from kit.train import build

    split = Split(torch.zeros(1024, 3, 32, 32, dtype=torch.uint8), torch.arange(1024) % 10)
    names = tuple("0123456789")
    data = Data("cifar10", split, split, split, (3, 32, 32), names, torch.zeros(3), torch.ones(3))
    peaks = []
    for method, count in (("bp", 1), ("infopro", num_blocks)):
        config = kit.RunConfig(
            dataset="cifar10", backbone="resnet110", method=method, num_blocks=count, cuts="memory", batch_size=1024,
            optimizer="sgd", lr=0.8, precision="fp32", output=None, options={"task": "contrast"} if count > 1 else {},
        )  # fmt: skip
        peaks.append(memory.plan(build(config, data), (1024, 3, 32, 32)).peak)
    assert 100 * peaks[1] / peaks[0] <= most


def test_heads_move_the_cuts():
    """A head that takes more where maps are large makes the first blocks shorter."""
    from kit.splitting.balance import balanced

    costs = [4, 4, 4, 4, 2, 2, 2, 2]
    assert balanced(costs, 2) == [2]
    alone = costs, [cost + 1 for cost in costs], [0] * 8
    assert balanced(costs, 2, alone) == [2]
    heavy = costs, [14, 14, 14, 14, 4, 4, 4, 4], [0] * 8
    assert balanced(costs, 2, heavy) == [1]
    entered = costs, costs, [0, 0, 0, 0, 9, 9, 9, 9]  # what enters there would have to be kept besides
    assert balanced(costs, 2, entered) == [2]
