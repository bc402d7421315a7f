"""Each named dataset's own files, read into one form."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kit.data import fashion, folders
from kit.data.folders import ImageFiles
from kit.data.stratified import draw
from kit.seeds import generator


class Raw(NamedTuple):
    """A dataset as published: images uint8 (N, C, H, W) or files, labels int64 (N,), the classes' names."""

    train_images: Tensor | ImageFiles
    train_labels: Tensor
    test_images: Tensor | ImageFiles
    test_labels: Tensor
    classes: tuple[str, ...]


def read_digits(root: Path, download: bool) -> Raw:
    """Read scikit-learn's bundled 8x8 digits; 359 of the 1797, the same ones always, are the test set."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    test, train = draw(labels, round(0.2 * len(labels)), generator("digits", "test"), proportional=True)
    return Raw(images[train], labels[train], images[test], labels[test], tuple("0123456789"))


def read_fashion(root: Path, download: bool) -> Raw:
    """Read Fashion-MNIST from `root` or Debian's package; download only if asked and neither is there."""
    try:
        files = fashion.find_fashion(root)
    except FileNotFoundError as missing:
        if not download:
            raise
        try:
            fashion.download_fashion(root)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(f"the download failed ({error}), and {missing}") from error
        files = fashion.find_fashion(root)
    train_images, train_labels, test_images, test_labels = fashion.read_fashion(files)
    return Raw(train_images, train_labels.long(), test_images, test_labels.long(), fashion.CLASSES)


def read_cifar10(root: Path, download: bool) -> Raw:
    """Read CIFAR-10, 32x32 RGB."""
    from torchvision.datasets import CIFAR10

    return _read_cifar("cifar10", CIFAR10, root, download)


def read_cifar100(root: Path, download: bool) -> Raw:
    """Read CIFAR-100 with its 100 fine labels, 32x32 RGB."""
    from torchvision.datasets import CIFAR100

    return _read_cifar("cifar100", CIFAR100, root, download)


def _read_cifar(name: str, cls: type, root: Path, download: bool) -> Raw:
    listed = [*cls.train_list, *cls.test_list, (cls.meta["filename"], cls.meta["md5"])]
    files = [(root / cls.base_folder / file, md5) for file, md5 in listed]
    train, test = _read(name, root, files, download, lambda part: cls(root, part == "train", download=download))
    images = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in (train, test)]
    return Raw(images[0], torch.tensor(train.targets), images[1], torch.tensor(test.targets), tuple(train.classes))


def read_svhn(root: Path, download: bool) -> Raw:
    """Read SVHN's cropped house numbers, 32x32 RGB: `train` and `test`, without `extra`."""
    from torchvision.datasets import SVHN

    files = [(root / SVHN.split_list[part][1], SVHN.split_list[part][2]) for part in ("train", "test")]
    train, test = _read("svhn", root, files, download, lambda part: SVHN(root, part, download=download))
    return _from_arrays(train, test, tuple("0123456789"))


def read_stl10(root: Path, download: bool) -> Raw:
    """Read STL-10's labelled images, 96x96 RGB: 5000 train, 8000 test."""
    from torchvision.datasets import STL10

    files = [(root / STL10.base_folder / file, md5) for file, md5 in STL10.train_list + STL10.test_list]
    train, test = _read("stl10", root, files, download, lambda part: STL10(root, part, download=download))
    names = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
    return _from_arrays(train, test, names)


def _from_arrays(train, test, classes: tuple[str, ...]) -> Raw:
    pairs = [(torch.from_numpy(p.data).contiguous(), torch.from_numpy(p.labels).long()) for p in (train, test)]
    return Raw(*pairs[0], *pairs[1], classes)


def _read(name: str, root: Path, files: list[tuple[Path, str]], download: bool, build: Callable) -> tuple:
    """Build torchvision's train and test sets, and say which of `files` (path, md5) is at fault if that fails."""
    try:
        return build("train"), build("test")
    except (RuntimeError, OSError) as error:
        how = f"put the published file there, or run `python -m kit.data {name} --root {root}`"
        how = f"{how} (this time the download failed: {error})" if download else how
        raise _fault(name, files, how, error) from error


def _fault(name: str, files: list[tuple[Path, str]], how: str, error: Exception) -> Exception:
    from torchvision.datasets.utils import check_integrity

    for path, md5 in files:
        if not path.is_file():
            return FileNotFoundError(f"{name}: {path} not found; {how}")
        if not check_integrity(path, md5):
            return ValueError(f"{name}: {path} is damaged (its MD5 is not {md5}); delete it, then {how}")
    return ValueError(f"{name}: {files[0][0].parent} could not be read ({error}); {how}")


READERS: dict[str, Callable[[Path, bool], Raw]] = {
    "digits": read_digits,
    "fashion-mnist": read_fashion,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "svhn": read_svhn,
    "stl10": read_stl10,
    "tiny-imagenet": lambda root, download: Raw(*folders.tiny_imagenet(root)),
    "imagenet": lambda root, download: Raw(*folders.imagenet(root)),
}
