"""New features: blocks that see a view the earlier ones do not know."""

import pytest
import torch
from torch import nn

import kit
from kit.context import ExtraView, view_encoder
from kit.methods import REGISTRY
from kit.shapes import Shape
from kit.train import build, load_data
from tests.test_methods import SMALL, batch, same, snapshot, stages

DECOUPLED = [name for name, method in REGISTRY.items() if not method.one_loss]


def test_every_part_of_an_encoder_can_be_moved():
    encoder = view_encoder(Shape((16, 16, 3), axis=2), Shape((4, 4, 8), axis=2))
    assert all(part.to("cpu") is part for part in encoder.modules()), "no part hides nn.Module.to"


def halves():
    x, y = batch()
    return {"x": x, "more": torch.randn(8, 1, 16, 12)}, y


@pytest.mark.parametrize("method", DECOUPLED)
def test_a_block_with_new_features_leaves_the_earlier_ones_alone(method):
    views, y = halves()
    net = kit.decouple(stages(), method, 4, views, context="R1", start=2, **SMALL.get(method, {}))
    assert net.views == frozenset()
    net.step(views, y)
    before = net.predict(views)
    net.grow("more")
    assert net.views == {"more"} and all(map(torch.equal, before, net.predict(views)[:2]))
    net.freeze(2)
    old = snapshot(net.blocks[:2])
    net.train()
    net.step(views, y)
    net.step(views, y)
    assert same(old, snapshot(net.blocks[:2]))
    other = net.predict(views | {"more": torch.randn(8, 1, 16, 12)})
    now = net.predict(views)
    assert torch.equal(now[1], other[1]) and not torch.equal(now[2], other[2]), "only the new block sees the view"


def test_a_view_travels_no_further_than_it_is_asked_for():
    views, y = halves()
    net = kit.decouple(stages(), "greedy", 4, views, start=1)
    net.grow()
    net.grow("more")
    net.grow()
    signal, seen = net.signal(views, y), []
    for block in net:
        seen.append(set(signal.views))
        signal = block.step(signal)
    assert seen == [{"more"}, {"more"}, {"more"}, set()]


def test_adaptive_inference_drops_rows_of_views_too():
    views, y = halves()
    net = kit.decouple(stages(), "greedy", 4, views, start=1)
    net.grow("more")
    every = torch.stack(net.predict(views))
    middle = every[0].softmax(1).amax(1).median().item()
    logits, left, _ = net.adaptive(views, "confidence", threshold=middle)
    assert 0 < left.sum() < 8
    torch.testing.assert_close(logits, every[left, torch.arange(8)])


@pytest.mark.parametrize(
    ("target", "view"),
    [((6, 4, 4), (1, 28, 14)), ((6, 8, 8), (3, 8, 8)), ((6, 8, 8), (3, 3, 3)), ((4, 4, 6), (1, 9, 9)), ((5,), (7,)),
     ((5,), (1, 8, 8)), ((4, 6), (9,))],
)  # fmt: skip
def test_every_view_is_brought_to_the_blocks_input(target, view):
    side = ExtraView("more", target, view)
    signal = kit.Signal(torch.randn(4, *target), torch.arange(4), views={"more": torch.randn(4, *view)})
    assert side(signal).shape == (4, *target)


def test_more_columns_of_a_table():
    """What the first columns cannot tell, a block that gets the others does."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(512, 12, generator=generator)
    y = (table[:, 0] > 0).long() + 2 * (table[:, 8] > 0).long()
    views = {"x": table[:, :6], "more": table[:, 6:]}
    net = kit.decouple([nn.Sequential(nn.Linear(6, 16), nn.ReLU())], "greedy", 4, views, lr=0.01)
    for _ in range(60):
        net.step(views, y)
    first = (net.predict(views)[-1].argmax(1) == y).float().mean()
    net.freeze()
    net.append(net.new_block(nn.Sequential(nn.Linear(16, 16), nn.ReLU()), side="more"))
    net.train()
    for _ in range(120):
        net.step(views, y)
    assert first < 0.65 and (net.predict(views)[-1].argmax(1) == y).float().mean() > 0.85


def test_an_encoder_of_ones_own():
    views, y = halves()
    net = kit.decouple(stages(), "greedy", 4, views, start=1)
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Conv2d(1, 6, 1))
    net.append(net.new_block(nn.Conv2d(6, 6, 3, padding=1), side={"more": encoder}))
    before = snapshot(encoder)
    net.step(views, y)
    assert not same(before, snapshot(encoder))


def test_refusals():
    views, y = halves()
    net = kit.decouple(stages(), "greedy", 4, views, start=1)
    with pytest.raises(ValueError, match="unknown view 'mor': did you mean 'more'"):
        net.grow("mor")
    net.grow("more")
    with pytest.raises(ValueError, match="unknown view 'more': .*Choose one of x"):
        net.step(views["x"], y)
    with pytest.raises(ValueError, match="cannot be joined with maps"):
        ExtraView("more", (6, 4, 4), (7,))


def test_a_missing_view_is_an_error_at_the_start(tmp_path):
    settings = dict(limit=200, backbone="resnet20", width=0.125, method="greedy", num_blocks=3, epochs=2)
    seen = kit.RunConfig(**settings, views=["top", "bottom"], grow={"at": [1], "side": "bottom"}, output=str(tmp_path))
    whole = load_data(kit.RunConfig(**settings, views=["top"], output=None))
    with pytest.raises(ValueError, match="asks for the view 'bottom', but digits carries nothing beside the input"):
        kit.fit(build(seen, load_data(seen)), whole, seen)
    assert not list(tmp_path.iterdir())
