"""Optimizers: the fused LARS against the library's, and their state from one to the other."""

import copy

import pytest
import torch
from pytorch_optimizer import LARS
from torch import nn

from kit.compute.lars import FusedLARS

SETTINGS = {"lr": 0.02, "weight_decay": 1e-2, "momentum": 0.9, "trust_coefficient": 0.001}


def pair(**changes):
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    theirs = copy.deepcopy(ours)
    settings = SETTINGS | changes
    return (ours, FusedLARS(ours.parameters(), **settings)), (theirs, LARS(theirs.parameters(), **settings))


def walk(model, optimizer, steps, seed=1):
    torch.manual_seed(seed)
    for _ in range(steps):
        model(torch.randn(6, 7)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def same(ours, theirs):
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"momentum": 0.0}, {"nesterov": True}, {"weight_decay": 0.0}])
def test_fused_lars_is_the_librarys(changes):
    (ours, fused), (theirs, plain) = pair(**changes)
    walk(ours, fused, 6)
    walk(theirs, plain, 6)
    same(ours, theirs)


def test_a_weight_of_length_zero_moves():
    (ours, fused), (theirs, plain) = pair()
    for model, optimizer in ((ours, fused), (theirs, plain)):
        nn.init.zeros_(model[0].weight)
        model[0](torch.ones(4, 7)).sum().backward()
        optimizer.step()
        assert model[0].weight.norm() > 0.1
    same(ours, theirs)


def test_either_goes_on_from_the_others_state():
    (ours, fused), (theirs, plain) = pair()
    walk(ours, fused, 3)
    walk(theirs, plain, 3)
    other = FusedLARS(theirs.parameters(), **SETTINGS)
    other.load_state_dict(plain.state_dict())
    walk(ours, fused, 3, seed=2)
    walk(theirs, other, 3, seed=2)
    same(ours, theirs)


def test_a_parameter_without_gradient_stays():
    (ours, fused), _ = pair()
    before = ours[0].weight.clone()
    ours[2](torch.randn(4, 5)).sum().backward()
    fused.step()
    assert torch.equal(ours[0].weight, before)
