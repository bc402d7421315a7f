import itertools

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import functional as tv

from kit.data.augment import AUGMENTATIONS, color_jitter, jitter, random_crop, random_flip, random_grey, recipe

TORCHVISION = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def images(b=24, c=3, h=9, w=7, seed=0):
    return torch.rand(b, c, h, w, generator=rng(seed))


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crop_cuts_one_window_of_the_padded_image_per_image(mode):
    x = images(64)
    out = random_crop(x, 2, mode, generator=rng())
    padded = F.pad(x, (2,) * 4, mode=mode)
    found = []
    for i in range(len(x)):
        places = itertools.product(range(5), range(5))
        found.append([p for p in places if torch.equal(out[i], padded[i, :, p[0] : p[0] + 9, p[1] : p[1] + 7])])
    assert all(len(places) == 1 for places in found)
    assert len({places[0] for places in found}) > 15  # of 25 places, 64 images use most


def test_crop_without_padding_is_the_image_itself():
    assert torch.equal(random_crop(images(), 0, generator=rng()), images())


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others():
    x = images(1000)
    out = random_flip(x, generator=rng())
    kept, mirrored = (out == x).flatten(1).all(1), (out == x.flip(3)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert abs(mirrored.float().mean() - 0.5) < 3 * (0.25 / 1000) ** 0.5


def test_grey_is_torchvisions_grey_for_a_share_p_of_the_images():
    x = images(1000)
    out = random_grey(x, 0.2, generator=rng())
    changed = (out != x).flatten(1).any(1)
    torch.testing.assert_close(out[changed], tv.rgb_to_grayscale(x[changed], 3))
    assert abs(changed.float().mean() - 0.2) < 3 * (0.16 / 1000) ** 0.5


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::3])
def test_jitter_equals_torchvision_image_by_image_in_every_order(order):
    x = images()
    x[0], x[1, 0], x[2] = 0.5, 1.0, x[2].round()  # a grey image, ties between channels, pure colours
    factors = torch.rand(len(x), 4, generator=rng(1)) + 0.5
    factors[:, 3] -= 1
    expected = []
    for image, row in zip(x, factors.tolist(), strict=True):
        for number in order:
            image = TORCHVISION[number](image, row[number])
        expected.append(image)
    out = jitter(x, factors, torch.tensor([order]).expand(len(x), 4))
    torch.testing.assert_close(out, torch.stack(expected), atol=2e-5, rtol=0)


def test_jitter_of_one_channel_applies_brightness_and_contrast_only():
    x, factors = images(c=1), torch.rand(24, 4, generator=rng(1)) + 0.5
    out = jitter(x, factors, torch.tensor([[2, 0, 3, 1]]).expand(24, 4))
    rows = zip(x, factors.tolist(), strict=True)
    expected = [tv.adjust_contrast(tv.adjust_brightness(image, row[0]), row[1]) for image, row in rows]
    torch.testing.assert_close(out, torch.stack(expected))
    assert torch.equal(random_grey(x, 1.0, generator=rng()), x)


def test_color_jitter_draws_factors_orders_and_whether_per_image():
    x = images(1).expand(1000, -1, -1, -1)
    out = color_jitter(x, (0.4, 0.4, 0.4, 0.1), p=0.8, generator=rng())
    changed = (out != x).flatten(1).any(1)
    assert abs(changed.float().mean() - 0.8) < 3 * (0.16 / 1000) ** 0.5
    assert len(out[changed].flatten(1).unique(dim=0)) == changed.sum()
    assert out.min() >= 0 and out.max() <= 1
    grey = torch.full((1000, 3, 2, 2), 0.5)
    means = color_jitter(grey, (0.4, 0, 0, 0), p=1, generator=rng()).mean((1, 2, 3))
    assert 0.3 <= means.min() < 0.31 and 0.69 < means.max() <= 0.7001


def test_color_jitter_refuses_impossible_strengths():
    for strengths in ((0.4, 0.4, 0.4, 0.6), (0.4, -0.1, 0.4, 0.1)):
        with pytest.raises(ValueError, match="at least 0, and hue at most 0.5"):
            color_jitter(images(), strengths, generator=rng())


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(16, 3, 32, 32), (16, 1, 28, 28), (16, 1, 8, 8)])
def test_a_recipe_is_fixed_by_its_generator_keeps_the_range_and_its_input(name, shape):
    x = torch.rand(shape, generator=rng())
    before, apply = x.clone(), recipe(name)
    out = apply(x, rng(1))
    assert torch.equal(out, apply(x, rng(1))) and torch.equal(x, before)
    copies = 2 if name == "two-crops" else 1
    assert (
        out.shape == (copies * shape[0], *shape[1:])
        and out.dtype == torch.float32
        and out.min() >= 0
        and out.max() <= 1
    )
    if name != "crop-flip-cutout" or shape[-1] > 16:  # its square of 16×16 may cover all of an image of 8×8
        assert torch.equal(out, apply(x, rng(2))) == (name == "none")


def test_the_recipes_are_what_they_say():
    x = images(8, 3, 32, 32)

    def crop_flip(mode, pad, flip=True):
        g = rng(4)
        out = random_crop(x, pad, mode, generator=g)
        return (random_flip(out, generator=g) if flip else out), g

    for name, parts in {
        "shift": ("constant", 2, False),
        "shift-flip": ("constant", 2),
        "crop-flip": ("constant", 4),
        "reflect": ("reflect", 4),
    }.items():
        assert torch.equal(recipe(name)(x, rng(4)), crop_flip(*parts)[0])
    out, g = crop_flip("constant", 4)
    out = random_grey(color_jitter(out, (0.4, 0.4, 0.4, 0.1), p=0.8, generator=g), 0.2, generator=g)
    assert torch.equal(recipe("paper")(x, rng(4)), out)


def test_refusals():
    with pytest.raises(ValueError, match="unknown augmentation 'crop-flop': did you mean 'crop-flip'"):
        recipe("crop-flop")
    with pytest.raises(ValueError, match="unknown padding mode 'reflekt'"):
        random_crop(images(), 2, "reflekt", generator=rng())
    with pytest.raises(ValueError, match="pad=7 reflects more than a 9x7 image holds; choose pad below 7"):
        random_crop(images(), 7, "reflect", generator=rng())
