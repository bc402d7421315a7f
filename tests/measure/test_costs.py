"""Costs are exact: known tensors give known bytes."""

import pytest
import torch
from torch import nn

from kit.measure import costs
from kit.measure.costs import SavedBytes, copied, held, meta, parameters, peak_bytes, step_seconds

torch.set_num_threads(1)
MIB = 2**20


def floats(mib: float) -> torch.Tensor:
    return torch.ones(int(mib * MIB) // 4)


def test_parameters_count_a_shared_one_once():
    layer = nn.Linear(3, 4)
    assert parameters(layer) == 3 * 4 + 4
    assert parameters(nn.Sequential(layer, nn.ReLU(), layer)) == 3 * 4 + 4


def test_peak_is_the_highest_level_not_the_sum():
    def work():
        a = floats(4)
        del a
        b = floats(2)
        c = floats(1)
        return b, c

    assert peak_bytes(lambda: work() and None) == 4 * MIB


def test_peak_adds_what_lives_at_the_same_time():
    def work():
        a, b = floats(4), floats(2)
        del a
        c = floats(1)
        return b, c

    assert peak_bytes(lambda: work() and None) == 6 * MIB


def test_peak_counts_temporaries_inside_an_operation():
    x = floats(4)
    # x + 1 and its relu live together for a moment; the result of sum is 4 bytes
    assert 8 * MIB <= peak_bytes(lambda: (x + 1).relu().sum()) <= 8 * MIB + 64


def test_peak_is_over_the_level_at_the_start():
    held = [None]

    def work():
        held[0] = None
        held[0] = floats(8)

    assert peak_bytes(work) == 8 * MIB
    assert peak_bytes(work, warm_up=1) == 0  # what the call before left behind is released first
    assert peak_bytes(lambda: None) == 0


def test_peak_of_a_linear_layers_backward():
    layer, x = nn.Linear(256, 512, bias=False), torch.ones(1024, 256)
    weight, out = 256 * 512 * 4, 1024 * 512 * 4

    def forward_backward():
        layer.zero_grad(set_to_none=True)
        layer(x).backward(torch.ones(1024, 512))

    # the output, the gradient handed in and the weight's gradient; x needs no gradient and was there before
    assert peak_bytes(forward_backward) == out + out + weight


def test_peak_sees_what_keeping_every_activation_costs():
    body = nn.Sequential(*(layer for _ in range(8) for layer in (nn.Linear(64, 64), nn.Tanh())))
    x = torch.ones(512, 64)
    one = 512 * 64 * 4
    with_graph = peak_bytes(lambda: body(x).sum().backward())
    with torch.no_grad():
        without = peak_bytes(lambda: body(x))
    assert without <= 3 * one
    assert with_graph >= 8 * one


def test_peak_refuses_other_devices():
    with pytest.raises(ValueError, match="device='meta': peak_bytes measures 'cpu' and 'cuda' only"):
        peak_bytes(lambda: None, torch.device("meta"))


def activation_bytes(module, x):
    module = copied(module, meta)
    saved = SavedBytes(held(module))
    with saved:
        module(meta(x))
    return saved.total


def test_activation_bytes_of_known_layers():
    x = torch.ones(8, 16)
    assert activation_bytes(nn.Linear(16, 32), x) == 8 * 16 * 4  # the input; the weight is there anyway
    assert activation_bytes(nn.Sequential(nn.Linear(16, 32), nn.Tanh()), x) == 8 * (16 + 32) * 4
    inplace = nn.Sequential(nn.Linear(16, 32), nn.ReLU(inplace=True), nn.Linear(32, 4))
    assert activation_bytes(inplace, x) == 8 * (16 + 32) * 4  # the ReLU's result is the next layer's input


def test_activation_bytes_changes_nothing():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert activation_bytes(model, torch.ones(2, 3, 8, 8)) > 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_step_seconds_is_a_median_without_warm_up(monkeypatch):
    ticks = iter([0, 50, 100, 101, 200, 203, 300, 302])  # the warm-up is the slow one
    monkeypatch.setattr(costs, "clock", lambda: next(ticks))
    assert step_seconds(lambda: None, repeats=3) == 2


def test_step_seconds_needs_a_repeat():
    with pytest.raises(ValueError, match="repeats=0, but it has to be a whole number of at least 1"):
        step_seconds(lambda: None, repeats=0)
