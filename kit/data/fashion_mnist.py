"""Fashion-MNIST: where its four IDX files may lie, and how to read and download them."""

import gzip
import math
import struct
import tempfile
import zlib
from pathlib import Path

import torch
from torch import Tensor

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
LARGEST = 60_000 * 28 * 28  # bytes of the training images; the other three files hold less


def read_fashion_mnist(root: Path, download: bool) -> tuple:
    """Read Fashion-MNIST from `root` or Debian's package; download only if asked and neither is there.

    Raises FileNotFoundError as `find_files` does, ValueError naming a damaged file or two that differ in number.
    """
    try:
        files = find_files(root)
    except FileNotFoundError as missing:
        if not download:
            raise
        try:
            download_files(root)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(f"the download failed ({error}), and {missing}") from error
        files = find_files(root)
    return _read_pair(*files[:2]), _read_pair(*files[2:]), CLASSES


def find_files(root: Path) -> list[Path]:
    """Return the four IDX files (plain or .gz): those of `root/FashionMNIST/raw`, else those of Debian's package.

    Raises FileNotFoundError, naming the three ways to get them, if neither folder holds all four.
    """
    raw = root / "FashionMNIST" / "raw"
    for folder in (raw, DEBIAN):
        found = [_plain_or_gz(folder / name) for name in FILES]
        if all(found):
            return found
    missing = ", ".join(name for name in FILES if not _plain_or_gz(raw / name))
    raise FileNotFoundError(
        f"fashion-mnist is neither in {raw} (missing: {missing}) nor in {DEBIAN}. Get it in one of three ways: "
        "run `make data`; or, on Debian as root, `apt-get install dataset-fashion-mnist`; "
        f"or put the four IDX files, gzipped or not, into {raw}"
    )


def download_files(root: Path) -> None:
    """Let torchvision download into `root/FashionMNIST/raw`; a failed download leaves no file behind.

    Raises OSError or RuntimeError, as torchvision does, if the download fails.
    """
    from torchvision.datasets import FashionMNIST

    raw = root / "FashionMNIST" / "raw"
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as temporary:
        FashionMNIST(temporary, download=True)
        raw.mkdir(parents=True, exist_ok=True)
        for file in (Path(temporary) / "FashionMNIST" / "raw").iterdir():
            file.replace(raw / file.name)


def read_idx(path: Path, num_dims: int) -> Tensor:
    """Read one IDX file of unsigned bytes, gzipped if its name ends in .gz, as a uint8 tensor of `num_dims` dimensions.

    Raises ValueError naming the file and the fault: bad gzip, other magic number, a length the header does not promise.
    """
    # Not by torchvision's reader, which knows no gzip and holds all that a file has before it looks at the header.
    start, content = 4 + 4 * num_dims, b""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            header = file.read(start)
            magic, *shape = struct.unpack(f">{1 + num_dims}I", header.ljust(start, b"\0"))
            if (size := math.prod(shape)) <= LARGEST:
                content = file.read(size + 1)  # a byte too many tells of more; what a gzip bomb hides stays unread
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _damaged(path, f"not a whole gzip file ({error})") from error
    if len(header) < start:
        raise _damaged(path, f"{len(header)} bytes, but its header alone has {start}")
    if magic != 0x0800 + num_dims:
        raise _damaged(path, f"magic number {magic}, but expected {0x0800 + num_dims}")
    if not 0 < size <= LARGEST:
        raise _damaged(path, f"its header promises {shape} bytes, but expected 1 to {LARGEST}")
    if len(content) != size:
        more = ", or more" if len(content) > size else ""
        raise _damaged(path, f"its header promises {shape} bytes, but {len(content)} follow{more}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(shape)


def _read_pair(images_file: Path, labels_file: Path) -> tuple[Tensor, Tensor]:
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if len(images) != len(labels):
        fault = f"{images_file} holds {len(images)} images, but {labels_file} holds {len(labels)} labels"
        raise ValueError(f"{fault}; they are not of one dataset: delete both and get them again")
    return images.unsqueeze(1), labels.long()


def _plain_or_gz(path: Path) -> Path | None:
    return next(filter(Path.is_file, (path, path.with_name(f"{path.name}.gz"))), None)


def _damaged(path: Path, fault: str) -> ValueError:
    return ValueError(f"{path} is damaged: {fault}. Delete it and get it again with `make data`")
