"""A fingerprint tells data from others by their content, wherever it lies."""

import shutil
from dataclasses import replace

import pytest
import torch
from dataset_files import write_imagenet, write_tiny_imagenet

from kit.data import Data, Split, load_data


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits", limit=200)


def changed(data: Data, name: str, **parts) -> str:
    return replace(data, **{name: replace(data.splits[name], **parts)}).fingerprint()


def test_the_same_content_has_the_same_fingerprint(digits):
    assert len(digits.fingerprint()) == 16 and int(digits.fingerprint(), 16) >= 0
    again = load_data("digits", "elsewhere", limit=200, num_workers=3)
    assert again.fingerprint() == digits.fingerprint() == digits.origin["fingerprint"] and again.origin == digits.origin
    own = [Split(split.images.clone(), split.labels.clone()) for split in digits.splits.values()]
    facts = digits.shape, digits.classes, digits.mean.clone(), digits.std.clone()
    named = Data("mine", *own, *facts)
    assert named.fingerprint() == digits.fingerprint() and named.origin is None
    layout = digits.train.images.to(memory_format=torch.channels_last)
    assert changed(digits, "train", images=layout) == digits.fingerprint()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_any_label_the_images_and_their_number_count(digits, split):
    part = digits.splits[split]
    labels, images = part.labels.clone(), part.images.clone()
    labels[7] = (labels[7] + 1) % 10
    images[0, 0, 3, 3] ^= 1
    prints = {
        digits.fingerprint(),
        changed(digits, split, labels=labels),
        changed(digits, split, clean_labels=labels),
        changed(digits, split, images=images),
        changed(digits, split, images=part.images.float()),
        changed(digits, split, images=part.images.flip(0)),
        changed(digits, split, images=part.images[:-1], labels=part.labels[:-1], clean_labels=part.labels[:-1]),
    }
    assert len(prints) == 7


def test_what_is_known_of_the_images_counts(digits):
    others = [
        {"mean": digits.mean + 1e-6},
        {"std": digits.std + 1e-6},
        {"classes": digits.classes[::-1]},
        {"augmentation": "shift"},
    ]
    prints = {replace(digits, **other).fingerprint() for other in others}
    prints |= {digits.with_views(*views).fingerprint() for views in ((), ("top",), ("bottom",), ("top", "left"))}
    assert len(prints) == 8 and digits.fingerprint() in prints


def test_loading_otherwise_gives_another(digits):
    settings = [{"seed": 1}, {"val_fraction": 0.2}, {"limit": 201}, {"image_size": 9}, {"views": ["top"]}]
    settings += [{"noise": "symmetric", "noise_rate": 0.2}, {"augment": "shift"}]
    prints = {load_data("digits", **{"limit": 200} | setting).fingerprint() for setting in settings}
    assert len(prints | {digits.fingerprint()}) == 8


def test_only_a_sample_of_the_images_is_read(digits):
    """Of 64 000 images, 64: changing one between them is not noticed, which is the price of taking no time."""
    many = Split(torch.zeros(64_000, 1, 1, 1, dtype=torch.uint8), torch.zeros(64_000, dtype=torch.int64))
    between, sampled = many.images.clone(), many.images.clone()
    between[1], sampled[1000] = 1, 1
    data = replace(digits, train=many)
    assert changed(data, "train", images=between) == data.fingerprint() != changed(data, "train", images=sampled)


def test_of_files_names_and_lengths_count_but_not_their_root(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    write_imagenet(first, {"train": 6, "val": 2})
    shutil.copytree(first, second)
    print_, other = (load_data("imagenet", root, num_workers=0).fingerprint() for root in (first, second))
    assert print_ == other
    assert load_data("imagenet", second, num_workers=0, image_size=32).fingerprint() != print_
    (second / "imagenet/val/n01/1.JPEG").rename(second / "imagenet/val/n01/2.JPEG")
    assert load_data("imagenet", second, num_workers=0).fingerprint() != print_
    shutil.copy(first / "imagenet/val/n01/0.JPEG", first / "imagenet/val/n01/1.JPEG")
    assert load_data("imagenet", first, num_workers=0).fingerprint() != print_


def test_of_images_read_into_memory_only_pixels_count(tmp_path):
    base = write_tiny_imagenet(tmp_path)
    before = load_data("tiny-imagenet", tmp_path, val_fraction=0.25).fingerprint()
    for path in (base / "train").rglob("*.JPEG"):
        path.rename(path.with_name(f"a_{path.name}"))
    assert load_data("tiny-imagenet", tmp_path, val_fraction=0.25).fingerprint() == before
