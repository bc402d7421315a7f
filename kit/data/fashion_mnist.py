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
    """Read Fashion-MNIST from `root` or Debian's package; download only if asked and neither has it.

    Raises FileNotFoundError naming the three ways to get it, ValueError naming a damaged file or two that differ.
    """
    raw, failed = root / "FashionMNIST" / "raw", ""
    if download and not find_files(root):
        try:
            _download(root, raw)
        except (OSError, RuntimeError) as error:
            failed = f"the download failed ({' '.join(str(error).split())}), and "
    if not (files := find_files(root)):
        missing = ", ".join(name for name in FILES if not _plain_or_gz(raw / name))
        raise FileNotFoundError(
            f"{failed}fashion-mnist is neither in {raw} (missing: {missing}) nor in {DEBIAN}. Get it in one of three "
            "ways: run `make data`; or, on Debian as root, `apt-get install dataset-fashion-mnist`; or put the four "
            f"IDX files, gzipped or not, into {raw}"
        )
    return _read_pair(*files[:2]), _read_pair(*files[2:]), CLASSES


def find_files(root: Path) -> list[Path]:
    """Return the four IDX files (plain or .gz) of `root/FashionMNIST/raw`, or of Debian's package, or none."""
    folders = ([_plain_or_gz(folder / name) for name in FILES] for folder in (root / "FashionMNIST" / "raw", DEBIAN))
    return next(filter(all, folders), [])


def _plain_or_gz(path: Path) -> Path | None:
    return next(filter(Path.is_file, (path, path.with_name(f"{path.name}.gz"))), None)


def _download(root: Path, raw: Path) -> None:
    """Let torchvision download, beside `raw` first: a failed download leaves no file behind."""
    from torchvision.datasets import FashionMNIST

    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as temporary:
        FashionMNIST(temporary, download=True)
        raw.mkdir(parents=True, exist_ok=True)
        for file in Path(temporary, "FashionMNIST", "raw").iterdir():
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


def _damaged(path: Path, fault: str) -> ValueError:
    return ValueError(f"{path} is damaged: {fault}. Delete it and get it again with `make data`")
