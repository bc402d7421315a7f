import math

import pytest
import torch

from kit.data import NOISE, corrupt
from kit.data.noise import difficulty, flip_probability

N, C = 20_000, 10
LABELS = torch.arange(N) % C
IMAGES = torch.randint(256, (N, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rate", [0.2, 0.6])
@pytest.mark.parametrize(
    ("kind", "share"),
    [("symmetric", 1 - 1 / C), ("symmetric-exclusive", 1.0), ("asymmetric", 1.0), ("instance", 1.0)],
)
def test_the_share_really_changed_is_the_formula_within_three_standard_errors(kind, share, rate):
    noisy, mask = corrupt(LABELS, C, kind, rate, seed=3, images=IMAGES)
    expected = rate * share
    assert torch.equal(mask, noisy != LABELS)
    assert abs(mask.double().mean().item() - expected) < 3 * math.sqrt(expected * (1 - expected) / N)
    assert noisy.dtype == torch.int64 and noisy.min() >= 0 and noisy.max() < C


def test_symmetric_at_rate_one_is_uniform_and_exclusive_never_keeps_a_label():
    noisy, _ = corrupt(LABELS, C, "symmetric", 1.0, seed=0)
    table = torch.zeros(C, C).index_put((LABELS, noisy), torch.ones(N), accumulate=True) * C / N
    assert (table - 1 / C).abs().max() < 4 * math.sqrt(0.1 * 0.9 / (N / C))
    _, mask = corrupt(LABELS, C, "symmetric-exclusive", 1.0, seed=0)
    assert mask.all()


def test_asymmetric_moves_every_touched_label_to_the_next_class():
    noisy, mask = corrupt(LABELS, C, "asymmetric", 0.3, seed=1)
    assert torch.equal(noisy[mask], (LABELS[mask] + 1) % C)
    assert torch.equal(noisy[~mask], LABELS[~mask])


def test_the_seed_fixes_the_noise_and_higher_rates_contain_lower_ones():
    before = LABELS.clone()
    first, low = corrupt(LABELS, C, "symmetric", 0.2, seed=5)
    again, _ = corrupt(LABELS, C, "symmetric", 0.2, seed=5)
    other, _ = corrupt(LABELS, C, "symmetric", 0.2, seed=6)
    _, high = corrupt(LABELS, C, "symmetric", 0.4, seed=5)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert (high | ~low).all()
    assert torch.equal(LABELS, before)


def test_hard_images_flip_more_and_to_the_class_they_resemble():
    """Two classes, dark and light, and one image in four that lies with the other class: those flip first."""
    images = torch.tensor([10, 12, 14, 190, 200, 202, 204, 20] * 500, dtype=torch.uint8).view(-1, 1, 1, 1)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1] * 500)
    hardness, other = difficulty(images, labels, 3)
    strange = torch.tensor([False, False, False, True, False, False, False, True] * 500)
    assert hardness[strange].min() > hardness[~strange].max()
    assert torch.equal(other, 1 - labels), "class 2 has no images, so nothing resembles it"
    for rate in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert flip_probability(hardness, rate).mean() == pytest.approx(rate, abs=1e-3)
    noisy, mask = corrupt(labels, 3, "instance", 0.25, seed=0, images=images)
    assert mask[strange].double().mean() > 0.4 > 0.25 > mask[~strange].double().mean()
    assert torch.equal(noisy[mask], 1 - labels[mask])
    _, more = corrupt(labels, 3, "instance", 0.6, seed=0, images=images)
    assert (more | ~mask).all()


def test_an_image_is_not_compared_with_itself():
    """Class 0 has 0 and 100: without itself the other is its class's mean, and class 1's 40 is nearer to both."""
    images = torch.tensor([0, 100, 40, 40], dtype=torch.uint8).view(-1, 1, 1, 1)
    hardness, _ = difficulty(images, torch.tensor([0, 0, 1, 1]), 2)
    assert hardness[:2].min() > hardness[2:].max()
    with_itself = (images.flatten() - 50.0).square() - (images.flatten() - 40.0).square()
    assert with_itself[0] > 0 > with_itself[1], "compared with itself, image 100 would lie with its own class"


@pytest.mark.parametrize("kind", NOISE)
def test_rate_zero_changes_nothing(kind):
    noisy, mask = corrupt(LABELS, C, kind, 0.0, seed=0, images=IMAGES)
    assert torch.equal(noisy, LABELS) and not mask.any()


@pytest.mark.parametrize(
    ("kind", "rate", "classes", "message"),
    [
        ("symmetric", 20, C, r"noise_rate=20, but a rate is a fraction in \[0, 1\]; did you mean 0\.2\?"),
        ("symmetric", -0.1, C, r"noise_rate=-0\.1, but a rate is a fraction in \[0, 1\]$"),
        ("symmetric", float("nan"), C, "noise_rate=nan"),
        ("symetric", 0.2, C, "unknown noise 'symetric': did you mean 'symmetric'"),
        ("none", 0.2, C, "noise_rate=0.2 with noise='none' would change nothing: choose noise among symmetric"),
        ("asymmetric", 0.2, 5, "labels: 5 at position 5, but 5 classes are numbered 0 to 4"),
    ],
)
def test_refusals(kind, rate, classes, message):
    with pytest.raises(ValueError, match=message):
        corrupt(LABELS, classes, kind, rate, seed=0)


def test_instance_noise_needs_images_of_two_classes():
    with pytest.raises(ValueError, match="compares images in memory, and these stay in files: choose another kind"):
        corrupt(LABELS, C, "instance", 0.2, seed=0)
    with pytest.raises(ValueError, match="needs images of at least 2 classes"):
        corrupt(LABELS[:1], C, "instance", 0.2, seed=0, images=IMAGES[:1])


def test_one_class_has_nothing_to_be_confused_with():
    with pytest.raises(ValueError, match="needs at least 2 classes to confuse, but num_classes=1"):
        corrupt(torch.zeros(4, dtype=torch.int64), 1, "symmetric", 0.2, seed=0)
