"""Fashion-MNIST: where its four IDX files may lie, and how to read and fetch them."""

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


def find_fashion(root: Path) -> list[Path]:
    """Return the four IDX files (plain or .gz): those of `root/FashionMNIST/raw`, else those of Debian's package.

    Raises FileNotFoundError, naming the three ways to get them, if neither folder holds all four.
    """
    raw = root / "FashionMNIST" / "raw"
    for folder in (raw, DEBIAN):
        found = [_plain_or_gz(folder, name) for name in FILES]
        if all(found):
            return found
    missing = ", ".join(name for name in FILES if not _plain_or_gz(raw, name))
    raise FileNotFoundError(
        f"fashion-mnist is neither in {raw} (missing: {missing}) nor in {DEBIAN}. Get it in one of three ways: "
        "run `make data`; or, on Debian as root, `apt-get install dataset-fashion-mnist`; "
        f"or put the four IDX files, gzipped or not, into {raw}"
    )


def read_fashion(files: list[Path]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return train images (N, 1, H, W) and labels (N,), then the test ones, all uint8; `files` as from `find_fashion`.

    Raises ValueError naming the file if one is damaged, or if images and labels differ in number.
    """
    pairs = []
    for images_file, labels_file in (files[:2], files[2:]):
        images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
        if len(images) != len(labels):
            raise ValueError(
                f"{images_file} holds {len(images)} images, but {labels_file} holds {len(labels)} labels; "
                "they are not of one dataset: delete both and get them again"
            )
        pairs += [images.unsqueeze(1), labels]
    return tuple(pairs)


def read_idx(path: Path, num_dims: int) -> Tensor:
    """Read one IDX file of unsigned bytes, gzipped if its name ends in .gz, as a uint8 tensor of `num_dims` dimensions.

    Raises ValueError naming the file and the fault: bad gzip, other magic number, a length the header does not promise.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _damaged(path, f"not a whole gzip file ({error})") from error
    start = 4 + 4 * num_dims
    if len(content) < start:
        raise _damaged(path, f"{len(content)} bytes, but its header alone has {start}")
    magic, *shape = struct.unpack(f">{1 + num_dims}I", content[:start])
    if magic != 0x0800 + num_dims:
        raise _damaged(path, f"magic number {magic}, but expected {0x0800 + num_dims}")
    if 0 in shape or math.prod(shape) != len(content) - start:
        raise _damaged(path, f"its header promises {shape} bytes, but {len(content) - start} follow")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)


def download_fashion(root: Path) -> None:
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


def _plain_or_gz(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _damaged(path: Path, fault: str) -> ValueError:
    return ValueError(f"{path} is damaged: {fault}. Delete it and get it again with `make data`")
