"""Probes read what autograd computes, change nothing, and leave nothing behind."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models import SwinTransformer
from torchvision.ops import Permute

import kit
from kit.measure.alignment import alignment, compare
from kit.measure.probes import activations, dead_share, gradient_profile, gradients, stages
from kit.shapes import Shape

METHODS = {"bp": {}, "greedy": {}, "dgl": {}, "deinforeg": {"widths": (16, 16, 16)}}


def small_net(method="greedy", num_blocks=3, dropout=0.0, norm=True, seed=0) -> kit.Net:
    torch.manual_seed(seed)

    def layer(fan_in):
        return [nn.Linear(fan_in, 12), *([nn.BatchNorm1d(12)] if norm else []), nn.Dropout(dropout), nn.Tanh()]

    stages = [nn.Sequential(*layer(20 if k == 0 else 12)) for k in range(num_blocks)]
    stages[-1].append(nn.Linear(12, 4))
    return kit.decouple(stages, method, 4, torch.zeros(2, 20), **METHODS[method])


def batches(count=4):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(16, 20, generator=generator), torch.randint(0, 4, (16,), generator=generator)


def train(net):
    for x, y in batches():
        net.step(x, y)


def weights(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def num_hooks(model):
    modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())
    on_parameters = sum(
        len(p._post_accumulate_grad_hooks or ()) + len(p._backward_hooks or ()) for p in model.parameters()
    )
    return modules + on_parameters + sum(len(getattr(m, "_step_pre_hooks", ())) for m in model.modules())


PROBES = {"gradients": gradients, "activations": activations, "alignment": alignment}


# What they read is true


def test_gradients_are_those_of_autograd():
    model = nn.Sequential(nn.Linear(20, 12), nn.Tanh(), nn.Linear(12, 4)).double()
    x, y = next(batches(1))
    loss = nn.functional.cross_entropy(model(x.double()), y)
    first, second = model[0], model[2]
    expected = torch.autograd.grad(loss, [first.weight, first.bias, second.weight, second.bias])
    norm = [torch.cat([w.flatten(), b]).norm() for w, b in (expected[:2], expected[2:])]
    size = [torch.cat([m.weight.flatten(), m.bias]).norm() for m in (first, second)]
    hidden = model[:1](x.double()).detach().requires_grad_()
    (at_output,) = torch.autograd.grad(nn.functional.cross_entropy(model[1:](hidden), y), hidden)

    with gradients(model) as readings:
        nn.functional.cross_entropy(model(x.double()), y).backward()
    found = readings.table.set_index(["layer", "metric"])["value"]
    for name, gradient, weight in zip("02", norm, size, strict=True):
        assert found[name, "gradient"] == pytest.approx(float(gradient), rel=1e-6)
        assert found[name, "ratio"] == pytest.approx(float((gradient / weight).detach()), rel=1e-6)
    assert found["0", "output_gradient"] == pytest.approx(float(at_output.norm()), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_profile_is_what_the_next_step_reads(method):
    net, (x, y) = small_net(method, dropout=0.3), next(batches(1))
    profile = gradient_profile(net, x, y)
    with gradients(net, "*.body.*") as readings:
        net.step(x, y)
    read = readings.table.query("metric == 'gradient'").reset_index()
    assert list(profile["layer"]) == list(read["layer"])
    assert list(profile["value"]) == pytest.approx(list(read["value"]), rel=1e-6)


def test_a_profile_holds_the_layers_asked_for_wherever_they_are():
    net, (x, y) = small_net(), next(batches(1))
    whole = gradient_profile(net, x, y).set_index("layer")["value"]
    some = gradient_profile(net, x, y, ["blocks.1.body.*", "blocks.2"])  # nothing of block 0, and a container
    assert list(some["layer"]) == ["blocks.1.body.0.0", "blocks.1.body.0.1"]
    assert list(some["value"]) == pytest.approx(list(whole[some["layer"]]), rel=1e-6)


def test_a_frozen_layer_has_no_gradient_to_profile():
    net, (x, y) = small_net(), next(batches(1))
    net[0].body.requires_grad_(False)
    assert not any(name.startswith("blocks.0.") for name in gradient_profile(net, x, y)["layer"])


def test_every_step_has_its_rows_and_every_tenth_can_be_asked_for():
    net = small_net()
    with gradients(net, "*.body.*.0") as all_steps, gradients(net, "*.body.*.0", every=3) as some:
        train(net)
    assert sorted(set(all_steps.table["step"])) == [0, 1, 2, 3]
    assert sorted(set(some.table["step"])) == [0, 3]
    shared = all_steps.table[all_steps.table["step"] % 3 == 0].reset_index(drop=True)
    assert some.table.equals(shared)
    assert list(some.table.query("step == 0 and metric == 'gradient'")["depth"]) == [1, 2, 3]


def test_a_vanished_gradient_is_not_rounded_to_zero():
    model = nn.Linear(3, 1, bias=False)
    with gradients(model) as readings:
        (model(torch.ones(1, 3)) * 1e-30).sum().backward()
    assert readings.table.query("metric == 'gradient'")["value"].item() == pytest.approx(3**0.5 * 1e-30, rel=1e-5)


def test_activations():
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
    x = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    with activations(model) as readings:
        out = model(x)
        model.eval()(x)  # evaluation is not counted
    found = readings.table.query("layer == '1'").set_index("metric")["value"]
    assert found["mean"] == pytest.approx(float(out.mean()))
    assert found["variance"] == pytest.approx(float(out.var(correction=0)))
    assert found["dead"] == pytest.approx(1 / 3)
    assert dead_share(torch.zeros(4, 6, 2, 2)) == 1


def dead(model, x, layers=None):
    with activations(model, layers) as readings:
        model.train()(x)
    return readings.table.query("metric == 'dead'").set_index("layer")["value"]


def kill(layer, units):
    """Make the first `units` of a layer the same number for every sample."""
    with torch.no_grad():
        layer.weight[:units] = 0
        layer.bias[:units] = 0.5


def test_dead_units_are_channels_wherever_a_model_has_them():
    swin = SwinTransformer([4, 4], 8, [1, 1], [1, 2], [2, 2], num_classes=4)
    block = swin.features[1][0]
    kill(swin.features[0][0], 2), kill(block.norm1, 4), kill(block.mlp[0], 8)
    found = dead(swin, torch.randn(6, 3, 24, 32))
    assert found["features.0.0"] == found["features.0.1"] == 2 / 8  # a convolution (B, C, H, W), permuted
    assert found["features.1.0.norm1"] == 4 / 8  # (B, H, W, C)
    assert found["features.1.0.mlp.0"] == found["features.1.0.mlp.1"] == 8 / 32
    assert found["features.1.0.norm2"] == found["head"] == 0


def test_dead_units_of_convolutions_in_one_and_three_dimensions():
    for conv, x in ((nn.Conv1d(2, 4, 3), torch.randn(5, 2, 8)), (nn.Conv3d(2, 4, 3), torch.randn(5, 2, 6, 6, 6))):
        kill(conv, 3)
        assert list(dead(nn.Sequential(conv, nn.ReLU()), x)) == [0.75, 0.75]


def test_where_channels_are_is_carried_over_a_cut():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 3), Permute([0, 2, 3, 1]), nn.LayerNorm(8))
    net = kit.decouple([first, nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(6 * 6 * 8, 4))], "greedy", 4,
                       torch.zeros(2, 3, 8, 8))  # fmt: skip
    kill(first[2], 2)
    with activations(net, "*.body.*") as readings:
        net.step(torch.randn(5, 3, 8, 8), torch.arange(5) % 4)
    found = readings.table.query("metric == 'dead'").set_index("layer")["value"]
    assert found["blocks.0.body.0.2"] == found["blocks.1.body.0.0"] == 2 / 8


def test_dead_share_knows_a_shape_or_takes_the_convention():
    h = torch.randn(5, 6, 7, 8)
    h[..., :2] = 1
    assert dead_share(h, Shape((6, 7, 8), axis=-1)) == 2 / 8
    assert dead_share(h) == 0
    assert dead_share(h.movedim(-1, 1)) == 2 / 8
    assert dead_share(h[:, 0]) == dead_share(h[:, 0, 0]) == 2 / 8  # tokens, vectors


# Alignment


@pytest.mark.parametrize("method", ["bp", "greedy", "dgl"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_one_block_is_aligned_by_one(method, dropout):
    net, (x, y) = small_net(method, num_blocks=1, dropout=dropout), next(batches(1))
    (row,) = compare(net, net.signal(x, y))
    assert float(row["alignment"]) == pytest.approx(1, abs=1e-6)


def test_with_a_loss_of_its_own_one_block_is_aligned_with_that_loss():
    net, (x, y) = small_net("deinforeg", num_blocks=1), next(batches(1))
    assert float(compare(net, net.signal(x, y), "own")[0]["alignment"]) == pytest.approx(1, abs=1e-6)
    assert float(compare(net, net.signal(x, y))[0]["alignment"]) < 0.999


def test_bp_in_several_stages_is_aligned_by_one():
    net, (x, y) = small_net("bp", num_blocks=3), next(batches(1))
    assert float(compare(net, net.signal(x, y))[0]["alignment"]) == pytest.approx(1, abs=1e-6)


def test_alignment_is_the_cosine_of_the_two_gradients():
    net, (x, y) = small_net("greedy", norm=False), next(batches(1))
    h, local, parameters = x, [], []
    for block in net:
        h = block.body(h.detach())
        own = list(block.body.parameters())
        grads = torch.autograd.grad(nn.functional.cross_entropy(block.readout(h), y), own)
        local, parameters = [*local, torch.cat([g.flatten() for g in grads])], [*parameters, own]
    h = x
    for block in net:
        h = block.body(h)
    loss = nn.functional.cross_entropy(net[-1].readout(h), y)
    for row, mine, own in zip(compare(net, net.signal(x, y)), local, parameters, strict=True):
        whole = torch.cat([g.flatten() for g in torch.autograd.grad(loss, own, retain_graph=True)])
        assert float(row["alignment"]) == pytest.approx(float(torch.cosine_similarity(mine, whole, dim=0)), abs=1e-6)
        assert float(row["local"]) == pytest.approx(float(mine.norm()), rel=1e-6)


def end_to_end(net, x, y, loss):
    """Return the gradient by each block's weights, of one graph through all blocks in which context is detached."""
    signal = net.signal(x, y)
    for block in net:
        h, terms = block.losses(signal)
        after = block.next_signal(signal, h)
        signal = replace(after, context=tuple(part.detach() for part in after.context))
        object.__setattr__(signal, "h", h)  # a signal would detach it
    total = block.objective.total(terms) if loss == "own" else nn.functional.cross_entropy(block.readout(h), y)
    grads = [torch.autograd.grad(total, [*block.body.parameters()], retain_graph=True) for block in net]
    return [torch.cat([grad.flatten() for grad in own]) for own in grads]


OPTIONS = {
    "infopro": {"pixels": torch.sigmoid, "weights": (1, 1, 1, 1)},
    "al": {"code": 8, "hidden": 8},
    "scpl": {"widths": (8, 8)},
}


@pytest.mark.parametrize("loss", ["cross-entropy", "own"])
@pytest.mark.parametrize("method", ["greedy", "infopro", "al", "scpl"])
@pytest.mark.parametrize("context", ["none", "E", "R2E"])
def test_alignment_with_context_and_with_losses_that_look_at_more_than_the_output(method, context, loss):
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Conv2d(3 if k == 0 else 6, 6, 3, padding=1), nn.Tanh()) for k in range(3)]
    net = kit.decouple(stages, method, 4, torch.zeros(2, 3, 6, 6), context, **OPTIONS.get(method, {}))
    x, y = torch.randn(8, 3, 6, 6), torch.arange(8) % 4
    before, state = weights(net), torch.get_rng_state()
    rows = compare(net, net.signal(x, y), loss)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    for row, whole, visit in zip(rows, end_to_end(net, x, y, loss), net.walk(net.signal(x, y), losses=True),
                                 strict=True):  # fmt: skip
        grads = torch.autograd.grad(visit.block.objective.total(visit.terms), [*visit.block.body.parameters()])
        local = torch.cat([grad.flatten() for grad in grads])
        assert float(row["alignment"]) == pytest.approx(float(torch.cosine_similarity(local, whole, dim=0)), abs=1e-6)
        assert float(row["local"]) == pytest.approx(float(local.norm()), rel=1e-5)
        assert float(row["end_to_end"]) == pytest.approx(float(whole.norm()), rel=1e-5)


def test_a_block_without_weights_has_no_direction():
    net = kit.decouple([nn.Flatten(), nn.Sequential(nn.Linear(20, 8), nn.ReLU())], "greedy", 4, torch.zeros(2, 4, 5))
    first, last = compare(net, net.signal(torch.randn(8, 4, 5), torch.arange(8) % 4))
    assert float(first["local"]) == float(first["end_to_end"]) == 0
    assert float(last["alignment"]) == pytest.approx(1, abs=1e-6)


def test_alignment_reads_before_the_step_and_only_where_asked():
    net, twin, (x, y) = small_net(), small_net(), next(batches(1))
    (expected, *_) = compare(twin, twin.signal(x, y))
    with alignment(net, every=3) as readings:
        for _ in range(4):
            net.step(x, y)
    assert sorted(set(readings.table["step"])) == [0, 3]
    first = readings.table.query("step == 0 and depth == 1").set_index("metric")["value"]
    assert first.to_dict() == pytest.approx({name: float(value) for name, value in expected.items()})


# They change nothing


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("probe", PROBES)
def test_weights_are_the_same_bits_with_and_without(method, probe):
    plain, probed = small_net(method, dropout=0.3), small_net(method, dropout=0.3)
    train(plain)
    state = torch.get_rng_state()
    with PROBES[probe](probed) as readings:
        train(probed)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(readings.table)
    after, expected = weights(probed), weights(plain)
    assert all(torch.equal(after[name], expected[name]) for name in expected)
    assert all(p.grad is None for p in probed.parameters())


def test_probes_do_not_count_each_other():
    net = small_net()
    with activations(net) as read, gradients(net) as also, alignment(net) as third:
        train(net)
    for readings in (read, also, third):
        assert sorted(set(readings.table["step"])) == [0, 1, 2, 3]


@pytest.mark.parametrize("probe", PROBES)
def test_no_hook_is_left_after_an_exception(probe):
    net = small_net()
    with pytest.raises(RuntimeError, match="in the middle"), PROBES[probe](net) as readings:
        assert num_hooks(net) > 0
        train(net)
        raise RuntimeError("in the middle")
    assert num_hooks(net) == 0
    before = len(readings.table)
    train(net)
    assert len(readings.table) == before


def test_buffers_come_back_when_measuring_fails():
    net, (x, y) = small_net(), next(batches(1))
    before = weights(net)

    def fail(*_):
        raise RuntimeError("in the middle")

    with net[-1].body[0].register_forward_hook(fail), pytest.raises(RuntimeError, match="in the middle"):
        compare(net, net.signal(x, y))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_probes_work_on_any_module():
    model = nn.LSTM(5, 7)
    with gradients(model) as readings, activations(model) as outputs:
        model(torch.randn(4, 2, 5))[0].sum().backward()
    assert set(readings.table["metric"]) == {"gradient", "weight", "ratio"} | {"output_gradient"}
    assert set(outputs.table["metric"]) == {"mean", "variance", "dead"}


def test_stages_name_the_exits():
    assert stages(small_net("bp")) == ["blocks.0.body.0", "blocks.0.body.1", "blocks.0.body.2"]
    assert stages(small_net("greedy")) == ["blocks.0.body.0", "blocks.1.body.0", "blocks.2.body.0"]


# Bad input


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="ReLU has no parameters, so there is no gradient"), gradients(nn.ReLU()):
        pass


def test_the_nearest_layer_is_suggested():
    model = nn.Sequential()
    model.add_module("encoder", nn.Linear(2, 2))
    expected = "unknown layer of Sequential 'encodr': did you mean 'encoder'"
    with pytest.raises(ValueError, match=expected), gradients(model, ["encodr"]):
        pass
    assert num_hooks(model) == 0


def test_another_loss_is_refused():
    with pytest.raises(ValueError, match="unknown loss 'ce'"), alignment(small_net(), loss="ce"):
        pass
