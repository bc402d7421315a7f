"""Augmentation by what it may and may not produce, input scaling by numbers, batches by their classes."""

import pytest
import torch

import kit
from kit.data import Data, Split
from kit.data.augment import recipe
from kit.data.splits import SCALINGS
from kit.data.stratified import few_classes

torch.set_num_threads(1)


def ramp(count=64, side=32):
    """Images that grow from left to right: mirrored ones fall."""
    return torch.arange(side).div(2 * side).add(0.25).expand(count, 3, side, side).clone()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def falls(x):
    inner = x[:, 0, 16, 5:-5]
    return (inner[:, -1] < inner[:, 0]).tolist()


def test_svhn_is_never_mirrored_and_moves_two_pixels():
    """InfoPro's recipe for SVHN: crop with a pad of 2 black pixels, no flip. It is the dataset's own here."""
    from kit.data.readers import DATASETS

    assert DATASETS["svhn"][1] == "shift"
    x = torch.cat([recipe("shift")(ramp(), generator(seed)) for seed in range(8)])
    assert not any(falls(x))
    black = (x == 0)[:, 0]
    assert black.all(dim=1).sum(dim=1).max() == black.all(dim=2).sum(dim=1).max() == 2


@pytest.mark.parametrize(("name", "pads_black"), [("crop-flip", True), ("reflect", False)])
def test_cifar_and_stl_are_mirrored(name, pads_black):
    """InfoPro: CIFAR-10 reflects at the edge, STL-10 pads with black; both 4 pixels, and mirror every second image."""
    x = torch.cat([recipe(name)(ramp(), generator(seed)) for seed in range(8)])
    assert 0.4 < sum(falls(x)) / len(x) < 0.6
    assert bool((x == 0).any()) == pads_black
    if pads_black:
        assert (x == 0)[:, 0].all(dim=1).sum(dim=1).max() == 4


def test_two_crops_double_the_batch():
    split = Split((ramp(10) * 255).byte(), torch.arange(10) % 5)
    data = Data("own", split, split, split, (3, 32, 32), tuple("abcde"), torch.zeros(3), torch.ones(3))
    ((x, y),) = data.batches("train", 10, epoch=0, augment="two-crops")
    assert x.shape == (20, 3, 32, 32) and torch.equal(y[:10], y[10:])
    assert not torch.equal(x[:10], x[10:])
    ((x, y),) = data.batches("test", 10)
    assert len(x) == len(y) == 10
    config = kit.RunConfig(
        dataset="digits", backbone="mlp", method="scpl", num_blocks=2, epochs=1, limit=60, options={"widths": (8, 8)},
        augment="none", output=None,
    )  # fmt: skip
    seen = []
    loaded = kit.load_data(config)
    net = kit.train.build(config, loaded)
    net[0].register_step_pre_hook(lambda block, signal: seen.append(len(signal.y)))
    kit.fit(net, loaded, config)
    assert seen == [54]


def test_cutout():
    """A square of 16 pixels, cut off at the edge, around a pixel that may lie anywhere."""
    from kit.data.augment import random_cutout

    x = random_cutout(torch.ones(400, 3, 32, 32), generator=generator())
    hole = (x == 0).all(dim=1)
    assert torch.equal((x == 0).any(dim=1), hole)
    rows, columns = hole.any(2).sum(1), hole.any(1).sum(1)
    assert torch.equal(hole.sum((1, 2)), rows * columns)
    assert rows.max() == columns.max() == 16 and rows.min() == 8
    assert hole[:, 0, 0].any() and hole[:, -1, -1].any()


@pytest.mark.parametrize("name", [name for name in SCALINGS if name != "measured"])
def test_scaling_is_that_of_the_code(name, monkeypatch):
    from kit.data import loading

    images = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8)
    labels = torch.arange(20) % 2
    read = lambda root, download: ((images, labels), (images, labels), ("a", "b"))  # noqa: E731
    monkeypatch.setattr(loading, "DATASETS", {"cifar10": (read, "none")})
    data = kit.load_data("cifar10", scaling=name)
    assert data.mean.tolist() == pytest.approx(SCALINGS[name][0])
    assert data.std.tolist() == pytest.approx(SCALINGS[name][1])
    x, _ = next(data.batches("test", 20))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in SCALINGS[name])
    torch.testing.assert_close(x, (images.float() / 255 - mean) / std)
    torch.testing.assert_close(data.denormalize(x), images.float() / 255)


def test_scaling_of_grey_images_is_refused():
    with pytest.raises(ValueError, match=r"scaling='half' is of RGB, but there are 1 channel\(s\): use 'measured'"):
        kit.load_data("digits", scaling="half")
    with pytest.raises(ValueError, match="unknown input scaling 'cifar'"):
        kit.RunConfig(scaling="cifar")


def test_few_classes_in_a_batch():
    labels = torch.arange(1000) % 10
    order = torch.randperm(1000, generator=generator())
    rows = few_classes(order, labels, 50, 3)
    assert sorted(rows.tolist()) == list(range(1000))
    counts = [len(set(labels[batch].tolist())) for batch in rows.split(50)]
    assert sum(count <= 3 for count in counts) >= 12
    data = kit.load_data("digits")
    seen = [set(y.tolist()) for _, y in data.batches("train", 64, epoch=0, classes_per_batch=2)]
    assert sum(len(classes) <= 2 for classes in seen) > len(seen) / 2
    plain = [y for _, y in data.batches("train", 64, epoch=0)]
    assert sum(map(len, plain)) == len(data.train)
