"""Views: made from the batch as it is augmented, so that all show the same sample."""

import pickle

import pytest
import torch

import kit
from kit.data import VIEWS
from kit.data.views import edges, half, smaller


@pytest.fixture(scope="module")
def data():
    return kit.load_data("digits", limit=200)


def test_halves_are_the_whole(data):
    seen = data.with_views("top", "bottom", "left", "right")
    assert seen.shape == (1, 4, 8) and seen.view_shapes["left"] == (1, 8, 4)
    whole = next(data.batches("train", 32, epoch=3, augment="shift"))
    views, y = next(seen.batches("train", 32, epoch=3, augment="shift"))
    assert torch.equal(y, whole[1])
    assert torch.equal(torch.cat([views["x"], views["bottom"]], 2), whole[0])
    assert torch.equal(torch.cat([views["left"], views["right"]], 3), whole[0])


def test_an_input_of_its_own_without_further_views_is_a_tensor(data):
    x, _ = next(data.with_views("right").batches("test", 16))
    assert torch.equal(x, half(next(data.batches("test", 16))[0], "right")) and x.shape[1:] == (1, 8, 4)
    plain = data.with_views()
    assert plain.shape == data.shape and torch.is_tensor(next(plain.batches("test", 16))[0])


def test_views_by_hand():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert half(x, "top").flatten().tolist() == [0, 1, 2] and half(x, "bottom").shape == (1, 1, 2, 3)
    assert smaller(x).flatten().tolist() == [2.0, 3.5, 6.5, 8.0]
    assert edges(x)[0, 0, 0].tolist() == pytest.approx([10**0.5, 10**0.5, 3.0])
    assert set(VIEWS) == {"image", "top", "bottom", "left", "right", "smaller", "edges"}


def test_a_view_of_ones_own(data):
    seen = data.with_views("image", dark=torch.neg)
    views, _ = next(seen.batches("test", 4))
    assert torch.equal(views["dark"], -views["x"]) and seen.view_shapes == {"dark": (1, 8, 8)}


def test_a_dataset_with_views_travels_to_other_processes(data):
    seen = pickle.loads(pickle.dumps(data.with_views("top", "bottom")))
    assert seen.view_shapes == {"bottom": (1, 4, 8)}


def test_refusals(data):
    with pytest.raises(ValueError, match="unknown view 'botom': did you mean 'bottom'"):
        data.with_views("image", "botom")
    with pytest.raises(ValueError, match="seen in part already"):
        data.with_views("top").with_views("left")
