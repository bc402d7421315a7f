"""The plan is what the allocator sees, and costs nothing."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import kit
from kit.measure import memory
from kit.measure.costs import parameters, peak_bytes

torch.set_num_threads(1)
SHAPE = (8, 3, 32, 32)


def resnet(method="greedy", num_blocks=3, balance="memory", **settings):
    torch.manual_seed(0)
    example = torch.zeros(2, *SHAPE[1:])
    stages = kit.split(kit.backbone("resnet20"), num_blocks, example, balance)
    settings = {"optimizer": "sgd", "lr": 0.1, "pixels": torch.sigmoid} | settings
    return kit.decouple(stages, method, 10, example, **settings)


def batch():
    return torch.rand(SHAPE), torch.arange(SHAPE[0]) % 10


def held(net):
    states = [v for block in net for state in block.optimizer.state.values() for v in state.values()]
    return sum(t.nbytes for t in [*net.parameters(), *net.buffers(), *states] if isinstance(t, torch.Tensor))


@pytest.mark.parametrize(
    ("method", "num_blocks", "settings"),
    [
        ("bp", 1, {}),
        ("greedy", 4, {"optimizer": "adamw", "context": "R1E"}),
        ("infopro", 3, {"task": "contrast"}),
        ("deinforeg", 2, {"optimizer": "lars", "precision": "bf16", "widths": (64, 64, 64)}),
    ],
)
def test_plan_is_within_ten_percent_of_the_allocators_peak(method, num_blocks, settings):
    net, (x, y) = resnet(method, num_blocks, **settings), batch()
    plan = memory.plan(net, SHAPE)
    net.step(x, y)
    assert plan.staying == held(net)
    measured = held(net) + x.nbytes + y.nbytes + peak_bytes(lambda: net.step(x, y), warm_up=1)
    assert plan.peak == pytest.approx(measured, rel=0.1)


def test_plan_of_tokens():
    """Inputs are numbers of words: (B, T) int64."""
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Embedding(50, 32), nn.Linear(32, 32)), nn.Sequential(nn.ReLU(), nn.Linear(32, 32))]
    net = kit.decouple(stages, "greedy", 4, torch.zeros(2, 24, dtype=torch.int64))
    x, y = torch.randint(0, 50, (64, 24)), torch.arange(64) % 4
    plan = memory.plan(net, (64, 24), torch.int64)
    net.step(x, y)
    assert plan.staying == held(net)
    measured = held(net) + x.nbytes + y.nbytes + peak_bytes(lambda: net.step(x, y), warm_up=1)
    assert plan.peak == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("rows", [5, 48])
@pytest.mark.parametrize("method", ["bp", "dgl"])
def test_plan_of_lstms_counts_what_their_kernels_keep(method, rows):
    """Four fifths of the peak are oneDNN's workspace, of which PyTorch's shape rule says nothing."""
    torch.manual_seed(0)
    stages = kit.split(
        kit.backbone("lstm", 200, 6, width=0.1, image_size=40), 3, torch.ones(2, 40).long(), at=["layer1", "layer2"]
    )
    net = kit.decouple(stages, method, 6, torch.ones(2, 40).long())
    x, y = torch.randint(1, 200, (rows, 40)), torch.arange(rows) % 6
    plan = memory.plan(net, x.shape, torch.int64)
    net.step(x, y)
    measured = held(net) + x.nbytes + y.nbytes + peak_bytes(lambda: net.step(x, y), warm_up=1)
    assert plan.peak == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "nadam", "lars", "muon"])
def test_every_optimizer_can_be_planned(optimizer, precision):
    net = kit.decouple([nn.Linear(64, 64), nn.Linear(64, 10)], "greedy", 10, torch.zeros(2, 64), optimizer=optimizer,
                       precision=precision)  # fmt: skip
    plan = memory.plan(net, (8, 64))
    net.step(torch.rand(8, 64), torch.arange(8))
    assert plan.staying == held(net)


def test_plan_by_block_of_known_layers():
    """Two Linear layers without bias, plain SGD with momentum: every byte by hand."""
    stages = [nn.Linear(64, 256, bias=False), nn.Linear(256, 10)]
    net = kit.decouple(stages, "greedy", 10, torch.zeros(2, 64), optimizer="sgd", lr=0.1)
    plan = memory.plan(net, (512, 64))
    own = [parameters(block) * 4 for block in net]
    assert own == [(64 * 256 + 256 * 10 + 10) * 4, (256 * 10 + 10) * 4]
    for block, size in zip(plan.blocks, own, strict=True):
        assert block["parameters"] == block["optimizer"] == size
        assert block["buffers"] == 0
        assert 0 <= block["gradients"] <= size
        assert block["peak"] == plan.staying + block["gradients"] + block["activations"]
    assert plan.staying == 2 * sum(own)
    assert plan.peak == max(block["peak"] for block in plan.blocks)
    x, y, h, logits = 512 * 64 * 4, 512 * 8, 512 * 256 * 4, 512 * 10 * 4
    at_least, at_most = x + y + 2 * h, x + y + 2 * h + 4 * logits  # h and its gradient
    assert at_least <= plan.blocks[0]["activations"] <= at_most
    assert list(plan.table.index) == [1, 2]


def test_planning_changes_nothing():
    net = resnet()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    memory.plan(net, SHAPE)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(not block.optimizer.state and block.num_steps == 0 for block in net)
    assert all(not p._post_accumulate_grad_hooks for p in net.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_planning_allocates_nothing_of_the_batchs_size():
    net = resnet(num_blocks=2)
    planned = []
    allocated = peak_bytes(lambda: planned.append(memory.plan(net, (2 * 10**6, *SHAPE[1:])).peak))
    assert planned[0] > 2**40  # more than a tebibyte
    assert allocated < 2**24


def test_a_net_on_paper_may_be_larger_than_memory():
    with memory.on_paper():
        model, x = kit.backbone("mlp", 1, image_size=8, depth=3, hidden=10**6), torch.zeros(2, 1, 8, 8)
        net = kit.decouple(kit.split(model, 2, x, "layers"), "greedy", 10, x, optimizer="sgd")
    plan = memory.plan(net, (128, 1, 8, 8))
    assert plan.staying == 2 * 4 * parameters(net) > 2**40
    largest = plan.blocks[1]
    assert largest["gradients"] == pytest.approx(4 * 10**12, rel=0.01)
    assert plan.peak == pytest.approx(plan.staying + 4 * 10**12, rel=0.01)  # one large layer's gradient at a time


def test_flops_are_those_of_pytorchs_counter():
    net = resnet("infopro")
    plan = memory.plan(net, SHAPE)
    with FlopCounterMode(display=False) as counter:
        net.step(*batch())
    assert plan.flops == counter.get_total_flops()


def test_cuts_balanced_by_memory_take_less_than_those_by_parameters():
    peaks = {b: memory.plan(resnet(num_blocks=4, balance=b), (64, *SHAPE[1:])).peak for b in ("memory", "params")}
    whole = memory.plan(resnet("bp", 1), (64, *SHAPE[1:])).peak
    assert peaks["memory"] < 0.6 * peaks["params"]
    assert peaks["memory"] < 0.5 * whole


def test_a_batch_the_net_does_not_take():
    with pytest.raises(ValueError, match=r"batch_shape=\(8, 4, 32, 32\) and torch.float32, but the net does not train"):
        memory.plan(resnet(), (8, 4, 32, 32))
