"""Early exits: each sample goes its own way, whatever the batch; what it costs is what was run."""

import copy

import pytest
import torch
from torch import nn

import kit
from kit import exits
from kit.exits import RULES, Rule
from kit.measure import costs
from tests.test_methods import batch, stages

RULE_CASES = [
    Rule("confidence", 0.4),
    Rule("entropy", 0.9),
    Rule("margin", 0.1),
    Rule("patience", patience=1),
    Rule("patience", patience=2),
    Rule("patience-cosine", 0.3),
    Rule("patience-cosine", -0.5, patience=2),
]


@pytest.fixture(scope="module")
def trained():
    """A net that answers differently from exit to exit, and 1,024 inputs."""
    torch.manual_seed(0)
    x, y = torch.randn(1024, 3, 8, 8), torch.arange(1024) % 4
    x += y.view(-1, 1, 1, 1) * 0.3
    net = kit.decouple(stages(), "greedy", 4, x[:2], context="R1E", lr=1e-2)
    for start in range(0, 1024, 128):
        net.step(x[start : start + 128], y[start : start + 128])
    return net, x, y


@pytest.mark.parametrize("rule", RULE_CASES, ids=str)
def test_a_sample_leaves_alike_alone_in_a_batch_and_shuffled(trained, rule):
    """Must show 3: same exit and same logits alone, among 1,024 and in another order."""
    net, x, _ = trained
    logits, left, cost = net.adaptive(x, rule)
    assert len(left.unique()) > 1, "a case in which all leave at one exit shows nothing"
    order = torch.randperm(1024)
    mixed_logits, mixed_left, mixed_cost = net.adaptive(x[order], rule)
    assert torch.equal(mixed_left, left[order]) and torch.equal(mixed_cost, cost[order])
    torch.testing.assert_close(mixed_logits, logits[order], rtol=1e-4, atol=1e-5)
    for i in range(0, 1024, 41):
        alone, exit_, own = net.adaptive(x[i : i + 1], rule)
        assert exit_.item() == left[i] and own.item() == cost[i]
        torch.testing.assert_close(alone[0], logits[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", RULE_CASES, ids=str)
def test_the_way_is_that_of_all_exits_answers(trained, rule):
    """A sample's logits are those of the exit it left at, and the exit is the first where the rule held."""
    net, x, _ = trained
    every = torch.stack(net.predict(x))
    logits, left, cost = net.adaptive(x, rule)
    assert torch.equal(left, exits.leaving(rule, every))
    torch.testing.assert_close(logits, every[left, torch.arange(1024)], rtol=1e-4, atol=1e-5)
    assert torch.equal(cost, torch.tensor(exits.exit_costs(net, x[:1]), dtype=torch.float64)[left])


def test_rules_by_hand():
    first = torch.tensor([[4.0, 0.0, 0.0], [1.0, 0.9, 0.0], [0.0, 1.0, 0.0]])
    second = torch.tensor([[8.0, 0.0, 0.0], [0.9, 1.0, 0.0], [0.0, 1.0, 0.9]])
    third = torch.tensor([[0.0, 3.0, 0.0], [0.9, 1.0, 0.1], [0.0, 1.0, 0.0]])
    every = torch.stack([first, second, third])
    p = first.softmax(1)
    for name, value in (
        ("confidence", p.max(1).values),
        ("margin", p.sort(1).values[:, 2] - p.sort(1).values[:, 1]),
        ("entropy", torch.distributions.Categorical(p).entropy() / torch.log(torch.tensor(3.0))),
    ):
        torch.testing.assert_close(exits.score(name, first), value)
    assert exits.leaving(Rule("patience"), every).tolist() == [1, 2, 1]
    assert exits.leaving(Rule("patience", patience=2), every).tolist() == [2, 2, 2]
    assert exits.leaving(Rule("patience-cosine", 0.8), every).tolist() == [1, 2, 2]
    four = torch.stack([first, second, third, third])
    assert exits.leaving(Rule("patience-cosine", 0.5, patience=2), four).tolist() == [3, 3, 2]


def test_who_leaves_is_run_no_further():
    net = kit.decouple(stages(), "greedy", 4, batch()[0])
    seen = []
    for block in net:
        block.body[0].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    net.adaptive(batch()[0], "confidence", threshold=0.0, cost=[1, 2, 3, 4])
    assert seen == [8]
    seen.clear()
    x = torch.randn(64, 3, 8, 8)
    every = torch.stack(net.predict(x))
    middle = exits.score("confidence", every[0]).median().item()
    seen.clear()
    _, left, _ = net.adaptive(x, "confidence", threshold=middle, cost=[1, 2, 3, 4])
    assert seen == [int((left >= k).sum()) for k in range(4) if (left >= k).any()] and seen[:2] == [64, 31]


def test_a_net_with_watched_cuts_is_left_inside_its_block(trained):
    x, y = batch()
    net = kit.decouple(stages(), "bp", 4, x)
    net.step(x, y)
    _, left, _ = net.adaptive(x, "confidence", threshold=0.0)
    assert left.tolist() == [0] * 8
    every = torch.stack(net.predict(x))
    logits, left, _ = net.adaptive(x, "patience")
    assert torch.equal(left, exits.leaving(Rule("patience"), every))
    torch.testing.assert_close(logits, every[left, torch.arange(8)])


def test_mode_and_statistics_stay(trained):
    net, x, _ = trained
    net.train()
    before = copy.deepcopy(net.state_dict())
    net.adaptive(x[:8])
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_costs_are_pytorchs_count():
    """Two convolutions and Linear heads, by hand: a product and its sum are two operations."""
    convs = [nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))]
    net = kit.decouple(convs, "greedy", 5, torch.zeros(2, 3, 8, 8))
    body = [2 * 3 * 9 * 4 * 64, 2 * 4 * 9 * 4 * 64]
    head = 2 * 4 * 5
    x = torch.randn(3, 3, 8, 8)
    assert exits.exit_costs(net, x) == [body[0] + head, sum(body) + 2 * head]
    assert exits.last_cost(net, x) == sum(body) + head
    assert costs.flops(lambda: net.predict(x)) == 3 * (sum(body) + 2 * head)
    assert torch.equal(exits.last_only(net, x), net.predict(x)[-1])
    seconds = exits.exit_costs(net, x, "seconds")
    assert 0 < seconds[0] < seconds[1] < 1


def test_half_precision():
    net = kit.decouple(stages(), "greedy", 4, batch()[0], precision="bf16")
    every, x = torch.stack(net.predict(batch()[0])), batch()[0]
    assert exits.last_cost(net, x) < exits.exit_costs(net, x)[-1]
    logits, left, _ = net.adaptive(x, "patience")
    torch.testing.assert_close(logits, every[left, torch.arange(8)], rtol=0.05, atol=0.05)
    assert exits.last_only(net, x).dtype == logits.dtype == torch.float32


def test_a_grown_net_has_new_costs():
    net = kit.decouple(stages(), "greedy", 4, batch()[0], start=2)
    before = net.adaptive(batch()[0], threshold=1.0)[2]
    net.grow()
    assert (net.adaptive(batch()[0], threshold=1.0)[2] > before).all()


# Calibration


def test_calibration_by_hand():
    """Exit 1 is right on the sure half of the samples, exit 2 on all: the best threshold lies between them."""
    labels = torch.arange(8) % 2
    sure = torch.arange(8) < 4
    strength = torch.where(sure, 5.0, 0.5) + torch.arange(8) * 0.01
    right = torch.eye(2)[labels] * strength[:, None]
    wrong = torch.eye(2)[1 - labels] * strength[:, None]
    every = torch.stack([torch.where(sure[:, None], right, wrong), right * 3])
    points = exits.curve("confidence", every, labels, [1.0, 4.0])
    best = exits.choose(points, accuracy=1.0)
    assert (best.accuracy, best.cost, best.shares) == (1.0, 2.5, (0.5, 0.5))
    assert best.random == pytest.approx(0.75)
    cheap = exits.choose(points, cost=2.0)
    assert cheap.cost <= 2.0 and cheap.accuracy == max(point.accuracy for point in points if point.cost <= 2.0)
    with pytest.raises(ValueError, match="reaches an accuracy of 1.5: the best is 1.0000"):
        exits.choose(points, accuracy=1.5)
    with pytest.raises(ValueError, match="costs 0.5 or less: the cheapest costs 1"):
        exits.choose(points, cost=0.5)
    with pytest.raises(ValueError, match="want one of the two"):
        exits.choose(points)


@pytest.mark.parametrize("name", RULES)
def test_calibration_reads_the_validation_split_and_nothing_else(trained, name):
    net, x, y = trained
    cost = exits.exit_costs(net, x[:1])
    point = exits.calibrate(net, [(x[:512], y[:512]), (x[512:], y[512:])], name, cost, cost=sum(cost) / 4)
    logits, left, own = net.adaptive(x, point.rule)
    assert own.mean().item() == pytest.approx(point.cost) and point.cost <= sum(cost) / 4
    assert (logits.argmax(1) == y).double().mean().item() == pytest.approx(point.accuracy)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (("confidense",), "unknown rule 'confidense': did you mean 'confidence'"),
        (("confidence", 90), r"threshold=90, but that of 'confidence' lies in \[0, 1\]"),
        (("entropy", -0.1), r"lies in \[0, 1\]"),
        (("patience-cosine", -1.1), r"lies in \[-1, 1\]"),
        (("patience", 0.5), "the rule 'patience' has none"),
        (("patience", None, 0), "patience=0, but it has to be a whole number"),
    ],
)
def test_rules_refuse(rule, message):
    with pytest.raises(ValueError, match=message):
        Rule(*rule)


def test_adaptive_refuses():
    x, _ = batch()
    one = kit.decouple([nn.Sequential(*stages())], "greedy", 4, x)
    for name in ("patience", "patience-cosine"):
        with pytest.raises(ValueError, match="compares an exit with the one before, but this net has one exit"):
            one.adaptive(x, name)
    with pytest.raises(ValueError, match="an empty batch"):
        one.adaptive(x[:0])
    assert one.adaptive(x)[1].tolist() == [0] * 8
