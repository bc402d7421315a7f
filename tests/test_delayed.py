"""Late gradients: ticks as the papers have them, which weights they meet, and backprop where there is one module."""

import copy
import itertools

import pytest
import torch
from torch import nn

import kit
from kit.measure.costs import peak_bytes
from kit.measure.memory import plan
from kit.pipeline.schedule import SCHEDULES
from kit.train import build, checkpoint, load_data
from tests.pipeline.ranks import in_float64

LR, MOMENTUM, WIDTH, CLASSES = 0.1, 0.9, 8, 4


def stages(num_blocks):
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(num_blocks)]
    layers[-1].append(nn.Linear(WIDTH, CLASSES))
    return layers


def batches(count=40):
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(count, 5, WIDTH, generator=draws, dtype=torch.float64)
    return x, torch.randint(CLASSES, (count, 5), generator=draws)


# An independent simulation: numbers, formulas and lists, and nothing of the kit.


class Module:
    """tanh(x W' + b), at the end of the net followed by softmax cross-entropy of a linear layer."""

    def __init__(self, layer, lr):
        self.weights = [p.detach().clone() for p in layer.parameters()]
        self.velocity, self.lr, self.flights = None, lr, []

    def forward(self, h, weights=None):
        w, b, *_ = self.weights if weights is None else weights
        return torch.tanh(h @ w.T + b)

    def predicted(self, steps):
        if self.velocity is None:
            return [w.clone() for w in self.weights]
        return [w - steps * self.lr * v for w, v in zip(self.weights, self.velocity, strict=True)]

    def backward(self, g, h, out, w):
        """Return the gradients by W, b and the input, of tanh's output `out` at the input `h`."""
        dz = g * (1 - out**2)
        return [dz.T @ h, dz.sum(0)], dz @ w

    def last(self, h, y):
        w, b, w2, b2 = self.weights
        out = torch.tanh(h @ w.T + b)
        logits = out @ w2.T + b2
        d = (logits.softmax(1) - nn.functional.one_hot(y, CLASSES)) / len(y)
        (gw, gb), back = self.backward(d @ w2, h, out, w)
        return [gw, gb, d.T @ out, d.sum(0)], back

    def step(self, gradients):
        if self.velocity is None:
            self.velocity = [g.clone() for g in gradients]
        else:
            self.velocity = [MOMENTUM * v + g for v, g in zip(self.velocity, gradients, strict=True)]
        self.weights = [w - self.lr * v for w, v in zip(self.weights, self.velocity, strict=True)]

    def take_off(self, h, mode, ahead):
        """Go forward on a batch; return the output."""
        used = self.predicted(ahead) if mode == "predicted" else [w.clone() for w in self.weights]
        out = self.forward(h, used)
        self.flights.append((h, out, used))
        return out

    def land(self, g, mode):
        """Learn from the gradient of the oldest batch; return that of its input."""
        h, out, used = self.flights.pop(0)
        if mode == "replayed":
            out, used = self.forward(h), self.weights
        gradients, back = self.backward(g, h, out, self.weights[0] if mode == "mixed" else used[0])
        self.step(gradients)
        return back


def simulate(layers, x, y, unlocked, mode, beta, factors=()):
    """Return every module's weights after a tick for each batch, and the ticks of each module's first step."""
    K = len(layers)
    modules = [Module(layer, LR * (factors[k] if k < len(factors) else 1)) for k, layer in enumerate(layers)]
    forwards, backwards, pending, first = [None] * K, [None] * K, None, [None] * K
    for t in range(len(x)):
        out, back = [None] * K, [None] * K
        if unlocked:
            for k in range(K - 1):
                if backwards[k] is not None:
                    back[k] = modules[k].land(beta * backwards[k], mode)
                    first[k] = t if first[k] is None else first[k]
                h = x[t] if k == 0 else forwards[k]
                out[k] = None if h is None else modules[k].take_off(h, mode, 2 * (K - 1 - k) - 1)
            if pending is not None:
                modules[-1].step(pending)
                first[-1], pending = t if first[-1] is None else first[-1], None
            if forwards[-1] is not None:
                pending, back[-1] = modules[-1].last(forwards[-1], y[t - (K - 1)])
        else:
            h = x[t]
            for k in range(K - 1):
                h = modules[k].take_off(h, mode, K - 1 - k)
            gradients, back[-1] = modules[-1].last(h, y[t])
            modules[-1].step(gradients)
            for k in range(K - 1):
                if backwards[k] is not None:
                    back[k] = modules[k].land(beta * backwards[k], mode)
        forwards = [None, *out[:-1]]
        backwards = [*back[1:], None]
    return [module.weights for module in modules], first


MODES = {"fdg": "mixed", "ddg": "mixed", "fr": "replayed", "pipedream": "stashed"}
CASES = [
    *((method, weights, beta) for method in ("fdg", "ddg") for weights in ("mixed", "stashed", "replayed", "predicted")
      for beta in (1.0, 0.5)),
    ("fr", "replayed", 1.0),
    ("pipedream", "stashed", 1.0),
]  # fmt: skip


@pytest.mark.parametrize("num_blocks", [2, 3, 4])
@pytest.mark.parametrize(("method", "weights", "beta"), CASES)
def test_weights_are_those_of_an_independent_simulation(method, weights, beta, num_blocks):
    x, y = batches()
    with in_float64():
        layers = stages(num_blocks)
        factors = (2.0,) if method == "fr" else ()
        expected, _ = simulate(copy.deepcopy(layers), x, y, method in ("fdg", "pipedream"), weights, beta, factors)
        net = kit.decouple(
            layers, method, CLASSES, x[0], optimizer="sgd", lr=LR, momentum=MOMENTUM, weights=weights, beta=beta
        )
        for x_t, y_t in zip(x, y, strict=True):
            net.step(x_t, y_t)
        for block, wanted in zip(net, expected, strict=True):
            found = [*block.body.parameters(), *(block.objective.head.parameters() if block is net[-1] else ())]
            for p, value in zip(found, wanted, strict=True):
                torch.testing.assert_close(p.detach(), value, atol=1e-9, rtol=1e-9)


def test_the_modes_differ():
    x, y = batches()
    with in_float64():
        ends = {
            mode: simulate(stages(4), x, y, True, mode, 1.0)[0][0][0]
            for mode in ("mixed", "stashed", "replayed", "predicted")
        }
    for one, other in itertools.combinations(ends, 2):
        assert (ends[one] - ends[other]).abs().max() > 1e-4, (one, other)


def test_the_first_steps_come_when_the_paper_says():
    """FDG with four modules: at ticks 6, 5, 4 and 4; DDG's at 3, 2, 1 and 0."""
    x, y = batches(12)
    for method, first in (("fdg", [6, 5, 4, 4]), ("ddg", [3, 2, 1, 0])):
        net, seen = kit.decouple(stages(4), method, CLASSES, x[0].float(), optimizer="sgd", lr=LR), {}
        for t in range(12):
            net.step(x[t].float(), y[t])
            for block in net:
                if block.num_steps:
                    seen.setdefault(block.index, t)
        assert [seen[k] for k in range(4)] == first
    assert simulate(stages(4), *(part.float() if part.is_floating_point() else part for part in (x, y)), True, "mixed",
                    1.0)[1] == [6, 5, 4, 4]  # fmt: skip


@pytest.mark.parametrize("method", MODES)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_one_module_is_backprop(method, optimizer):
    x, y = batches(6)
    nets = [
        kit.decouple([nn.Sequential(*stages(3))], name, CLASSES, x[0].float(), optimizer=optimizer, lr=0.05)
        for name in (method, "bp")
    ]
    for net in nets:
        for x_t, y_t in zip(x.float(), y, strict=True):
            net.step(x_t, y_t)
    for mine, theirs in zip(*(net.state_dict().values() for net in nets), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("method", MODES)
def test_draining_uses_every_batch_once(method):
    x, y = batches(7)
    net = kit.decouple(stages(4), method, CLASSES, x[0].float(), optimizer="sgd", lr=LR)
    for x_t, y_t in zip(x.float(), y, strict=True):
        net.step(x_t, y_t)
    net.drain()
    assert [block.num_steps for block in net] == [7] * 4
    assert not any(block.flights or block.pending or any(part is not None for part in block.inbox) for block in net)


@pytest.mark.parametrize(("weights", "updates"), [("mixed", 1), ("stashed", 1), ("replayed", 2)])
def test_running_statistics_move_once_a_batch_or_twice_if_replayed(weights, updates):
    x, y = batches(9)
    layers = stages(2)
    layers[0].append(nn.BatchNorm1d(WIDTH))
    net = kit.decouple(layers, "ddg", CLASSES, x[0].float(), optimizer="sgd", lr=LR, weights=weights)
    for x_t, y_t in zip(x.float(), y, strict=True):
        net.step(x_t, y_t)
    norm = net[0].body[0][2]
    assert int(norm.num_batches_tracked) == 9 + (updates - 1) * 8


@pytest.mark.parametrize("method", MODES)
def test_dropout_draws_the_same_numbers_back_as_forth(method):
    """A replayed forward pass, at a learning rate of zero, gives the gradient of the first."""
    x, y = batches(8)
    found = {}
    for weights in ("stashed", "replayed"):
        layers = stages(3)
        layers[0].append(nn.Dropout(0.5))
        net = kit.decouple(layers, method, CLASSES, x[0].float(), optimizer="sgd", lr=1e-30, weights=weights)
        for x_t, y_t in zip(x.float(), y, strict=True):
            net.step(x_t, y_t)
        found[weights] = net[0].optimizer.state[net[0].body[0][0].weight]["momentum_buffer"]
    assert found["stashed"].abs().max() > 0
    torch.testing.assert_close(found["stashed"], found["replayed"])


def test_watching_heads_touch_nothing():
    x, y = batches(8)
    bodies = []
    for lr_of_heads in (True, False):
        net = kit.decouple(stages(3), "fdg", CLASSES, x[0].float(), optimizer="sgd", lr=LR)
        if not lr_of_heads:
            for block in net.blocks[:-1]:
                block.objective.weights = {"ce": 0.0}
        for x_t, y_t in zip(x.float(), y, strict=True):
            net.step(x_t, y_t)
        bodies.append([p for block in net for p in block.body.parameters()])
    assert all(map(torch.equal, *bodies))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, r"beta=0.0, but gradients are shrunk by a factor in \(0, 1\]"),
        ({"beta": 1.5}, r"beta=1.5, but gradients are shrunk"),
        ({"weights": "stahsed"}, "unknown weights 'stahsed': did you mean 'stashed'"),
        ({"context": "E"}, "context='E', but fdg passes one gradient back along the net itself"),
        ({"precision": "bf16"}, "precision='bf16' with weights='mixed'.*choose precision='fp32'"),
        ({"start": 1}, "start=1, but a fdg net is trained as a whole"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ValueError, match=message):
        kit.decouple(stages(3), "fdg", CLASSES, torch.zeros(2, WIDTH), **settings)


def test_it_does_not_grow():
    net = kit.decouple(stages(3), "ddg", CLASSES, torch.zeros(2, WIDTH))
    with pytest.raises(ValueError, match="a ddg net does not grow: one loss at its end"):
        net.append(net[0])


SETTINGS = {
    "backbone": "mlp",
    "backbone_options": {"depth": 4, "norm": "batch", "hidden": 24},
    "num_blocks": 4,
    "epochs": 2,
    "batch_size": 64,
    "limit": 700,
    "optimizer": "sgd",
    "lr": 0.05,
    "precision": "fp32",
    "augment": "shift",
}


def with_dropout(config, data):
    net = build(config, data)
    net[1].body[0] = nn.Sequential(net[1].body[0], nn.Dropout(0.3))
    return net


@pytest.mark.parametrize("stop", [3, 9, 14])
@pytest.mark.parametrize(
    ("method", "weights"),
    [("fdg", "mixed"), ("fdg", "predicted"), ("ddg", "mixed"), ("pipedream", "stashed"), ("fr", "replayed")],
)
def test_a_run_stopped_with_gradients_in_flight_ends_as_one_that_was_not(tmp_path, method, weights, stop):
    settings = SETTINGS | {"method": method, "options": {"weights": weights, "beta": 0.7}, "checkpoint_steps": 2}
    whole, stopped = (kit.RunConfig(**settings, output=str(tmp_path / name)) for name in ("whole", "stopped"))
    data, taken = load_data(whole), []
    kit.fit(with_dropout(whole, data), data, whole)
    net = with_dropout(stopped, data)

    def interrupt(module, inputs):
        taken.append(1)
        if len(taken) > stop:
            raise KeyboardInterrupt

    net[0].body[0].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        kit.fit(net, data, stopped)
    kit.fit(with_dropout(stopped, data), data, stopped)
    one, other = (checkpoint.weights(config.folder, "step") for config in (whole, stopped))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert kit.History.load(whole.folder).table.equals(kit.History.load(stopped.folder).table)


def test_losses_are_means_over_the_ticks_that_had_one(tmp_path):
    """A frozen net (rate 0): every batch's loss counts once, and filling the pipeline counts for nothing."""
    config = kit.RunConfig(**SETTINGS | {"method": "fdg", "epochs": 1, "lr": 1e-30, "augment": "none", "output": None})
    table = kit.run(config).table.query("metric == 'ce'").set_index("block")["value"]
    bp = kit.RunConfig(**SETTINGS | {"method": "bp", "epochs": 1, "lr": 1e-30, "augment": "none", "output": None})
    expected = kit.run(bp).table.query("metric == 'ce'")["value"].iloc[0]
    assert table[4] == pytest.approx(expected, rel=0.05) and len(table) == 4


def test_the_schedule_that_is_drawn_is_the_one_that_runs():
    x, y = batches(6)
    for method, lists in SCHEDULES.items():
        if method not in MODES:
            continue
        net, done = kit.decouple(stages(3), method, CLASSES, x[0].float(), optimizer="sgd", lr=LR), []
        for k, block in enumerate(net):
            block.body[0].register_forward_pre_hook(lambda *_, k=k, done=done: done.append((k, "F")))
            for p in list(block.body.parameters())[:1]:
                p.register_post_accumulate_grad_hook(lambda _, k=k, done=done: done.append((k, "B")))
            block.optimizer.register_step_post_hook(lambda *_, k=k, done=done: done.append((k, "U")))
        for x_t, y_t in zip(x.float(), y, strict=True):
            net.step(x_t, y_t)
        net.drain()
        for k, row in enumerate(lists(3, 6)):
            wanted = "".join("FB" if op.kind == "R" else op.kind for op in row)
            assert "".join(kind for of, kind in done if of == k) == wanted, (method, k)


@pytest.mark.parametrize("flush", ["never", "epoch", "end"])
def test_flushing_says_which_batches_are_learned_from(flush):
    config = kit.RunConfig(**SETTINGS | {"method": "fdg", "options": {"flush": flush}, "output": None})
    data = load_data(config)
    net = build(config, data)
    kit.fit(net, data, config)
    total = 2 * data.num_batches("train", 64)
    missing = [6, 5, 4, 4] if flush == "never" else [0] * 4
    assert [total - block.num_steps for block in net] == missing


def test_divergence_names_module_and_step_and_suggests_a_smaller_beta():
    config = kit.RunConfig(**SETTINGS | {"method": "fdg", "lr": 1e8, "output": None})
    with pytest.raises(FloatingPointError, match=r"block \d: its loss term 'ce' became .* step \d+.*a smaller beta"):
        kit.run(config)


@pytest.mark.parametrize("other", [{"num_blocks": 2}, {"options": {"weights": "stashed"}}, {"method": "ddg"}])
def test_a_checkpoint_of_another_number_of_modules_or_mode_is_refused(tmp_path, other):
    settings = SETTINGS | {"method": "fdg", "epochs": 1, "output": str(tmp_path)}
    kit.run(kit.RunConfig(**settings))
    with pytest.raises(ValueError, match=next(iter(other))):
        kit.run(kit.RunConfig(**settings | other))


def test_the_planned_peak_holds_the_queues():
    """A gradient later by two ticks keeps two more graphs; where inputs alone are kept, far less."""
    x, y = batches(1)
    peaks = {}
    for method in (*MODES, "bp"):
        net = kit.decouple(stages(4), method, CLASSES, x[0].float(), optimizer="sgd", lr=LR)
        held = sum(t.nbytes for t in [*net.parameters(), *net.buffers()])
        peaks[method] = plan(net, (4096, WIDTH)).peak
        big = torch.randn(4096, WIDTH), torch.randint(CLASSES, (4096,))
        steps = net.num_filling + 2
        held += sum(t.nbytes for t in big)
        measured = held + peak_bytes(lambda net=net, big=big, steps=steps: [net.step(*big) for _ in range(steps)])
        assert peaks[method] == pytest.approx(measured, rel=0.1), method
    assert peaks["fdg"] > peaks["ddg"] > peaks["fr"] > peaks["bp"]
