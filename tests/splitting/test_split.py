"""The stages are the model: same tensors, same output, same gradients; and the cuts are the best there are."""

import copy
import itertools
import pickle
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kit.backbones import backbone
from kit.measure.costs import parameters
from kit.splitting.balance import balanced
from kit.splitting.split import cut_points, split
from kit.splitting.stage import split_classifier

torch.set_num_threads(1)

FAMILIES = {  # name → the smallest comfortable image
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "swin_t": 32,
    "vgg11_bn": 32,
    "vit_b_16": 32,
}


def run(stages, x):
    for stage in stages:
        x = stage(x)
    return x


def tensors(*modules):
    return [tensor for module in modules for tensor in [*module.parameters(), *module.buffers()]]


def learn(call, x):
    """Run forward and backward at a fixed seed; return the output."""
    torch.manual_seed(3)
    out = call(x)
    out.square().mean().backward()
    return out.detach()


def small(**changes):
    """A small network with every habit that cutting has to respect."""
    return backbone("vgg-paper", **{"in_channels": 1, "width": 0.05, "image_size": 8, **changes})


X = torch.rand(4, 1, 8, 8)


@pytest.mark.parametrize("name", FAMILIES)
def test_stages_are_the_model(name):
    size = FAMILIES[name]
    torch.manual_seed(0)
    model = backbone(name, image_size=size)
    x = torch.rand(2, 3, size, size)
    before = [tensor.clone() for tensor in tensors(model)]
    stages = split(model, 4, x)
    assert len(stages) == 4 and all(stage.training for stage in stages) and model.training
    assert all(torch.equal(old, new) for old, new in zip(before, tensors(model), strict=True))
    assert sorted(map(id, tensors(model))) == sorted(map(id, tensors(*stages)))
    assert {key for stage in stages for key in stage.state_dict()} == set(model.state_dict())
    assert all(any(p.ndim >= 2 for p in stage.parameters()) for stage in stages)

    twin = copy.deepcopy(model)
    assert torch.equal(learn(twin, x), learn(lambda x: run(stages, x), x))
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    for ours, theirs in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, theirs)  # running statistics move through the stages as in the model

    for module in [model, *stages]:
        module.eval()
    with torch.no_grad():
        assert torch.equal(model(x), run(stages, x))


def test_dropout_called_as_a_function_switches_with_the_stage():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.b(F.dropout(self.a(x), 0.5, training=self.training))

    x = torch.rand(4, 8)
    stages = split(Net(), 2, x)
    first = stages[0]
    assert torch.equal(first.eval()(x), first(x))
    assert not torch.equal(first.train()(x), first(x))
    copied = copy.deepcopy(first).eval()
    assert copied.a is not first.a and torch.equal(copied(x), first.eval()(x))
    assert torch.equal(pickle.loads(pickle.dumps(first))(x), first(x))


def test_a_model_in_evaluation_mode_gives_stages_in_evaluation_mode():
    model = small().eval()
    model.block2.train()
    flags = [module.training for module in model.modules()]
    stages = split(model, 3, X)
    assert flags == [module.training for module in model.modules()]
    assert not any(stage.training for stage in stages)


def test_vgg_paper_is_cut_into_the_papers_blocks():
    model = small()
    stages = split(model, None, X, at=["block1", "block2", "block3"])
    blocks = [[model.block1], [model.block2], [model.block3], [model.block4, model.classifier]]
    for stage, block in zip(stages, blocks, strict=True):
        assert list(map(id, stage.parameters())) == list(map(id, nn.ModuleList(block).parameters()))
    assert [tuple(run(stages[: k + 1], X).shape[1:]) for k in range(4)] == [(13, 4, 4), (26, 2, 2), (26, 1, 1), (10,)]


def test_a_pool_stays_with_the_layer_before_it():
    stages = split(small(), 10, X, balance="layers")
    assert [len(list(stage.parameters())) for stage in stages[:-1]] == [3] * 9  # conv, and the norm's two


@pytest.mark.parametrize("balance", ["params", "layers", "time", "memory"])
def test_every_balance_composes(balance):
    model = small().eval()
    stages = split(model, 4, X, balance)
    assert torch.equal(run(stages, X), model(X))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_balances_measure_different_things():
    x = torch.rand(2, 3, 32, 32)
    model = backbone("resnet20")
    shares = {
        balance: [parameters(s) for s in split(model, 3, x, balance)] for balance in ("params", "memory", "layers")
    }
    assert shares["memory"][-1] > shares["params"][-1]  # early layers hold the large maps, late ones the weights
    assert len(set(map(tuple, shares.values()))) == 3


def largest(costs, ends):
    edges = [0, *(end + 1 for end in ends), len(costs)]
    return max(sum(costs[a:b]) for a, b in itertools.pairwise(edges))


def test_balanced_is_as_good_as_trying_everything():
    draw = random.Random(0)
    for _ in range(300):
        count = draw.randint(1, 9)
        costs = [draw.choice([0, 0, 1, 2, 3, 10, draw.randint(0, 100)]) for _ in range(count)]
        for num_blocks in range(1, count + 1):
            ends = balanced(costs, num_blocks)
            assert len(ends) == num_blocks - 1 and ends == sorted(set(ends)) and all(e < count - 1 for e in ends)
            every = itertools.combinations(range(count - 1), num_blocks - 1)
            assert largest(costs, ends) == min(largest(costs, other) for other in every)


def test_balanced_is_even_among_the_best():
    assert balanced([1] * 10, 4) == [2, 5, 7]  # 3, 3, 2, 2 and not 3, 3, 3, 1
    assert balanced([8, 1, 1, 1, 1], 3) == [0, 2]


def test_cuts_are_the_best_of_all_layer_wise_cuts():
    model = small()
    names = ["block1.2", "block1.5", "block1.8", "block1", "block2.2", "block2", "block3.2", "block3", "flatten"]
    assert set(names) <= set(cut_points(model, X))
    each = [[parameters(stage) for stage in split(model, None, X, at=[name])] for name in names]
    assert max(map(parameters, split(model, 2, X))) == min(map(max, each))


def test_a_parameter_used_twice_stays_in_one_stage():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.c(F.relu(F.linear(self.b(self.a(x)), self.a.weight)))

    x = torch.rand(4, 8)
    assert cut_points(Tied(), x) == ["linear", "relu"]
    with pytest.raises(ValueError, match="num_blocks=3, but Tied has only 1 cut points .* choose 1 to 2"):
        split(Tied(), 3, x)


def test_a_value_that_is_overwritten_later_is_no_place_to_cut():
    x = torch.rand(4, 8)
    model = nn.Sequential(
        nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(inplace=True), nn.Linear(8, 2)
    )
    assert cut_points(model, x) == ["1", "2", "3"]  # in evaluation the dropout writes nothing
    model = nn.Sequential(nn.Linear(8, 8), nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(8, 2))
    assert cut_points(model, x) == ["2"]


def test_optional_arguments_and_constants_of_forward():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x, mask=None):
            x = self.a(x)
            if mask is not None:
                x = x * mask
            return self.b(x + torch.tensor([1.0]))

    model, x = Net(), torch.rand(4, 8)
    held = set(vars(model))
    stages = split(model, 2, x)
    assert torch.equal(run(stages, x), model(x)) and set(vars(model)) == held


def test_shapes_that_depend_on_values_are_found_by_running():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)

        def forward(self, x):
            h = self.norm(self.a(x))
            return self.b(h + torch.nonzero(h)[:1].sum())

    model, x = Net(), torch.rand(4, 8)
    assert cut_points(model, x) == ["a", "norm", "add"]
    assert int(model.norm.num_batches_tracked) == 0


def test_one_block_is_the_model_even_if_it_cannot_be_traced():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    model = Branching()
    assert split(model, 1, X) == [model]
    with pytest.raises(ValueError, match="Branching cannot be cut: torch.fx cannot trace it .*use num_blocks=1"):
        split(model, 2, X)


def test_most_blocks_is_one_for_each_layer():
    stages = split(small(), 10, X)
    assert [sum(p.ndim >= 2 for p in stage.parameters()) for stage in stages] == [1] * 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_blocks": 0}, "num_blocks=0, expected an integer of at least 1"),
        ({"num_blocks": None}, "num_blocks=None, expected an integer"),
        ({"num_blocks": 11}, "num_blocks=11, but Sequential has only 9 cut points .* choose 1 to 10"),
        ({"num_blocks": 3, "at": ["block1"]}, r"num_blocks=3, but at=\['block1'\] makes 2 blocks"),
        ({"num_blocks": 2, "balance": "parms"}, "unknown balance 'parms': did you mean 'params'"),
        ({"num_blocks": 2, "at": ["blok1"]}, "unknown cut point 'blok1': did you mean 'block1'"),
        ({"num_blocks": 2, "at": ["classifier"]}, "cannot cut behind 'classifier'.* nearest cut points are 'flatten'"),
        ({"num_blocks": 3, "at": ["block2", "block1"]}, r"in order of execution: \['block1', 'block2'\]"),
        ({"num_blocks": 3, "at": ["block1", "block1"]}, "expected different cut points"),
        ({"num_blocks": 2, "example": torch.rand(4, 2, 8, 8)}, r"does not run on the example of shape \(4, 2, 8, 8\)"),
        ({"num_blocks": 2, "example": torch.tensor(1.0)}, r"expected one batch as a tensor \(B, …\)"),
        ({"num_blocks": 2, "example": [1]}, r"example=\[1\], but it has to be a Tensor"),
        (
            {"num_blocks": 2, "at": "block1"},
            r"at='block1', but it has to be a list of cut points, such as \['layer1'\]",
        ),
    ],
)
def test_what_cannot_be_cut_says_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        split(**{"model": small(), "example": X, **arguments})


def test_a_place_inside_a_residual_block_names_its_neighbours():
    model = backbone("resnet20", width=0.1)
    with pytest.raises(ValueError, match="cannot cut behind 'layer1.1.conv1'.*'layer1.0' and 'layer1.1.add'"):
        split(model, 2, torch.rand(2, 3, 32, 32), at=["layer1.1.conv1"])


def test_several_outputs_are_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            h = self.a(x)
            return self.b(h), h

    with pytest.raises(
        ValueError, match="returns several values, expected one tensor. Switch its auxiliary outputs off"
    ):
        split(Two(), 2, torch.rand(4, 8))


def test_a_model_without_any_place_is_refused():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return x + self.b(x + self.a(x))

    assert cut_points(Dense(), torch.rand(4, 8)) == []
    for model in (Dense(), nn.Linear(8, 8)):
        with pytest.raises(ValueError, match="num_blocks=2, but .* has only 0 cut points .* choose 1 to 1"):
            split(model, 2, torch.rand(4, 8))


def test_the_classifier_comes_off_the_last_stage():
    model = small()
    *_, last = split(model, 4, X)
    held = list(map(id, last.parameters()))
    trunk, classifier = split_classifier(last, 10)
    assert classifier is model.classifier and list(map(id, last.parameters())) == held
    assert sorted(map(id, tensors(trunk, classifier))) == sorted(map(id, tensors(last)))
    for module in (last, trunk):
        module.eval()
    h = torch.rand(2, *trunk_input(last))
    assert torch.equal(classifier(trunk(h)), last(h))


def trunk_input(stage):
    return next(p for p in stage.parameters() if p.ndim == 4).shape[1], 2, 2


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "googlenet", "regnet_y_400mf"])
def test_the_classifier_of_a_torchvision_model(name):
    model = backbone(name, num_classes=7, image_size=32).eval()
    x = torch.rand(2, 3, 32, 32)
    *front, last = split(model, 3, x)
    for stage, h in ((last, run(front, x)), (model, x)):
        trunk, classifier = split_classifier(stage, 7)
        features = trunk(h)
        assert features.shape == (2, [*classifier.parameters()][0].shape[1])
        assert torch.equal(classifier(features), model(x))
        assert not trunk.training and not classifier.training


def test_dropout_before_the_classifier_goes_with_it_and_spares_the_features():
    linear = nn.Linear(8, 3)
    trunk, classifier = split_classifier(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5, inplace=True), linear), 3)
    assert [type(layer) for layer in classifier] == [nn.Dropout, nn.Linear] and classifier[1] is linear
    h = trunk(torch.rand(4, 8))
    kept = h.clone()
    classifier(h)
    assert torch.equal(h, kept)


def test_a_dropout_that_is_used_elsewhere_stays_with_the_trunk():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.dropout, self.b = nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3)

        def forward(self, x):
            return self.b(self.dropout(self.a(self.dropout(x))))

    model, x = Twice(), torch.rand(4, 8)
    trunk, classifier = split_classifier(model, 3)
    assert classifier is model.b
    torch.manual_seed(0)
    expected = model(x)
    torch.manual_seed(0)
    assert torch.equal(classifier(trunk(x)), expected)


def test_a_tied_classifier_stays_with_its_stage():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    model = Tied()
    assert split_classifier(model, 8) == (model, None)


def test_without_a_final_linear_the_stage_stays_whole():
    linear = nn.Linear(8, 3)
    trunk, classifier = split_classifier(linear, 3)
    assert isinstance(trunk, nn.Identity) and classifier is linear
    for stage in (linear, nn.Sequential(linear, nn.Softmax(1)), backbone("squeezenet1_1", num_classes=4)):
        assert split_classifier(stage, 4) == (stage, None)


def test_stages_move_and_save_like_any_module():
    stages = split(backbone("swin_t", image_size=32), 3, torch.rand(2, 3, 32, 32))
    twin = copy.deepcopy(stages[1]).double()
    assert all(tensor.dtype == torch.float64 for tensor in twin.parameters())
    twin.load_state_dict(stages[1].state_dict())
    h = stages[0].eval()(torch.rand(2, 3, 32, 32))
    assert torch.allclose(twin.eval()(h.double()).float(), stages[1].eval()(h), atol=1e-5)


class CallsAPartFeature(nn.Module):
    """A model of images with a part called `feature`, as many have."""

    def __init__(self):
        super().__init__()
        self.feature = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.feature(x).mean((2, 3)))


def test_a_part_called_feature_is_cut_as_any_other():
    x = torch.randn(2, 3, 8, 8)
    model = CallsAPartFeature()
    stages = split(model, 3, x)
    for stage in stages:
        x = stage(x)
    assert len(stages) == 3 and x.shape == (2, 5)
