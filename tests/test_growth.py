"""Growth: what is there stays as it is, what is frozen rests, what does not fit is refused."""

import copy

import pytest
import torch
from torch import nn

import kit
from kit.growth import Growth, schedule
from kit.measure import costs
from kit.methods import REGISTRY
from kit.train import checkpoint
from tests.test_methods import CONTEXTS, SMALL, batch, same, snapshot, stages

DECOUPLED = [name for name, method in REGISTRY.items() if not method.one_loss]


def growing(method="dgl", start=2, dropout=0.0, **settings):
    return kit.decouple(stages(dropout), method, 4, batch()[0], start=start, **(SMALL.get(method, {}) | settings))


def states(net):
    return [copy.deepcopy((block.state_dict(), block.optimizer.state_dict())) for block in net]


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize("context", ["none", *CONTEXTS])
@pytest.mark.parametrize("method", DECOUPLED)
def test_growing_changes_nothing_of_what_is_there(method, context):
    """Must show 1: logits of earlier exits, weights, statistics and optimizers are the same bits after growth."""
    net = growing(method, context=context)
    for _ in range(2):
        net.step(*batch())
    before, there = net.predict(batch()[0]), states(net)
    net.grow()
    after = net.predict(batch()[0])
    assert len(after) == 3 and all(map(torch.equal, before, after[:2]))
    assert all(map(equal, there, states(net)))
    net.grow()
    net.step(*batch())
    assert len(net.predict(batch()[0])) == 4


@pytest.mark.parametrize("context", ["none", "R2E"])
@pytest.mark.parametrize("method", DECOUPLED)
def test_a_net_grown_before_training_is_the_whole_net(method, context):
    whole, grown = growing(method, None, 0.3, context=context), growing(method, 1, 0.3, context=context)
    while len(grown) < 4:
        grown.grow()
    assert same(snapshot(whole), snapshot(grown))
    flags = [[(b.index, b.keep_x, b.depth, b.keep_views) for b in net] for net in (whole, grown)]
    assert flags[0] == flags[1]
    for net in (whole, grown):
        net.step(*batch())
    assert same(snapshot(whole), snapshot(grown))


def test_earlier_blocks_learn_the_same_whether_or_not_others_join():
    alone, grown = growing(dropout=0.3), growing(dropout=0.3)
    for net in (alone, grown):
        net.step(*batch())
    grown.grow()
    for net in (alone, grown):
        net.step(*batch())
    assert same(snapshot(alone.blocks), snapshot(grown.blocks[:2]))


def test_a_grown_copy_shares_no_tensor_with_the_original():
    net = growing()
    twin = copy.deepcopy(net)
    before = snapshot(net.grow())
    twin.grow()
    twin.step(*batch())
    assert same(before, snapshot(net[2])) and not same(before, snapshot(twin[2]))


def test_frozen_blocks_rest_and_store_no_graph():
    net = growing(start=3, dropout=0.3)
    net.step(*batch())
    net.freeze(2)
    net.train()
    assert [block.training for block in net] == [False, False, True]
    before, steps = states(net), [block.num_steps for block in net]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda t: t):
        signal = net[1].step(net[0].step(net.signal(*batch())))
    assert not saved and signal.h.grad_fn is None
    net.step(*batch())
    assert all(map(equal, before[:2], states(net)[:2])) and not equal(before[2], states(net)[2])
    assert [block.num_steps - old for block, old in zip(net, steps, strict=True)] == [0, 0, 1]
    assert net[0].last_terms == {}


def test_a_frozen_block_hands_on_its_code_as_a_learning_one_does_in_bf16():
    """AL's codes are fp32 whatever the block's precision; the next block's loss takes no other."""
    net = growing("al", precision="bf16")
    learning = net[0].step(net.signal(*batch()))
    net.freeze(1)
    frozen = net[0].step(net.signal(*batch()))
    assert learning.target.dtype == frozen.target.dtype == torch.float32
    net[1].step(frozen)


def test_thawed_blocks_go_on_as_if_they_had_never_rested():
    rested, other = growing("greedy", 1, 0.3), growing("greedy", 1, 0.3)
    for net in (rested, other):
        net.step(*batch())
    rested.freeze()
    rested.step(*batch())
    rested.thaw(1)
    assert rested[0].training
    for net in (rested, other):
        net.step(*batch())
    assert all(map(equal, states(rested), states(other)))


def test_frozen_state_is_in_the_checkpoint():
    net = growing()
    net.freeze(1)
    twin = growing()
    for block, own in zip(twin, net, strict=True):
        block.load_training_state(own.training_state())
    assert [block.frozen for block in twin] == [True, False] and not twin[0].training


def test_inserting_numbers_the_blocks_anew_and_leaves_those_before_alone():
    net = growing()
    before = net.predict(batch()[0])
    other = kit.decouple([nn.Conv2d(6, 6, 3, padding=1)], "greedy", 4, torch.zeros(2, 6, 8, 8))[0]
    net.insert(1, other)
    after = net.predict(batch()[0])
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[2])
    assert [block.index for block in net] == [0, 1, 2]
    net.step(*batch())


def test_a_module_becomes_a_block_behind_the_net():
    net = growing("deinforeg", 4)
    net.append(net.new_block(nn.Sequential(nn.Linear(8, 12), nn.ReLU())))
    net.step(*batch())
    assert len(net.predict(batch()[0])) == 5 and type(net[4].objective) is type(net[0].objective)
    assert type(net[4].optimizer) is type(net[0].optimizer)


def conv(width, out):
    return kit.decouple([nn.Conv2d(width, out, 3, padding=1)], "greedy", 4, torch.zeros(2, width, 8, 8))[0]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda net: net.append(conv(5, 5)), r"takes inputs of shape \(5, 8, 8\), but .* has shape \(8, 8, 8\)"),
        (lambda net: net.insert(1, conv(6, 7)), r"takes inputs of shape \(6, 8, 8\), .*would see \(7, 8, 8\)"),
        (lambda net: net.insert(5, conv(8, 8)), "numbered 0 to 1"),
        (lambda net: net.append(net[0]), "in the net already"),
        (lambda net: [net.grow() for _ in range(3)], "max_blocks=4.*net.new_block"),
        (lambda net: net.freeze(3), "upto=3, but the net has 2 blocks"),
        (lambda net: net.grow("depth"), "unknown view 'depth'"),
        (lambda net: growing("bp"), "start=2, but a bp net is trained as a whole"),
        (lambda net: growing(start=9), "start=9, but there are 4 stages"),
        (lambda net: growing("bp", None).grow(), "a bp net does not grow: one loss .*such as greedy or dgl"),
    ],
)
def test_refuses_and_changes_nothing(act, message):
    net = growing()
    before = [(block.index, block.keep_x, block.depth) for block in net]
    with pytest.raises(ValueError, match=message):
        act(net)
    if len(net) == 2:
        assert before == [(block.index, block.keep_x, block.depth) for block in net]


def test_a_plain_module_is_no_block():
    with pytest.raises(TypeError, match="make one of it with net.new_block"):
        growing().append(nn.Linear(8, 8))


def test_no_growth_in_the_middle_of_a_step():
    net = growing()
    with net.one_step(), pytest.raises(RuntimeError, match="in the middle of a step: .*between two epochs"):
        net.grow()
    net.grow()


# By a schedule


def test_by_need_a_block_comes_when_accuracy_rests_and_none_after_one_that_did_not_pay():
    growth = Growth(when="plateau", patience=2, min_gain=0.01, start=2, max_blocks=5)
    rising, resting = [0.5, 0.6, 0.7], [0.7, 0.7]
    assert growth.num_blocks(rising) == 2
    assert growth.num_blocks([*rising, 0.7]) == 2
    assert growth.num_blocks([*rising, *resting]) == 3
    paid = [*rising, *resting, 0.75, 0.76, 0.75, 0.75]
    assert growth.num_blocks(paid) == 4
    assert growth.num_blocks([*paid, *[0.76] * 9]) == 4, "block 4 did not pay: no more come"
    most = Growth(when="plateau", patience=1, start=1, max_blocks=2)
    assert most.num_blocks([0.1] * 9) == 2


SETTINGS = dict(
    backbone="mlp",
    backbone_options={"depth": 4, "norm": "batch", "hidden": 16},
    method="greedy",
    num_blocks=4,
    epochs=4,
    limit=300,
    precision="fp32",
    batch_size=64,
    checkpoint_steps=2,
)
BY_EPOCHS = {"at": [1, 2], "freeze": "earlier"}


def config(folder=None, **changes):
    return kit.RunConfig(**(SETTINGS | {"grow": BY_EPOCHS} | changes), output=folder and str(folder))


def state_of(folder):
    """Return what every block keeps for going on, first to last."""
    path = checkpoint.latest(folder)
    (run,) = checkpoint.load(path, ["run"])
    return checkpoint.load(path, [f"block{k}" for k in range(run["num_blocks"])])


def test_a_run_grows_by_its_schedule(tmp_path):
    history = kit.run(config(tmp_path))
    counts = history.accuracy("val").notna().sum(axis=1)
    assert counts.tolist() == [2, 3, 4, 4]
    trained = history.table.query("metric == 'ce'").groupby("epoch")["block"].unique()
    assert [list(blocks) for blocks in trained] == [[1, 2], [3], [4], [4]], "blocks before the new one are frozen"
    state = state_of(tmp_path)
    assert [block["frozen"] for block in state] == [True, True, True, False]
    assert [block["schedule"][1] for block in state] == [20, 20, 15, 10], "a new block's schedule begins when it comes"


@pytest.mark.parametrize("steps", [7, 10, 13])
@pytest.mark.parametrize("grow", [BY_EPOCHS, {"when": "plateau", "patience": 1, "min_gain": 0.5}])
def test_a_grown_run_goes_on_bit_for_bit(tmp_path, steps, grow):
    kit.run(config(tmp_path / "whole", grow=grow))
    settings, taken = config(tmp_path / "stopped", grow=grow), []

    def interrupt(block, signal):
        taken.append(1)
        if len(taken) > steps:
            raise KeyboardInterrupt

    loaded = kit.train.load_data(settings)
    net = kit.train.build(settings, loaded)
    net[0].register_step_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        kit.fit(net, loaded, settings)
    kit.run(settings)
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "stopped"))
    whole, stopped = (kit.History.load(tmp_path / f).table for f in ("whole", "stopped"))
    assert whole.equals(stopped)


def test_growth_by_hand_between_epochs_is_kept(tmp_path):
    def by_hand(epoch, net):
        if epoch == 2:
            net.grow()
            net.freeze(2)

    settings = config(tmp_path, grow={"at": [3]}, num_blocks=3)
    loaded = kit.train.load_data(settings)
    net = kit.train.build(settings, loaded)
    with pytest.raises(ValueError, match="max_blocks=3"):
        kit.fit(net, loaded, settings, lambda epoch, net: [net.grow(), net.grow()])
    settings = config(tmp_path / "by_hand", grow={"at": [3], "start": 2})
    net = kit.train.build(settings, loaded)
    history = kit.fit(net, loaded, settings, by_hand)
    assert history.accuracy("val").notna().sum(axis=1).tolist() == [2, 2, 3, 3]
    assert [block.frozen for block in net] == [True, True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grow": {"at": [1], "frezze": "none"}}, "unknown setting of grow: 'frezze': did you mean 'freeze'"),
        ({"grow": {}}, "either at=.* or when='plateau'"),
        ({"grow": {"at": [1], "when": "plateau"}}, "either at=.* or when='plateau'"),
        ({"grow": {"when": "platou"}}, "unknown grow when 'platou': did you mean 'plateau'"),
        ({"grow": {"at": [1], "freeze": "all"}}, "unknown grow freeze 'all'"),
        ({"grow": {"at": [2, 1]}}, "rising numbers of epochs from 1 to 3"),
        ({"grow": {"at": [4]}}, "rising numbers of epochs from 1 to 3"),
        ({"grow": {"at": [1, 2, 3]}, "num_blocks": 3}, "starts with 0 blocks"),
        ({"grow": {"when": "plateau", "max_blocks": 6}}, "max_blocks=6, but the backbone is cut into num_blocks=4"),
        ({"grow": {"at": [1, 2], "start": 3}}, "max_blocks=5, but the backbone is cut into num_blocks=4"),
        ({"grow": {"at": [1, 2], "max_blocks": 3}}, "goes beyond max_blocks=3"),
        ({"method": "bp"}, "a bp net does not grow: .*such as greedy or dgl"),
        ({"grow": {"at": [1], "side": "bottom"}}, "unknown view of grow side: 'bottom'"),
        ({"views": ["top", "botom"]}, "unknown view 'botom': did you mean 'bottom'"),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_at_starts_with_as_many_fewer():
    assert schedule({"at": [3, 5]}, 4, 9).start == 2 and schedule({"at": [3], "start": 1}, 4, 9).max_blocks == 2
    assert schedule({"when": "plateau"}, 4, 9) == Growth(when="plateau", start=2, max_blocks=4)


def test_a_frozen_prefix_saves_its_backward_work():
    """The step takes at least half of what the frozen blocks took less; in operations, since times are not steady."""
    example = torch.randn(16, 8, 16, 16)
    convs = [nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))) for _ in range(3)]
    net = kit.decouple(convs, "greedy", 4, example)
    y = torch.arange(16) % 4
    whole = costs.flops(lambda: net.step(example, y))
    prefix = costs.flops(lambda: net[1].step(net[0].step(net.signal(example, y))))
    net.freeze(2)
    frozen = costs.flops(lambda: net.step(example, y))
    assert whole - frozen >= prefix / 2, (whole, prefix, frozen)
