"""Layers laid out for bf16 matrix units: the same numbers, gradients and state, and only where they are of use."""

import copy

import pytest
import torch
from torch import nn

import kit
from kit.compute import amx_layers


@pytest.fixture
def amx(monkeypatch):
    """Let this processor pass for one with the units: oneDNN computes bf16 without them as well."""
    monkeypatch.setattr(amx_layers, "has_amx", lambda: True)


LAYERS = {
    "linear": (nn.Linear(2**14, 64), (6, 2**14)),  # samples 32 KiB apart
    "linear without bias": (nn.Linear(1024, 1024, bias=False), (5, 1024)),
    "conv": (nn.Conv2d(64, 64, 3, padding=1), (16, 64, 8, 8)),
    "conv without bias": (nn.Conv2d(64, 72, 3, padding=1, bias=False), (12, 64, 2, 2)),
    "conv of maps that are not square": (nn.Conv2d(64, 64, 3, padding=1), (6, 64, 5, 3)),
    "conv of a batch that cannot be shared out": (nn.Conv2d(64, 64, 3, padding=1), (1, 64, 8, 8)),
    "conv of large maps": (nn.Conv2d(64, 64, 3, padding=1), (2, 64, 9, 9)),
    "pool": (nn.MaxPool2d(2), (4, 8, 6, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_same_numbers_and_gradients(name, amx):
    plain, shape = LAYERS[name]
    ours = laid_out(plain)
    assert type(ours) is getattr(amx_layers, type(plain).__name__)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(shape, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    exact = copy.deepcopy(plain).to(torch.bfloat16).double()
    results = []
    for layer, given in ((exact, x.double()), (plain, x), (ours, x)):
        leaf = given.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=layer is not exact):
            y = layer(leaf)
        torch.manual_seed(0)
        y.backward(torch.randn(y.shape).to(torch.bfloat16).to(y.dtype))
        results.append([y.detach(), leaf.grad, *(p.grad for p in layer.parameters())])
    for truth, usual, found in zip(*results, strict=True):
        assert usual.shape == found.shape and usual.dtype == found.dtype
        # No further from the truth than PyTorch's own kernel, whose sums some processors round more often than others.
        assert (found - truth).norm() <= 2 * (usual - truth).norm() + 2**-8 * truth.norm()


@pytest.mark.parametrize("name", LAYERS)
def test_fp32_is_pytorchs_own(name, amx):
    plain, shape = LAYERS[name]
    x = torch.randn(shape)
    assert torch.equal(laid_out(plain)(x), plain(x))


def test_only_layers_that_gain_are_changed(amx):
    others = [
        nn.Linear(64, 64),
        nn.Conv2d(64, 64, 1),
        nn.Conv2d(64, 64, 3),
        nn.Conv2d(64, 64, 3, padding=1, stride=2),
        nn.Conv2d(64, 64, 3, padding=1, groups=2),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 64, 3, padding=1),
    ]
    for layer in others:
        assert type(laid_out(layer)) is type(layer), layer


@pytest.mark.parametrize(("precision", "units", "changed"), [("bf16", True, 7), ("fp32", True, 0), ("bf16", False, 0)])
def test_only_bf16_on_a_processor_that_has_the_units(precision, units, changed, monkeypatch):
    monkeypatch.setattr(amx_layers, "has_amx", lambda: units)
    x = torch.randn(2, 3, 32, 32)
    model = kit.backbone("vgg-paper", 3, 10, 0.125, 32)
    net = kit.decouple(kit.split(model, 4, x), "greedy", 10, x, precision=precision)
    kinds = (amx_layers.Linear, amx_layers.Conv2d, amx_layers.MaxPool2d)
    assert sum(isinstance(m, kinds) for m in net.modules()) == changed


def laid_out(layer):
    """Return a copy of the layer as `lay_out` leaves it."""
    holder = nn.Sequential(copy.deepcopy(layer))
    amx_layers.lay_out(holder)
    return holder[0]
