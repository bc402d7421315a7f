"""Datasets kept as image files: tiny-imagenet, read into memory, and imagenet, decoded by workers when asked for."""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kit.seeds import seeded

FILE_AUGMENTATIONS = ("none", "resized-crop")  # what workers do, image by image


@dataclass(frozen=True, eq=False, repr=False)
class ImageFiles(Dataset):
    """Image files read on demand, as RGB uint8 (3, size, size); an index (N,) int64 gives the ImageFiles of many.

    A file is resized to size * 256 / 224 on the shorter side and cut at the centre. `size=None` stands for files that
    are to be read whole, by `load`.
    """

    paths: list[Path]
    size: int | None = None
    crop_seeds: tuple | None = None
    """Instead of the centre, image i gets a random resized crop and flip, drawn from (*crop_seeds, i) alone."""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W), as of a tensor of them all."""
        return len(self), 3, self.size, self.size

    def __getitem__(self, index: int | Tensor) -> "Tensor | ImageFiles":
        from torchvision.transforms import v2

        if isinstance(index, Tensor):
            return replace(self, paths=[self.paths[i] for i in index.tolist()])
        image = read_image(self.paths[index])
        if self.crop_seeds is None:
            image = v2.functional.resize(image, [round(self.size * 256 / 224)], antialias=True)
            return v2.functional.center_crop(image, [self.size, self.size])
        with seeded(*self.crop_seeds, index):
            image = v2.RandomResizedCrop(self.size, antialias=True)(image)
            return image.flip(2) if torch.rand(()) < 0.5 else image

    def stream(self, batches: list[Tensor], num_workers: int, pin: bool) -> Iterator[Tensor]:
        """Yield uint8 (B, 3, size, size) for each index (B,) of `batches`, decoded by up to `num_workers` processes."""
        # A generator of its own: DataLoader would otherwise draw from the global one and so disturb the training.
        own, index, workers = torch.Generator(), [batch.tolist() for batch in batches], min(num_workers, len(batches))
        yield from DataLoader(self, batch_sampler=index, num_workers=workers, generator=own, pin_memory=pin)

    def load(self) -> Tensor:
        """Read all files, which must have one size, into uint8 (N, 3, H, W); ValueError names one that differs."""
        _, height, width = read_image(self.paths[0]).shape
        images = torch.empty(len(self), 3, height, width, dtype=torch.uint8)
        for i, path in enumerate(self.paths):
            _, h, w = (image := read_image(path)).shape
            if (h, w) != (height, width):
                raise ValueError(f"{path} is {h}x{w}, but {self.paths[0]} is {height}x{width}; expected one size")
            images[i] = image
        return images


def read_image(path: Path) -> Tensor:
    """Return the file as RGB, uint8 (3, H, W); ValueError names one that is special, damaged or a memory bomb."""
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    fault = "is no regular file"  # to open a FIFO would wait for ever, and a device may do anything
    if path.is_file():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path) as image:
                    return pil_to_tensor(image.convert("RGB"))
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            fault = f"is too large an image ({error})"
        except (OSError, SyntaxError, ValueError) as error:  # which one depends on the format
            fault = f"is not a whole image ({error})"
    raise ValueError(f"{path} {fault}; delete it and get it again")


def read_tiny_imagenet(root: Path, download: bool) -> tuple:
    """Find the files of tiny-imagenet-200; its val folder is the test split, wnids.txt names the classes in order.

    Raises FileNotFoundError naming the file or folder that is missing, ValueError naming the line of a list that has an
    unknown class, a name twice, or a path where a file's or folder's own name is expected.
    """
    base, how = root / "tiny-imagenet-200", f"unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip in {root}"
    for part in ("wnids.txt", "train", "val/images", "val/val_annotations.txt"):
        _require("tiny-imagenet", base / part, how)
    number = {wnid: i for i, (_, [wnid]) in enumerate(_rows(base / "wnids.txt", 1, how))}
    train, test = [], []
    for wnid in number:
        paths = sorted((base / "train" / wnid / "images").glob("*.JPEG"))
        _require("tiny-imagenet", paths[0] if paths else base / "train" / wnid / "images" / "*.JPEG", how)
        train += [(path, number[wnid]) for path in paths]
    for where, (name, wnid, *_) in _rows(base / "val" / "val_annotations.txt", 6, how):
        if wnid not in number:
            raise ValueError(f"{where}: {name} has class {wnid!r}, not in wnids.txt; {how}")
        _require("tiny-imagenet", path := base / "val" / "images" / name, how)
        test.append((path, number[wnid]))
    return _images_and_labels(train), _images_and_labels(test), tuple(number)


def _rows(file: Path, num_columns: int, how: str) -> list[tuple[str, list[str]]]:
    """Return where each line of a list stands, and its columns, the first being the name of a file or folder."""
    rows = {}
    for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
        where, (name, *rest) = f"tiny-imagenet: {file}, line {number}", line.split() or [""]
        # The name is joined to a folder, out of which a "/" or ".." in it would lead.
        if not re.fullmatch(r"\w[\w.-]*", name) or len(rest) != num_columns - 1:
            raise ValueError(f"{where}: {line!r}, but expected {num_columns} column(s), the first a plain name; {how}")
        if name in rows:
            raise ValueError(f"{where}: {name!r} stands there a second time; {how}")
        rows[name] = where, [name, *rest]
    if not rows:
        raise ValueError(f"tiny-imagenet: {file} is empty; {how}")
    return list(rows.values())


def read_imagenet(root: Path, download: bool) -> tuple:
    """Find the files of imagenet; its val folder is the test split, the folders' names are the classes.

    Raises FileNotFoundError for a missing folder, ValueError if train and val have other classes.
    """
    from torchvision.datasets import ImageFolder

    base, folders = root / "imagenet", []
    how = f"register at https://image-net.org, then unpack one folder per class into {base}/train and {base}/val"
    for part in ("train", "val"):
        _require("imagenet", base / part, how)
        try:
            folders.append(ImageFolder(base / part))
        except FileNotFoundError as error:  # no class folder, or one without images
            raise FileNotFoundError(f"imagenet: {base / part}: {error}; {how}") from error
    (train, classes), (test, others) = ((folder.samples, folder.classes) for folder in folders)
    if odd := sorted(set(classes) ^ set(others)):
        raise ValueError(f"imagenet: {base}/train and {base}/val differ in {len(odd)} classes, e.g. {odd[0]}; {how}")
    return _images_and_labels(train, 224), _images_and_labels(test, 224), tuple(classes)


def _images_and_labels(samples: list[tuple[str | Path, int]], size: int | None = None) -> tuple[ImageFiles, Tensor]:
    return ImageFiles([Path(path) for path, _ in samples], size), torch.tensor([label for _, label in samples])


def _require(name: str, path: Path, how: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{name}: {path} not found; {how}")
