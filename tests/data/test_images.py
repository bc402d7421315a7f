import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from kit.data import Data, Split, load_data
from kit.data.fashion_mnist import DEBIAN, FILES
from kit.data.stratified import stratified


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits")


def toy(n=22, *, shape=(3, 12, 12), augmentation="crop-flip") -> Data:
    """Return a set whose image i has label i, so that the order of a batch can be read off y."""
    pixels = torch.randint(256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(pixels, torch.arange(n))
    values = torch.full((shape[0],), 0.5), torch.full((shape[0],), 0.25)
    return Data("toy", split, split, split, shape, tuple(map(str, range(n))), *values, augmentation)


def same(first, second) -> bool:
    first, second = list(first), list(second)
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


def test_digits(digits):
    assert (len(digits.train), len(digits.val), len(digits.test)) == (1294, 144, 359)
    assert digits.shape == (1, 8, 8) and digits.num_classes == 10 and digits.augmentation == "none"
    assert digits.train.images.dtype == torch.uint8 and digits.train.images.max() == 255
    assert digits.train.noisy is None and torch.equal(digits.train.clean_labels, digits.train.labels)
    pixels = digits.train.images.double() / 255
    torch.testing.assert_close(digits.mean.double(), pixels.mean((0, 2, 3)), atol=1e-6, rtol=0)
    torch.testing.assert_close(digits.std.double(), pixels.std((0, 2, 3), correction=0), atol=1e-6, rtol=0)
    assert repr(digits).startswith("Data(digits: 1294 train, 144 val, 359 test; 1x8x8, 10 classes")


def test_the_three_splits_hold_every_image_once(digits):
    from sklearn.datasets import load_digits

    grey = torch.from_numpy(load_digits().images).mul(255 / 16).round().to(torch.uint8).flatten(1)
    ours = torch.cat([split.images for split in (digits.train, digits.val, digits.test)]).flatten(1)
    assert sorted(grey.tolist()) == sorted(ours.tolist())


def test_the_seed_moves_validation_but_never_the_test_set(digits):
    again, other = load_data("digits"), load_data("digits", seed=1, limit=200, noise="symmetric", noise_rate=0.5)
    assert torch.equal(again.val.images, digits.val.images) and torch.equal(again.train.labels, digits.train.labels)
    assert torch.equal(other.test.images, digits.test.images) and torch.equal(other.test.labels, digits.test.labels)
    assert not torch.equal(load_data("digits", seed=1).val.images, digits.val.images)


@pytest.mark.parametrize("fraction", [0.1, 0.37, 0.9])
def test_the_validation_split_is_stratified(fraction):
    data = load_data("digits", val_fraction=fraction)
    share = (data.train.labels.bincount() + data.val.labels.bincount()) * fraction
    assert len(data.val) == round(1438 * fraction)
    assert (data.val.labels.bincount() - share).abs().max() <= 1


@pytest.mark.parametrize("limit", [20, 107, 1000])
def test_limit_takes_a_balanced_subset_of_the_training_images(limit):
    data = load_data("digits", limit=limit, val_fraction=0.2)
    counts = data.train.labels.bincount(minlength=10) + data.val.labels.bincount(minlength=10)
    assert counts.sum() == limit and counts.max() - counts.min() <= 1
    assert not torch.equal(data.train.images, load_data("digits", limit=limit, val_fraction=0.2, seed=1).train.images)


def test_a_balanced_draw_takes_from_large_classes_what_small_ones_lack():
    labels = torch.tensor([0] * 3 + [1] * 50 + [3] * 50)  # class 2 has none
    chosen, rest = stratified(labels, 43, torch.Generator().manual_seed(0), proportional=False)
    assert labels[chosen].bincount().tolist() == [3, 20, 0, 20]
    assert torch.equal(torch.cat([chosen, rest]).sort().values, torch.arange(103))


def test_noise_touches_training_labels_only(digits):
    data = load_data("digits", noise="asymmetric", noise_rate=0.4)
    assert torch.equal(data.train.clean_labels, digits.train.labels)
    assert torch.equal(data.train.noisy, data.train.labels != data.train.clean_labels) and data.train.noisy.any()
    assert torch.equal(data.val.labels, digits.val.labels) and data.val.noisy is None


@pytest.mark.parametrize("kind", ["symmetric", "instance"])
def test_validation_labels_are_clean_or_noisy_as_asked(digits, kind):
    clean = load_data("digits", noise=kind, noise_rate=0.4)
    noisy = load_data("digits", noise=kind, noise_rate=0.4, noisy_val=True)
    assert torch.equal(noisy.train.labels, clean.train.labels), "the training noise does not depend on noisy_val"
    assert torch.equal(noisy.val.clean_labels, digits.val.labels)
    assert torch.equal(noisy.val.noisy, noisy.val.labels != digits.val.labels) and noisy.val.noisy.any()
    assert torch.equal(noisy.test.labels, digits.test.labels) and noisy.test.noisy is None
    shares = noisy.realised_noise()
    assert shares == {"train": noisy.train.noisy.double().mean(), "val": noisy.val.noisy.double().mean()}
    assert clean.realised_noise() == {"train": shares["train"]} and digits.realised_noise() == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "fashion-mnits"}, "unknown dataset 'fashion-mnits': did you mean 'fashion-mnist'"),
        ({"limit": 1439}, "limit=1439, but digits has only 1438 training images"),
        ({"limit": 19}, "limit=19 is too small for digits: its 10 classes need at least 20"),
        ({"val_fraction": 0}, "val_fraction=0, but it has to be a fraction between 0 and 1"),
        ({"val_fraction": 1.0}, "val_fraction=1.0, but it has to be a fraction between 0 and 1"),
        ({"val_fraction": 0.0001}, "val_fraction=0.0001 leaves no validation image of 1438; raise it"),
        ({"val_fraction": 0.9999}, "val_fraction=0.9999 leaves no training image of 1438; lower it"),
        ({"image_size": 0}, "image_size=0, but it has to be a whole number of at least 1, or None"),
        ({"noise": "symmetric", "noise_rate": 20}, "noise_rate=20, .* did you mean 0.2"),
        ({"noise_rate": 0.2}, "noise_rate=0.2 with noise='none' would change nothing"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        load_data(**{"name": "digits", **options})


def test_image_size_resizes_with_antialiasing(digits):
    data = load_data("digits", image_size=5)
    expected = F.interpolate(digits.test.images.float(), (5, 5), mode="bilinear", antialias=True).round()
    assert data.shape == (1, 5, 5) and torch.equal(data.test.images.float(), expected)


def test_evaluation_gives_every_sample_in_order_normalised():
    data = toy()
    x, y = (torch.cat(parts) for parts in zip(*data.batches("val", 7), strict=True))
    assert torch.equal(y, torch.arange(22)) and y.dtype == torch.int64 and x.dtype == torch.float32
    torch.testing.assert_close(x, (data.val.images / 255 - 0.5) / 0.25)
    torch.testing.assert_close(data.denormalize(x), data.val.images / 255, atol=1e-6, rtol=0)
    assert same(data.batches("val", 7), data.batches(Split(data.val.images, data.val.labels), 7))


@pytest.mark.parametrize("augment", ["none", "crop-flip", "paper"])
@pytest.mark.parametrize("start", [0, 2, 5, 6])
def test_starting_in_the_middle_gives_the_same_batches_bit_for_bit(augment, start):
    data = toy()
    whole = list(data.batches("train", 4, epoch=3, seed=7, augment=augment))
    assert len(whole) == 6
    assert same(data.batches("train", 4, epoch=3, seed=7, augment=augment, start=start), whole[start:])


def test_every_epoch_and_seed_has_its_own_order_and_augmentation():
    data = toy()

    def epoch(**options):
        return list(data.batches("train", 4, **{"epoch": 0, **options}))

    assert same(epoch(), epoch()) and same(epoch(), epoch(augment="crop-flip"))
    assert not same(epoch(), epoch(epoch=1)) and not same(epoch(), epoch(seed=1))
    assert not same(epoch(), epoch(augment="none"))
    assert torch.cat([y for _, y in epoch()]).sort().values.equal(torch.arange(22))


def test_the_global_generator_is_not_touched():
    before = torch.get_rng_state()
    load_data("digits", limit=40, noise="symmetric", noise_rate=0.5)
    list(toy().batches("train", 4, epoch=0, augment="paper"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("batch_size", "training", "evaluation"),
    [(7, [7, 7, 7], [7, 7, 7, 1]), (4, [4] * 5 + [2], [4] * 5 + [2]), (1, [1] * 22, [1] * 22), (30, [22], [22])],
)
def test_only_a_single_last_training_sample_is_dropped(batch_size, training, evaluation):
    data = toy()
    assert [len(y) for _, y in data.batches("train", batch_size, epoch=0)] == training
    assert [len(y) for _, y in data.batches("train", batch_size)] == evaluation
    assert data.num_batches("train", batch_size) == len(training)
    assert data.num_batches("train", batch_size, training=False) == len(evaluation)
    fresh = Split(data.val.images, data.val.labels)
    assert data.num_batches(fresh, batch_size) == len(evaluation)
    assert data.num_batches(fresh, batch_size, training=True) == len(training)


def test_layout_and_device():
    data = toy()
    x, _ = next(data.batches("train", 4, epoch=0, channels_last=True))
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert same(data.to("cpu").batches("train", 4, epoch=0), data.batches("train", 4, epoch=0))
    assert data.to(torch.device("meta")).train.images.device.type == "meta"


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("tset", {}, "unknown split 'tset': did you mean 'test'"),
        ("train", {"epoch": 0, "augment": "crop-flop"}, "unknown augmentation 'crop-flop'"),
        ("train", {"augment": "paper"}, "augment='paper' without an epoch would change nothing"),
        ("train", {"epoch": -1}, "epoch=-1, but epochs count from 0"),
        ("train", {"epoch": 0, "start": 7}, "start=7, but this epoch has 6 batches; choose 0 to 6"),
        ("train", {"batch_size": 0}, "batch_size=0, but a batch holds at least 1 sample"),
    ],
)
def test_batches_refuse_at_the_call_not_at_the_first_batch(split, options, message):
    with pytest.raises(ValueError, match=message):
        toy().batches(split, **{"batch_size": 4, **options})


def test_a_split_needs_as_many_labels_as_images():
    with pytest.raises(ValueError, match=r"images, labels, clean_labels are \[3, 2, 2\]"):
        Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))


def test_importing_stays_light():
    code = "import kit.data, sys; print([m for m in ('torchvision', 'sklearn', 'pandas', 'PIL') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.skipif(
    not all((DEBIAN / f"{name}.gz").is_file() for name in FILES),
    reason="Debian's dataset-fashion-mnist is not installed",
)
def test_the_real_fashion_mnist(tmp_path):
    data = load_data("fashion-mnist", tmp_path)
    assert (len(data.train), len(data.val), len(data.test), data.shape) == (54_000, 6_000, 10_000, (1, 28, 28))
    assert data.val.labels.bincount().tolist() == [600] * 10 and data.test.labels.bincount().tolist() == [1000] * 10
    assert data.mean.item() == pytest.approx(0.2860, abs=5e-4) and data.std.item() == pytest.approx(0.3530, abs=5e-4)
    assert data.classes[data.test.labels[0]] == "Ankle boot"
