"""Cutting leaves the model as it was, and refuses with the reason what stages would not compute as the model does."""

import contextlib
import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torchvision.ops import StochasticDepth

from kit.measure import memory
from kit.splitting.split import choose_cuts, cut_points, split
from kit.splitting.stage import split_classifier

torch.set_num_threads(1)


class Net(nn.Module):
    """Four layers with a batch norm; `odd(h)`, in the middle, is what a test is about."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b, self.c = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.register_buffer("n", torch.zeros(()))
        self.plain, self.calls, self.last, self.log, self.box = torch.zeros(()), 0, None, [], [0]
        self.counter, self.own = itertools.count(), torch.Generator()

    def odd(self, h):
        return h

    def forward(self, x):
        return self.c(F.relu(self.b(self.odd(F.relu(self.norm(self.a(x)))))))


class CountsInBuffer(Net):
    def odd(self, h):
        self.n = self.n + 1
        return h


class AddsToBuffer(Net):
    def odd(self, h):
        self.n += 1
        return h + self.n


class WritesIntoBuffer(Net):
    def odd(self, h):
        self.n.add_(1)
        return h + self.n


class KeepsFeatures(Net):
    def odd(self, h):
        self.last = h
        return h


class Logs(Net):
    def odd(self, h):
        self.log.append(h)
        return h


class WritesIntoAttribute(Net):
    def odd(self, h):
        self.plain.add_(1)
        return h + self.plain


class CountsCalls(Net):
    def odd(self, h):
        self.calls += 1
        return h if self.calls < 3 else -h


class CountsInList(Net):
    def odd(self, h):
        self.box[0] += 1
        return h if self.box[0] < 3 else -h


class Iterates(Net):
    def odd(self, h):
        return h if next(self.counter) < 3 else -h


class Noisy(Net):
    def odd(self, h):
        return h + torch.rand(8)


class NoisyFromOwnGenerator(Net):
    def odd(self, h):
        return h + torch.rand(8, generator=self.own)


class DropsLayersAtRandom(Net):
    def odd(self, h):
        return h if random.random() < 0.999 else 0 * h


class ScalesAtRandom(Net):
    def odd(self, h):
        return h * float(np.random.rand())


class LooksAtTensors(Net):
    def odd(self, h):
        return -h if isinstance(h, torch.Tensor) and h.mean() > 0 else h


class TriesToBranch(Net):
    def odd(self, h):
        try:
            return h if h.sum() > 1e9 else -h
        except Exception:
            return h


class FixesTheSize(Net):
    def odd(self, h):
        return h + torch.zeros(len(h) if isinstance(h, torch.Tensor) else 4, 8)


class WithoutGradient(Net):
    def odd(self, h):
        with torch.no_grad():
            return self.b(h)


class InBfloat16(Net):
    def odd(self, h):
        with torch.autocast("cpu", torch.bfloat16):
            h = self.b(h)
        return h.float()


class ClampsWeights(Net):
    def odd(self, h):
        with torch.no_grad():
            self.b.weight.clamp_(-0.01, 0.01)
        return h


class FrozenNorm(Net):
    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self


class Branches(Net):
    def odd(self, h):
        self.last = h
        return h if h.sum() > 0 else -h


class Fails(Net):
    def odd(self, h):
        self.last, self.n = h, self.n + 1
        self.norm.running_mean.add_(1)
        raise RuntimeError("boom")


NOT_FAITHFUL = {
    CountsInBuffer: "its forward pass sets 'n', which stages traced from it would not do. Hand over your own list of",
    AddsToBuffer: "its forward pass sets 'n'",
    KeepsFeatures: "its forward pass sets 'last'",
    Logs: "its forward pass sets 'log'",
    WritesIntoAttribute: "its forward pass sets 'plain'",
    CountsCalls: "its forward pass sets 'calls'",
    CountsInList: "its forward pass sets 'box'",
    Noisy: "its forward pass draws random numbers outside of layers",
    DropsLayersAtRandom: "its forward pass draws random numbers outside of layers",
    ScalesAtRandom: "its forward pass draws random numbers outside of layers",
    Iterates: "in training mode its stages do not give the model's output. Its forward pass draws random numbers, bran",
    NoisyFromOwnGenerator: "in training mode its stages do not give the model's output",
    LooksAtTensors: "in training mode its stages do not give the model's output",
    TriesToBranch: "in training mode its stages do not give the model's output",
    FixesTheSize: "in training mode its stages do not give the model's output",
    FrozenNorm: "in training mode its stages do not give the model's output",
    WithoutGradient: r"stages do not give the model's gradient of the input. Its forward pass uses torch.no_grad\(\)",
    InBfloat16: r"stages do not give the model's output. Its forward pass uses torch.no_grad\(\) or autocast",
    ClampsWeights: "does not run on the example",
    Branches: "torch.fx cannot trace it .*use num_blocks=1",
    Fails: "torch.fx cannot trace it .*boom",
}
FAITHFUL = [Net, WritesIntoBuffer]
"""In place, a buffer is written to in the stage as in the model."""


def trained(kind):
    """A model with gradients, hooks and layers in either mode."""
    torch.manual_seed(0)
    model = kind()
    model.c(torch.rand(2, 8)).sum().backward()
    model.b.eval()
    model.register_forward_hook(lambda *_: None)
    model.b.weight.register_hook(lambda gradient: gradient)
    return model


def state(model):
    """All there is to a model: every attribute by identity and value, the tensors with data, version and gradient."""
    attributes = {
        (path, name): (
            id(value),
            repr(value),
            {key: id(item) for key, item in value.items()} if isinstance(value, dict) else 0,
        )
        for path, module in model.named_modules()
        for name, value in vars(module).items()
    }
    tensors = [model.plain, *model.parameters(), *model.buffers()]
    held = [
        (t.tolist(), t._version, t.requires_grad, id(t.grad), str(t.grad), repr(t._backward_hooks)) for t in tensors
    ]
    drawn = torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()
    return attributes, held, drawn, model.own.get_state().tolist()


@pytest.mark.parametrize("kind", [*FAITHFUL, *NOT_FAITHFUL])
@pytest.mark.parametrize(
    "cut",
    [
        lambda model, x: split(model, 2, x),
        lambda model, x: split(model, 2, x, "time"),
        lambda model, x: split(model, None, x, at=["nothing"]),
        lambda model, x: split(model, 20, x),
        lambda model, x: split(model, 2, x[:, :3]),
        lambda model, x: choose_cuts(model, 2, x, "memory"),
        lambda model, x: cut_points(model, x),
        lambda model, x: split_classifier(model, 4),
    ],
)
def test_the_model_stays_as_it_was(kind, cut):
    model, x = trained(kind), torch.rand(4, 8)
    before, given = state(model), x.clone()
    with contextlib.suppress(ValueError):
        cut(model, x)
    assert state(model) == before
    assert torch.equal(x, given)


@pytest.mark.parametrize(("kind", "message"), NOT_FAITHFUL.items())
def test_what_stages_would_not_do_is_refused_with_the_reason(kind, message):
    with pytest.raises(ValueError, match=message):
        split(kind(), 2, torch.rand(4, 8))


def test_the_comparison_can_be_left_out():
    model, x = FixesTheSize(), torch.rand(4, 8)
    first, second = split(model, 2, x, verify=False)
    assert torch.equal(second(first(x)), model(x))


@pytest.mark.parametrize("kind", FAITHFUL)
def test_what_stages_do_as_the_model_is_cut(kind):
    model, twin, x = kind(), kind(), torch.rand(4, 8)
    twin.load_state_dict(model.state_dict())
    stages = split(model, 2, x)
    for _ in range(3):
        assert torch.equal(stages[1](stages[0](x)), twin(x))
    assert torch.equal(model.n, twin.n)


class Everything(nn.Module):
    """Dropout of both kinds, stochastic depth, batch norm, random numbers as the graph can draw them, a mask."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.dropout, self.depth, self.c = nn.Dropout(0.3), StochasticDepth(0.5, "row"), nn.Linear(8, 4)

    def forward(self, x):
        h = F.dropout(F.relu(self.norm(self.a(x))), 0.2, training=self.training)
        h = h + self.depth(self.dropout(self.b(h)))
        with torch.no_grad():
            mask = h > 0  # has no gradient anyway
        return self.c(h * mask + torch.rand_like(h))


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_stochastic_depth_and_batch_norm_are_cut(rows, dtype):
    assert len(split(Everything().to(dtype), 2, torch.rand(rows, 8, dtype=dtype))) == 2


def test_inside_no_grad_too():
    with torch.no_grad():
        assert len(split(Everything(), 2, torch.rand(4, 8), "memory")) == 2


def test_a_model_for_one_size_of_batch_is_compared_on_such():
    class Fixed(Net):
        def odd(self, h):
            return h.view(4, 8)

    assert len(split(Fixed(), 2, torch.rand(4, 8))) == 2
    with pytest.raises(ValueError, match="does not run on the example"):
        split(Fixed(), 2, torch.rand(3, 8))


def test_tokens_stay_in_the_vocabulary():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix, self.out = nn.Embedding(10, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 4)

        def forward(self, tokens):
            return self.out(self.mix(self.embed(tokens))[0].mean(1))

    assert len(split(Text(), 2, torch.tensor([[3, 9, 1]] * 4))) == 2


def test_weight_norms_are_cut():
    old, new = torch.nn.utils.weight_norm, torch.nn.utils.parametrizations.weight_norm
    layers = [
        old(nn.Linear(8, 8)),
        torch.nn.utils.spectral_norm(nn.Linear(8, 8)),
        new(nn.Linear(8, 8)),
        nn.Linear(8, 2),
    ]
    assert len(split(nn.Sequential(*layers), 4, torch.rand(4, 8))) == 4


def test_lazy_layers_stay_lazy():
    model = nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 2))
    with pytest.raises(ValueError, match="uninitialized parameter"):
        split(model, 2, torch.rand(4, 8))
    assert isinstance(model[0], nn.LazyLinear) and model[0].has_uninitialized_params()


def test_tensors_without_data_are_not_compared():
    with memory.on_paper():
        assert len(split(nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 2)), 2, torch.rand(4, 8))) == 2
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)).to("meta"), torch.rand(4, 8, device="meta")
    assert len(split(model, 2, x)) == 2


def test_without_data_what_a_graph_does_not_hold_is_refused():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            with torch.no_grad():
                h = self.a(x)
            return self.b(h)

    with memory.on_paper(), pytest.raises(ValueError, match=r"Frozen cannot be cut. Its forward pass uses torch.no_gr"):
        split(Frozen(), 2, torch.rand(4, 8))


@pytest.mark.parametrize(
    "kind", [NoisyFromOwnGenerator, LooksAtTensors, Iterates, TriesToBranch, Noisy, WithoutGradient]
)
def test_without_its_classifier_a_model_runs_its_own_forward(kind):
    model, twin, x = kind(), kind(), torch.rand(4, 8)
    twin.load_state_dict(model.state_dict())
    trunk, classifier = split_classifier(model, 4)
    for seed in range(5):
        torch.manual_seed(seed)
        h = trunk(x)
        torch.manual_seed(seed)
        assert torch.equal(h if classifier is None else classifier(h), twin(x))


class Rows(TorchFunctionMode):
    """Notes the number of rows that linear layers compute."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.linear and args[0].device.type == "cpu":
            self.rows.append(len(args[0]))
        return func(*args, **(kwargs or {}))


def test_comparing_takes_few_rows():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    with Rows() as computed:
        split(model, 2, torch.rand(512, 8))
    assert max(computed.rows) == 2
    assert sum(computed.rows) == 2 * (2 * (2 + 2 + 1 + 1))  # layers, times both modes' rows of model and stages
