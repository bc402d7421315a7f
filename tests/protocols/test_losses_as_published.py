"""Losses and heads in their published forms, against references written from the published definitions, in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kit
from kit import heads, losses
from kit.methods.predsim import predsim_objective
from kit.methods.scpl import scpl_objective
from kit.objective import HeadSpec
from kit.shapes import Shape
from kit.signal import Signal

torch.set_num_threads(1)
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def spec(shape=(6, 4, 4), index=1, source=(6, 4, 4), pixels=torch.sigmoid, before=()):
    image = Shape((3, 8, 8))
    return HeadSpec(Shape(shape), 5, 16, None, index, 4, image, pixels, before, Shape(source))


def gradients(loss, *of):
    return torch.autograd.grad(loss, of)


# Supervised contrast


def contrast_by_hand(z, y, temperature, form):
    """Sum over anchors one by one, in plain Python."""
    z = F.normalize(z, dim=1)
    total, anchors = 0.0, 0
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        positives = [j for j in others if y[j] == y[i]]
        denominator = sum((z[i] @ z[j] / temperature).exp() for j in others)
        drawn = -sum(torch.log((z[i] @ z[j] / temperature).exp() / denominator) for j in positives)
        total = total + drawn / (len(positives) + 1 if form == "scpl" else max(1, len(positives)))
        anchors += bool(positives) or form != "supcon"
    return total / anchors


@pytest.mark.parametrize("form", losses.CONTRASTS)
def test_contrast(form):
    z = torch.randn(9, 7, requires_grad=True)
    y = torch.tensor([0, 0, 1, 1, 1, 2, 3, 0, 4])  # three anchors are alone with their class
    ours, theirs = losses.supervised_contrast(z, y, 0.1, form), contrast_by_hand(z, y, 0.1, form)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    torch.testing.assert_close(gradients(ours, z), gradients(theirs, z), **CLOSE)


def test_the_forms_of_contrast_differ_as_much_as_measured():
    """Ratios at B = 128, SupCon's mean over anchors with positives against the others: METHODS.md."""
    z, y = torch.randn(128, 64), torch.randint(100, (128,))
    supcon, everyone, scpl = (losses.supervised_contrast(z, y, 0.1, form) for form in losses.CONTRASTS)
    alone = sum((y == label).sum() == 1 for label in y)
    torch.testing.assert_close(supcon / everyone, 128 / (128 - alone), **CLOSE)
    assert 2 < supcon / scpl < 3


def test_contrast_refuses_another_form():
    with pytest.raises(ValueError, match="unknown contrast 'sup': choose one of supcon, all-anchors, scpl"):
        losses.supervised_contrast(torch.randn(4, 3), torch.tensor([0, 0, 1, 1]), 0.1, "sup")


# PredSim


def correlation_by_numpy(rows):
    return np.corrcoef(rows.detach().numpy())


def test_predsim_compares_deviations_over_places():
    objective = predsim_objective(spec())
    h, y = torch.randn(8, 6, 4, 4, requires_grad=True), torch.randint(5, (8,))
    terms = objective.loss(h, Signal(h.detach(), y))
    maps = F.conv2d(h, objective.net.weight, padding=1)
    labels = correlation_by_numpy(F.one_hot(y, 5).double())
    theirs = ((correlation_by_numpy(maps.flatten(2).std(dim=2)) - labels) ** 2).mean()
    torch.testing.assert_close(terms["similarity"].item(), theirs, **CLOSE)
    spread = maps.flatten(2).std(dim=2)
    centred = spread - spread.mean(dim=1, keepdim=True)
    unit = centred / centred.square().sum(dim=1, keepdim=True).sqrt()
    reference = F.mse_loss(unit @ unit.T, torch.from_numpy(labels))
    torch.testing.assert_close(gradients(terms["similarity"], h), gradients(reference, h), **CLOSE)
    flat = predsim_objective(spec(), similarity="flat")
    flat.load_state_dict(objective.state_dict())
    theirs = ((correlation_by_numpy(maps.flatten(1)) - labels) ** 2).mean()
    torch.testing.assert_close(flat.loss(h, Signal(h.detach(), y))["similarity"].item(), theirs, **CLOSE)


def test_a_constant_channel_has_a_gradient():
    h = torch.zeros(4, 6, 3, 3, requires_grad=True)
    (gradient,) = gradients(heads.spread_rows(h).sum(), h)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [((128, 32, 32), (8, 4)), ((256, 16, 16), (4, 4)), ((512, 4, 4), (2, 1)), ((64, 8, 8), (1, 1))],
)
def test_predsims_classifier_reads_up_to_4096_features(shape, kernel):
    net = heads.places_classifier(shape, 10)
    assert net[-1].in_features <= 4096 and not net[-1].weight.any()
    assert tuple(net[0].kernel_size) == kernel
    x = torch.randn(2, *shape)
    torch.testing.assert_close(net[:-1](x), F.avg_pool2d(x, kernel).flatten(1), **CLOSE)


def test_predsims_terms():
    weights = {
        name: predsim_objective(spec(), beta=0.75, **options).weights
        for name, options in {
            "both": {},
            "pred": {"loss": "pred"},
            "sim": {"loss": "sim"},
            "unsupervised": {"unsupervised": "sim", "alpha": 0.5},
            "reconstruction": {"unsupervised": "reconstruction", "alpha": 0.5},
        }.items()
    }
    assert weights == {
        "both": {"ce": 0.25, "similarity": 0.75},
        "pred": {"ce": 1.0, "similarity": 0.0},
        "sim": {"similarity": 1.0, "ce": 1.0},
        "unsupervised": {"ce": 0.125, "similarity": 0.375, "input_similarity": 0.5},
        "reconstruction": {"ce": 0.125, "similarity": 0.375, "reconstruction": 0.5},
    }


def test_similarity_alone_leaves_the_classifier_watching():
    objective = predsim_objective(spec(), loss="sim")
    h, y = torch.randn(8, 6, 4, 4, requires_grad=True), torch.randint(5, (8,))
    terms = objective.loss(h, Signal(h.detach(), y))
    assert torch.autograd.grad(terms["ce"], h, allow_unused=True) == (None,)
    assert gradients(terms["similarity"], h)[0].any()
    assert set(predsim_objective(spec(), loss="pred").loss(h, Signal(h.detach(), y))) == {"ce"}


def test_predsims_unsupervised_terms():
    h, y, x = torch.randn(8, 6, 4, 4, requires_grad=True), torch.randint(5, (8,)), torch.rand(8, 3, 8, 8)
    objective = predsim_objective(spec(source=(3, 8, 8)), unsupervised="sim", alpha=0.5)
    found = objective.loss(h, Signal(x, y))["input_similarity"]
    spread = F.conv2d(h, objective.net.weight, padding=1).flatten(2).std(dim=2)
    theirs = (correlation_by_numpy(spread) - correlation_by_numpy(x.flatten(1))) ** 2  # three channels are flattened
    torch.testing.assert_close(found.item(), theirs.mean(), **CLOSE)
    objective = predsim_objective(spec(source=(3, 8, 8)), unsupervised="reconstruction", alpha=0.5)
    conv = objective.decoder[0]
    image = F.relu(F.conv_transpose2d(h, conv.weight, conv.bias, stride=2, padding=1, output_padding=1))
    found = objective.loss(h, Signal(x, y))["reconstruction"]
    torch.testing.assert_close(found.double(), F.mse_loss(image, x), **CLOSE)
    first = predsim_objective(spec(index=0, source=(3, 8, 8)), unsupervised="reconstruction", alpha=0.5)
    assert "reconstruction" not in first.loss(h, Signal(x, y))


# SCPL


def test_scpls_projectors():
    h = torch.randn(4, 6, 4, 4)
    kinds = {kind: scpl_objective(spec(), (7, 9), projector=kind).projector for kind in ("mlp", "linear", "mlp-bn")}
    layers = [m for m in kinds["mlp"].modules() if isinstance(m, nn.Linear | nn.BatchNorm1d | nn.ReLU)]
    assert [type(m) for m in layers] == [nn.Linear, nn.ReLU, nn.Linear]
    theirs = F.linear(F.relu(F.linear(h.flatten(1), layers[0].weight, layers[0].bias)), *layers[2].parameters())
    torch.testing.assert_close(kinds["mlp"](h), theirs, **CLOSE)
    assert sum(isinstance(m, nn.BatchNorm1d) for m in kinds["mlp-bn"].modules()) == 1
    assert sum(isinstance(m, nn.Linear) for m in kinds["linear"].modules()) == 1
    assert kinds["linear"](h).shape == (4, 9)
    torch.testing.assert_close(scpl_objective(spec(), projector="average").projector(h), h.mean((2, 3)), **CLOSE)
    torch.testing.assert_close(scpl_objective(spec(), projector="identity").projector(h), h.flatten(1), **CLOSE)


# Auxiliary nets


@pytest.mark.parametrize(
    ("kind", "count"),
    [("mlp", 796_170), ("mlp-sr", 846_090), ("cnn", 300_810), ("1c2f", 329_610)],
)
def test_dgls_auxiliary_nets_have_the_published_weights(kind, count):
    """The published `mlp` holds 256 more, of a norm that it never uses."""
    net = heads.aux_net(kind, (128, 32, 32), 10, 512)
    assert kit.measure.costs.parameters(net) == count


@pytest.mark.parametrize("kind", ["mlp", "mlp-sr", "cnn"])
def test_dgls_auxiliary_nets(kind):
    net = heads.aux_net(kind, (6, 8, 8), 5, 6)
    x = torch.randn(4, 6, 8, 8)

    def norm(h):
        dims = [0, *range(2, h.ndim)]
        shape = [1, -1, *[1] * (h.ndim - 2)]
        mean, var = h.mean(dims), h.var(dims, unbiased=False)
        return (h - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()

    h = x if kind == "cnn" else F.avg_pool2d(x, 4)
    for conv in (m for m in net if isinstance(m, nn.Conv2d)):
        h = F.relu(norm(F.conv2d(h, conv.weight, padding=conv.padding)))
    h = F.adaptive_avg_pool2d(h, 2)
    h = (norm(h) if kind == "cnn" else h).flatten(1)
    linears = [m for m in net.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == (1 if kind == "cnn" else 4)
    for linear in linears[:-1]:
        h = F.relu(norm(linear(h)))
    torch.testing.assert_close(net(x), linears[-1](h), **CLOSE)


def test_dgls_auxiliary_nets_refuse_vectors():
    with pytest.raises(ValueError, match=r"aux='mlp' reads maps \(C, H, W\), but features have the shape \(7,\)"):
        heads.aux_net("mlp", (7,), 5, 6)


def convolutions(net):
    return [(m.in_channels, m.out_channels, m.stride[0]) for m in net if isinstance(m, nn.Conv2d)]


def test_the_second_convolution_keeps_the_width():
    assert convolutions(heads.aux_net("2c2f", (16, 8, 8), 5, 64)) == [(16, 32, 2), (32, 32, 1)]
    assert convolutions(heads.aux_net("2c2f", (16, 8, 8), 5, 64, widening="each")) == [(16, 32, 2), (32, 64, 2)]


def test_widen_and_feature_dim():
    net = heads.aux_net("2c2f", (16, 8, 8), 5, 64, widen=1.5, feature_dim=20)
    assert convolutions(net) == [(16, 48, 2), (48, 48, 1)]
    assert [(m.in_features, m.out_features) for m in net if isinstance(m, nn.Linear)] == [(48, 30), (30, 5)]
    decoder = heads.Decoder((16, 8, 8), (3, 8, 8), 1.5)
    assert [(m.in_channels, m.out_channels) for m in decoder.paint if isinstance(m, nn.Conv2d)] == [(16, 18), (18, 3)]


def test_fan_out_weights():
    """Normal of variance 2 / (places × outputs), as measured in METHODS.md: .137 for 12 channels of 3×3."""
    torch.manual_seed(1)
    decoder = heads.Decoder((64, 8, 8), (3, 8, 8), init="fan-out")
    assert abs(decoder.paint[0].weight.std() - (2 / (9 * 12)) ** 0.5) < 0.005
    assert abs(heads.Decoder((64, 8, 8), (3, 8, 8)).paint[0].weight.std() - (3 * 9 * 64) ** -0.5) < 0.002
    assert abs(heads.aux_net("1c2f", (16, 8, 8), 5, 64, init="fan-out")[0].weight.std() - (2 / 288) ** 0.5) < 0.005


def test_the_decoder_leaves_maps_of_the_images_size_as_they_are():
    decoder, h = heads.Decoder((4, 8, 8), (3, 8, 8)), torch.randn(2, 4, 8, 8)
    same = F.interpolate(h, (8, 8), mode="bilinear", align_corners=True)
    assert torch.equal(decoder(h), decoder.paint(same).float().sigmoid())
