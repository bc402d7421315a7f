"""The named datasets, and how each is read from its own files: training images, test images, names of the classes."""

import tarfile
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kit.data.fashion_mnist import read_fashion_mnist
from kit.data.image_files import read_imagenet, read_tiny_imagenet
from kit.data.stratified import stratified
from kit.data.text_files import TEXT_DATASETS
from kit.seeds import generator

DIGITS = tuple("0123456789")
STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


def read_digits(root: Path, download: bool) -> tuple:
    """Read scikit-learn's bundled 8x8 digits; 359 of the 1797, the same ones always, are the test set."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    test, train = stratified(labels, round(0.2 * len(labels)), generator("digits", "test"), proportional=True)
    return (images[train], labels[train]), (images[test], labels[test]), DIGITS


def read_torchvision(name: str, root: Path, download: bool) -> tuple:
    """Read cifar10, cifar100 (fine labels), svhn (without `extra`) or stl10 (labelled images) through torchvision.

    Raises FileNotFoundError naming a file that is missing, ValueError naming one that is not the published one.
    """
    from torchvision.datasets import CIFAR10, CIFAR100, STL10, SVHN

    cls = {"cifar10": CIFAR10, "cifar100": CIFAR100, "svhn": SVHN, "stl10": STL10}[name]
    cifar = cls in (CIFAR10, CIFAR100)
    if cls is SVHN:
        downloads = [cls.split_list["train"], cls.split_list["test"]]
        files = [(root / file, md5) for _, file, md5 in downloads]
    else:
        downloads = [(cls.url, cls.filename, cls.tgz_md5)]
        listed = [*cls.train_list, *cls.test_list, *([(cls.meta["filename"], cls.meta["md5"])] if cifar else [])]
        files = [(root / cls.base_folder / file, md5) for file, md5 in listed]
    try:
        if download:
            _download(root, downloads, files)
        train, test = (cls(root, part == "train" if cifar else part) for part in ("train", "test"))
    except (RuntimeError, OSError, tarfile.TarError) as error:
        how = f"put the published file there, or run `python -m kit.data {name} --root {root}`"
        how = f"{how} (this time the download failed: {error})" if download else how
        raise _fault(name, files, how, error) from error
    classes = train.classes if cifar else STL10_CLASSES if cls is STL10 else DIGITS
    return _images_and_labels(train), _images_and_labels(test), tuple(classes)


def _images_and_labels(part) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(part.data)
    if hasattr(part, "targets"):  # CIFAR's are lists, its images have channels last
        return images.permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)
    return images.contiguous(), torch.from_numpy(part.labels).long()


def _download(root: Path, downloads: list[tuple[str, str, str]], files: list[tuple[Path, str]]) -> None:
    """Fetch `downloads`, (URL, file, MD5), and unpack archives, unless all `files`, (path, MD5), are there."""
    from torchvision.datasets.utils import check_integrity, download_url

    if all(check_integrity(*file) for file in files):
        return
    for url, file, md5 in downloads:
        download_url(url, root, file, md5)
        if file.endswith(".tar.gz"):
            with tarfile.open(root / file) as archive:  # torchvision itself would follow "../" and links, make devices
                archive.extractall(root, filter="data")


def _fault(name: str, files: list[tuple[Path, str]], how: str, error: Exception) -> Exception:
    from torchvision.datasets.utils import check_integrity

    for path, md5 in files:
        if not path.is_file():
            return FileNotFoundError(f"{name}: {path} not found; {how}")
        if not check_integrity(path, md5):
            return ValueError(f"{name}: {path} is damaged (its MD5 is not {md5}); delete it, then {how}")
    return ValueError(f"{name}: {files[0][0].parent} could not be read ({error}); {how}")


DATASETS = {  # name -> its reader, and the augmentation used unless another is named
    "digits": (read_digits, "none"),
    "fashion-mnist": (read_fashion_mnist, "shift-flip"),
    "cifar10": (partial(read_torchvision, "cifar10"), "crop-flip"),
    "cifar100": (partial(read_torchvision, "cifar100"), "crop-flip"),
    "svhn": (partial(read_torchvision, "svhn"), "shift"),
    "stl10": (partial(read_torchvision, "stl10"), "crop-flip"),
    "tiny-imagenet": (read_tiny_imagenet, "crop-flip"),
    "imagenet": (read_imagenet, "resized-crop"),
    **TEXT_DATASETS,
}
