"""tiny-imagenet and imagenet, from small trees of JPEG files."""

import os

import pytest
import torch
from dataset_files import write_imagenet, write_jpeg, write_tiny_imagenet
from PIL import Image

from kit.data import load_data
from kit.data.image_files import read_image

WNIDS = ("n02", "n01", "n03")  # not sorted: wnids.txt gives the order of the classes


@pytest.fixture
def tiny(tmp_path):
    """Return a root with 8 training and 2 test images in each of 3 classes; class c is red 80 c, one is grey."""
    base = write_tiny_imagenet(tmp_path, WNIDS)
    write_jpeg(base / "train/n02/images/n02_0.JPEG", (64, 64), 7, "L")
    return tmp_path


def test_tiny_imagenet(tiny):
    data = load_data("tiny-imagenet", tiny, val_fraction=0.25)
    assert (len(data.train), len(data.val), len(data.test)) == (18, 6, 6)
    assert data.classes == WNIDS and data.shape == (3, 64, 64) and data.augmentation == "crop-flip"
    assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2] and data.val.labels.bincount().tolist() == [2, 2, 2]
    for split in (data.train, data.val, data.test):
        grey = split.images[:, 2].float().mean((1, 2)) < 100
        off = split.images[:, 0].float().mean((1, 2)) - 80 * split.labels
        assert off[~grey].abs().max() < 4  # JPEG is not exact


def test_tiny_imagenet_resized_and_limited(tiny):
    data = load_data("tiny-imagenet", tiny, image_size=32, limit=9, val_fraction=0.34)
    assert data.shape == (3, 32, 32) and (data.train.labels.bincount() + data.val.labels.bincount()).tolist() == [3] * 3


def test_tiny_imagenet_names_what_is_missing_or_damaged(tiny):
    base = tiny / "tiny-imagenet-200"
    with pytest.raises(FileNotFoundError, match="tiny-imagenet: .*wnids.txt not found; unpack http"):
        load_data("tiny-imagenet", tiny / "elsewhere")
    image = base / "train/n01/images/n01_3.JPEG"
    write_jpeg(image, (64, 60), 0)
    with pytest.raises(ValueError, match=f"{image} is 60x64, but .* is 64x64"):
        load_data("tiny-imagenet", tiny, val_fraction=0.05)
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(ValueError, match=f"{image} is not a whole image"):
        load_data("tiny-imagenet", tiny, val_fraction=0.05)
    (base / "val/images/val_4.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match="val_4.JPEG not found"):
        load_data("tiny-imagenet", tiny)
    (base / "val/val_annotations.txt").write_text("val_0.JPEG\tn99\t0\t0\t1\t1\n")
    with pytest.raises(ValueError, match="val_0.JPEG has class 'n99', not in wnids.txt"):
        load_data("tiny-imagenet", tiny)
    (base / "wnids.txt").write_text("n02\nn77")
    with pytest.raises(FileNotFoundError, match=r"train/n77/images/\*.JPEG not found"):
        load_data("tiny-imagenet", tiny)
    (base / "wnids.txt").write_text("")
    with pytest.raises(ValueError, match="wnids.txt is empty"):
        load_data("tiny-imagenet", tiny)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (
            "val/val_annotations.txt",
            "/etc/hostname\tn01\t0\t0\t1\t1",
            "'/etc/hostname.*expected 6 column.s., the first a plain",
        ),
        ("val/val_annotations.txt", "../images/val_0.JPEG\tn01\t0\t0\t1\t1", "first a plain name; unpack"),
        ("val/val_annotations.txt", "..\tn01\t0\t0\t1\t1", "first a plain name; unpack"),
        ("val/val_annotations.txt", "a/val_0.JPEG\tn01\t0\t0\t1\t1", "first a plain name; unpack"),
        ("val/val_annotations.txt", "val_1.JPEG", "'val_1.JPEG', but expected 6 column.s."),
        ("val/val_annotations.txt", "", "'', but expected 6 column.s."),
        ("val/val_annotations.txt", "val_1.JPEG\tn02\t0\t0\t1\t1", "'val_1.JPEG' stands there a second time"),
        ("wnids.txt", "n01", "'n01' stands there a second time"),
        ("wnids.txt", "../n01", "'../n01', but expected 1 column.s., the first a plain name"),
        ("wnids.txt", "/tmp/n01", "'/tmp/n01', but expected"),
        ("wnids.txt", "n04 n05", "'n04 n05', but expected 1 column.s."),
        ("wnids.txt", "\xff", "but expected 1 column.s., the first a plain name"),
    ],
)
def test_tiny_imagenets_lists_hold_plain_names_each_once(tiny, file, line, message):
    path = tiny / "tiny-imagenet-200" / file
    lines = path.read_text().splitlines()
    path.write_bytes("\n".join([*lines, line, "n01"]).encode("latin-1"))
    with pytest.raises(ValueError, match=f"^tiny-imagenet: {path}, line {len(lines) + 1}: .*{message}"):
        load_data("tiny-imagenet", tiny)


def test_what_is_no_regular_file_is_not_opened(tiny):
    path = tiny / "tiny-imagenet-200/train/n01/images/n01_3.JPEG"
    path.unlink()
    os.mkfifo(path)  # to open it would wait for a writer
    with pytest.raises(ValueError, match=f"{path} is no regular file; delete it and get it again"):
        load_data("tiny-imagenet", tiny, val_fraction=0.05)
    for other in (tiny, path.with_name("missing")):
        with pytest.raises(ValueError, match="is no regular file"):
            read_image(other)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="is no regular file"):
        read_image(path)


@pytest.mark.parametrize("limit", [3000, 1000])  # above it Pillow warns, above the double it raises
def test_a_decompression_bomb_is_not_decoded(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    write_jpeg(tmp_path / "bomb.JPEG", (64, 64), 0)
    with pytest.raises(
        ValueError, match=f"{tmp_path}/bomb.JPEG is too large an image .*4096 pixels.*decompression bomb"
    ):
        read_image(tmp_path / "bomb.JPEG")


def test_damaged_images_of_other_formats_are_named(tmp_path):
    path = tmp_path / "image.png"
    Image.effect_noise((64, 64), 50).save(path)
    content = path.read_bytes()
    for damaged in (content[:200], content[:100] + bytes(50) + content[150:], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path} is not a whole image"):
            read_image(path)


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """Return a root with 6 training and 2 val images of noise in each of 2 classes, of unequal sizes."""
    root = tmp_path_factory.mktemp("imagenet")
    write_imagenet(root, {"train": 6, "val": 2})
    return root


def collect(batches):
    xs, ys = zip(*batches, strict=True)
    return torch.cat(xs), torch.cat(ys)


def test_imagenet_is_lazy_and_cut_at_the_centre_for_evaluation(big):
    from torchvision.transforms import v2

    data = load_data("imagenet", big, val_fraction=0.25, num_workers=0)
    assert data.shape == (3, 224, 224) and data.augmentation == "resized-crop" and data.classes == ("n01", "n02")
    assert (len(data.train), len(data.val), len(data.test)) == (9, 3, 4)
    assert data.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    x, y = collect(data.batches("test", 3))
    assert x.shape == (4, 3, 224, 224) and x.dtype == torch.float32 and y.tolist() == [0, 0, 1, 1]
    usual = v2.Compose([v2.PILToTensor(), v2.Resize(256), v2.CenterCrop(224)])
    with Image.open(big / "imagenet/val/n01/1.JPEG") as image:
        expected = usual(image).float() / 255
    torch.testing.assert_close(data.denormalize(x)[1], expected, atol=1e-5, rtol=0)


def test_imagenet_draws_by_seed_epoch_and_image_whatever_the_workers(big):
    alone, many = (load_data("imagenet", big, image_size=32, num_workers=n) for n in (0, 2))
    x, y = collect(alone.batches("train", 4, epoch=1, seed=5))
    before = torch.get_rng_state()
    others = [many.batches("train", 4, epoch=1, seed=5), alone.batches("train", 3, epoch=1, seed=5)]
    for other in others:  # the same images in other processes, and in batches of another size
        x_other, y_other = collect(other)
        assert torch.equal(x[: len(x_other)], x_other) and torch.equal(y[: len(y_other)], y_other)
    assert torch.equal(torch.get_rng_state(), before)
    rest, _ = collect(alone.batches("train", 4, epoch=1, seed=5, start=1))
    assert torch.equal(rest, x[4:])
    assert not torch.equal(x, collect(alone.batches("train", 4, epoch=2, seed=5))[0])
    plain, _ = collect(alone.batches("train", 4, epoch=1, seed=5, augment="none"))
    assert not torch.equal(plain, x) and plain.shape == x.shape


def test_imagenet_takes_noise_and_refuses_recipes_for_tensors(big):
    data = load_data("imagenet", big, noise="asymmetric", noise_rate=1.0, num_workers=0)
    assert torch.equal(data.train.labels, 1 - data.train.clean_labels) and data.train.noisy.all()
    with pytest.raises(ValueError, match="unknown augmentation of imagenet 'paper'.*Choose one of none, resized-crop"):
        data.batches("train", 4, epoch=0, augment="paper")
    assert data.to("cpu").train.images is data.train.images


def test_imagenet_names_what_is_missing_or_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match="imagenet: .*imagenet/train not found; register at"):
        load_data("imagenet", tmp_path)
    for part, wnid in (("train", "n01"), ("train", "n02"), ("val", "n01")):
        for i in range(6):
            write_jpeg(tmp_path / f"imagenet/{part}/{wnid}/{i}.JPEG", (40, 40), i)
    with pytest.raises(ValueError, match="differ in 1 classes, e.g. n02"):
        load_data("imagenet", tmp_path)
    (tmp_path / "imagenet/val/n02").mkdir()
    with pytest.raises(FileNotFoundError, match="imagenet/val: .*n02"):
        load_data("imagenet", tmp_path)
    broken = tmp_path / "imagenet/val/n02/0.JPEG"
    broken.write_bytes(b"not a JPEG")
    data = load_data("imagenet", tmp_path, image_size=16, num_workers=1)
    with pytest.raises(ValueError, match=f"{broken} is not a whole image"):
        list(data.batches("test", 4))
