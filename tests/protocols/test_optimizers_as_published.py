"""LARS and learning rates by epoch in their published forms, against lists of numbers and plain formulas."""

import math

import pytest
import torch
from torch import nn

import kit
from kit.compute.lars import LARS, FusedLARS
from kit.compute.optimizers import OptimizerSettings, factor

torch.set_num_threads(1)


def lars_by_hand(weights, gradients, lr, decay, joint, momentum=0.9, eta=0.001):
    """Steps of LARS on a list of matrices and vectors, written from DeInfoReg's and You et al.'s formulas."""
    buffers = [torch.zeros_like(w) for w in weights]
    for step in gradients:
        for w, g, buffer in zip(weights, step, buffers, strict=True):
            update = g.clone()
            if w.ndim > 1:
                update += decay * w
                whole = update.norm() if joint else g.norm() + decay * w.norm()
                update *= eta * w.norm() / whole if w.norm() > 0 and whole > 0 else 1.0
            buffer.mul_(momentum).add_(update)
            w.sub_(lr * buffer)
    return weights


@pytest.mark.parametrize("kind", [LARS, FusedLARS])
@pytest.mark.parametrize("trust", ["split", "joint"])
def test_lars_trust(kind, trust):
    torch.manual_seed(0)
    start = [torch.randn(6, 5), torch.randn(4, 3, 2, 2), torch.randn(5), torch.zeros(3, 2)]
    steps = [[torch.randn_like(w) * 0.1 for w in start] for _ in range(5)]
    ours = [nn.Parameter(w.clone()) for w in start]
    optimizer = kind(ours, 2.0, weight_decay=0.5, momentum=0.9, trust_coefficient=0.001, trust=trust)
    for step in steps:
        for p, gradient in zip(ours, step, strict=True):
            p.grad = gradient.clone()
        optimizer.step()
    theirs = lars_by_hand([w.clone() for w in start], steps, 2.0, 0.5, trust == "joint")
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=1e-5, atol=1e-6)
    others = lars_by_hand([w.clone() for w in start], steps, 2.0, 0.5, trust != "joint")
    assert not torch.allclose(ours[0].detach(), others[0], rtol=1e-5)


def test_lars_keeps_its_trust_when_it_is_copied_and_loaded():
    import copy

    p = nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([p], 1.0, weight_decay=0.5, trust="joint")
    assert copy.deepcopy(optimizer).param_groups[0]["joint_decay"] == 0.5
    other = LARS([p], 1.0, weight_decay=0.5)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["joint_decay"] == 0.5 and other.param_groups[0]["weight_decay"] == 0.0


def by_epoch(lr, epochs, steps, warmup_epochs=0, **settings):
    """Return the learning rate of each epoch's first and last step."""
    config = OptimizerSettings(optimizer="sgd", lr=lr, **settings)
    shape, total = config.shape(steps), epochs * steps
    rates = [lr * factor(config.schedule, step, total, warmup_epochs * steps, **shape) for step in range(total)]
    return rates[::steps], rates[steps - 1 :: steps]


def test_infopros_learning_rates():
    """Their `adjust_learning_rate`, called with the epoch from 1: ten epochs blend the cosine in from 0.01."""
    theirs = []
    for epoch in range(1, 161):
        cosine = 0.5 * 0.8 * (1 + math.cos(math.pi * epoch / 160))
        theirs.append(cosine * (epoch - 1) / 10 + 0.01 * (11 - epoch) / 10 if epoch <= 10 else cosine)
    settings = {"schedule": "cosine-blend", "lr_floor": 0.0, "lr_changes": "epoch", "warmup_from": 0.0125}
    first, last = by_epoch(0.8, 160, 7, 10, **settings)
    assert first == pytest.approx(theirs, abs=1e-12) and last == pytest.approx(theirs, abs=1e-12)
    assert first[:3] == pytest.approx([0.01, 0.08896916, 0.16786125], abs=1e-8) and first[-1] == 0


def test_deinforegs_learning_rates():
    """A cosine from 0.2 to 0.002, taken at the start of each epoch."""
    theirs = [0.2 * q + 0.002 * (1 - q) for q in (0.5 * (1 + math.cos(math.pi * epoch / 200)) for epoch in range(200))]
    first, last = by_epoch(0.2, 200, 5, schedule="cosine", lr_changes="epoch")
    assert first == pytest.approx(theirs, abs=1e-12) and last == first
    _, moving = by_epoch(0.2, 200, 391, schedule="cosine")
    assert 0.0015 < max(abs(a - b) for a, b in zip(moving, theirs, strict=True)) < 0.0017  # as METHODS.md measures


def test_fdgs_learning_rates():
    first, last = by_epoch(0.1, 300, 3, schedule="step", lr_changes="epoch")
    assert first == last == pytest.approx([0.1] * 150 + [0.01] * 75 + [0.001] * 50 + [0.0001] * 25)
    held, _ = by_epoch(0.1, 300, 3, 3, schedule="step", lr_changes="epoch", warmup="held", warmup_from=0.1)
    assert held == pytest.approx([0.01] * 3 + first[3:])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_warm_up_rises_from_where_it_begins(schedule):
    rates, _ = by_epoch(1.0, 8, 1, 4, schedule=schedule, warmup_from=0.2)
    assert rates[:5] == pytest.approx([0.4, 0.6, 0.8, 1.0, 1.0 if schedule != "step" else 0.1])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"trust": "both"}, "unknown trust 'both'"),
        ({"schedule": "cosine-blended"}, "unknown schedule 'cosine-blended': did you mean 'cosine-blend'"),
        ({"lr_floor": 1.0}, r"lr_floor=1.0, but it has to be a number in \[0, 1\)"),
        ({"lr_changes": "batch"}, "unknown lr_changes 'batch'"),
        ({"warmup_from": -0.1}, "warmup_from=-0.1"),
        ({"nesterov": True, "optimizer": "adam"}, "nesterov=True with optimizer='adam': it is of sgd"),
        ({"warmup": "held"}, "warmup='held' with warmup_from=0 would learn nothing"),
        ({"warmup": "hold"}, "unknown warmup 'hold': did you mean 'held'"),
    ],
)
def test_refusals(setting, message):
    with pytest.raises(ValueError, match=message):
        OptimizerSettings(**setting)


def test_a_run_follows_the_epochs(tmp_path):
    """Also after it was stopped within an epoch, and goes on from the checkpoint."""
    settings = {"dataset": "digits", "backbone": "mlp", "method": "greedy", "num_blocks": 2, "limit": 60, "epochs": 4}
    settings |= {"batch_size": 9, "schedule": "cosine-blend", "lr_floor": 0.0, "lr_changes": "epoch", "lr": 0.1}
    settings |= {"warmup_epochs": 2.0, "warmup_from": 0.1, "precision": "fp32", "augment": "none"}
    rates, stop = [], []

    def watch(epoch, net):
        rates.append(net[1].optimizer.param_groups[0]["lr"])
        if stop and epoch == stop[0]:
            raise KeyboardInterrupt

    kit.run(kit.RunConfig(**settings, output=None), watch)
    whole = rates[:]
    theirs = [0.1 * factor("cosine-blend", 6 * k, 24, 12, 0.0, 6, 0.1) for k in (1, 2, 3, 4)]
    assert whole == pytest.approx(theirs)  # what is in force after each epoch
    rates.clear()
    stop.append(2)
    with pytest.raises(KeyboardInterrupt):
        kit.run(kit.RunConfig(**settings, output=str(tmp_path)), watch)
    stop.clear()
    kit.run(kit.RunConfig(**settings, output=str(tmp_path)), watch)
    assert rates[-1] == pytest.approx(whole[-1])


# AL: a part with its own learning rate


def test_als_decoder_learns_at_its_own_rate():
    data = torch.randn(8, 3, 8, 8), torch.arange(8) % 4
    torch.manual_seed(0)
    model = kit.backbone("mlp", 3, 4, 1.0, 8, depth=2, hidden=12)
    options = {"code": 5, "hidden": 7, "activation": "sigmoid", "inverse_lr": 2.0}
    net = kit.decouple(kit.split(model, 2, data[0]), "al", 4, data[0], "none", "sgd", 0.1, **options)
    for block in net:
        rest, decoder = block.optimizer.param_groups
        assert (rest["lr"], decoder["lr"]) == (0.1, 0.2)
        assert {id(p) for p in decoder["params"]} == {id(p) for p in block.objective.decoder.parameters()}
        counts = len(rest["params"]) + len(decoder["params"]), len(list(block.parameters()))
        assert counts[0] == counts[1]
        block.set_schedule("cosine", 10)
    before = [p.detach().clone() for p in net[0].objective.decoder.parameters()]
    signal = net.signal(*data)
    _, terms = net[0].losses(signal)
    slopes = torch.autograd.grad(net[0].objective.total(terms), list(net[0].objective.decoder.parameters()))
    net.step(*data)
    for p, old, slope in zip(net[0].objective.decoder.parameters(), before, slopes, strict=True):
        torch.testing.assert_close(p.detach(), old - 0.2 * slope)
    assert [type(m) for m in net[0].objective.bridge] == [type(net[0].objective.bridge[0]), nn.Linear, nn.Sigmoid] + [
        nn.Linear, nn.Sigmoid,
    ]  # fmt: skip
