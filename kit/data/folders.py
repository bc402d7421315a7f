"""Datasets kept as folders of JPEG files: tiny-imagenet (read into memory) and imagenet (decoded by workers)."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kit.seeds import seeded


class ImageFiles(Dataset):
    """Image files read on demand, each cut to RGB uint8 (3, size, size).

    Item i is resized to size * 256 / 224 on the shorter side and cut at the centre. `stream` yields whole batches.
    """

    def __init__(self, paths: list[Path], size: int = 224):
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        from torchvision.transforms.v2 import functional as tv

        image = tv.resize(read_image(self.paths[index]), [round(self.size * 256 / 224)], antialias=True)
        return tv.center_crop(image, [self.size, self.size])

    def subset(self, index: Tensor) -> "ImageFiles":
        """Return the files at `index`, (N,) int64, in that order."""
        return ImageFiles([self.paths[i] for i in index.tolist()], self.size)

    def stream(self, batches: list[Tensor], num_workers: int, seeds: tuple | None, pin: bool) -> Iterator[Tensor]:
        """Yield one uint8 tensor (B, 3, size, size) for each index tensor (B,) of `batches`, decoded by `num_workers`.

        `seeds=None` gives the centre cut; otherwise image i gets a random resized crop and flip, drawn from
        (*seeds, i) alone, whatever worker or batch it falls into.
        """
        source = self if seeds is None else _RandomCrops(self, seeds)
        # A generator of its own: DataLoader would otherwise draw from the global one and so disturb the training.
        yield from DataLoader(
            source,
            batch_sampler=[batch.tolist() for batch in batches],
            num_workers=min(num_workers, len(batches)),
            generator=torch.Generator(),
            pin_memory=pin,
        )


class _RandomCrops(Dataset):
    def __init__(self, files: ImageFiles, seeds: tuple):
        self.files, self.seeds = files, seeds

    def __getitem__(self, index: int) -> Tensor:
        from torchvision.transforms.v2 import RandomResizedCrop

        image = read_image(self.files.paths[index])
        with seeded(*self.seeds, index):
            image = RandomResizedCrop(self.files.size, antialias=True)(image)
            return image.flip(2) if torch.rand(()) < 0.5 else image


def read_image(path: Path) -> Tensor:
    """Return the file as RGB, uint8 (3, H, W); raise ValueError naming it if it is not a whole image."""
    from torchvision.datasets.folder import default_loader
    from torchvision.transforms.functional import pil_to_tensor

    try:
        return pil_to_tensor(default_loader(path))
    except OSError as error:
        raise ValueError(f"{path} is not a whole image ({error}); delete it and get it again") from error


def load_images(files: ImageFiles) -> Tensor:
    """Read all files, which must have one size, into a uint8 tensor (N, 3, H, W); ValueError names one that differs."""
    first = read_image(files.paths[0])
    images = torch.empty(len(files), *first.shape, dtype=torch.uint8)
    for i, path in enumerate(files.paths):
        image = read_image(path)
        if image.shape != first.shape:
            (_, h, w), (_, first_h, first_w) = image.shape, first.shape
            raise ValueError(f"{path} is {h}x{w}, but {files.paths[0]} is {first_h}x{first_w}; expected one size")
        images[i] = image
    return images


def tiny_imagenet(root: Path) -> tuple[ImageFiles, Tensor, ImageFiles, Tensor, tuple[str, ...]]:
    """Return train files and labels, test files (the val folder) and labels, and classes (wnids) of tiny-imagenet-200.

    Raises FileNotFoundError naming the file or folder that is missing, ValueError for a class that wnids.txt lacks.
    """
    base = root / "tiny-imagenet-200"
    how = f"unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip in {root}"
    for part in ("wnids.txt", "train", "val/images", "val/val_annotations.txt"):
        _require("tiny-imagenet", base / part, how)
    classes = tuple((base / "wnids.txt").read_text().split())
    if not classes:
        raise ValueError(f"tiny-imagenet: {base / 'wnids.txt'} is empty, but it names the classes; {how}")
    number = {wnid: i for i, wnid in enumerate(classes)}
    train, test = [], []
    for wnid in classes:
        paths = sorted((base / "train" / wnid / "images").glob("*.JPEG"))
        if not paths:
            _require("tiny-imagenet", base / "train" / wnid / "images" / "*.JPEG", how)
        train += [(path, number[wnid]) for path in paths]
    for line in (base / "val" / "val_annotations.txt").read_text().splitlines():
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in number:
            raise ValueError(f"{base}/val/val_annotations.txt: {name} has class {wnid!r}, not in wnids.txt; {how}")
        path = base / "val" / "images" / name
        _require("tiny-imagenet", path, how)
        test.append((path, number[wnid]))
    return *_files(train), *_files(test), classes


def imagenet(root: Path) -> tuple[ImageFiles, Tensor, ImageFiles, Tensor, tuple[str, ...]]:
    """Return train files and labels, test files (the val folder) and labels, and classes (folder names) of imagenet.

    Raises FileNotFoundError for a missing folder, ValueError if train and val have other classes.
    """
    from torchvision.datasets import ImageFolder

    base = root / "imagenet"
    how = f"register at https://image-net.org, then unpack one folder per class into {base}/train and {base}/val"
    folders = {}
    for part in ("train", "val"):
        _require("imagenet", base / part, how)
        try:
            folders[part] = ImageFolder(base / part)
        except FileNotFoundError as error:  # no class folder, or one without images
            raise FileNotFoundError(f"imagenet: {base / part}: {error}; {how}") from error
    train, test = folders["train"], folders["val"]
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(f"imagenet: {base}/train and {base}/val differ in {len(odd)} classes, e.g. {odd[0]}; {how}")
    return *_files(train.samples), *_files(test.samples), tuple(train.classes)


def _files(samples: list[tuple[str | Path, int]]) -> tuple[ImageFiles, Tensor]:
    return ImageFiles([Path(path) for path, _ in samples]), torch.tensor([label for _, label in samples])


def _require(name: str, path: Path, how: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{name}: {path} not found; {how}")
