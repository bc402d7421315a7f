"""Small files in the formats of the datasets."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image

from kit.data.fashion_mnist import FILES

RNG = np.random.default_rng(0)


def pixels(n: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def write_fashion_mnist(folder: Path, train: int = 20, test: int = 20, side: int = 2) -> None:
    """Write four IDX files of so many images, whose labels are 0, 1, … 9, 0, 1, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for name, n in zip(FILES, (train, train, test, test), strict=True):
        (folder / name).write_bytes(
            idx(pixels(n, side, side) if "images" in name else (np.arange(n) % 10).astype("u1"))
        )


def write_jpeg(path: Path, size: tuple[int, int], colour: object, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, format="JPEG", quality=95)


def write_tiny_imagenet(root: Path, wnids: tuple[str, ...] = ("n02", "n01", "n03"), train: int = 8) -> Path:
    """Write so many training images, and 2 test images, of each class; class c is red 80 c. Return its folder."""
    base, lines = root / "tiny-imagenet-200", []
    for c, wnid in enumerate(wnids):
        for i in range(train):
            write_jpeg(base / f"train/{wnid}/images/{wnid}_{i}.JPEG", (64, 64), (80 * c, 9, 200))
    for i in range(2 * len(wnids)):
        write_jpeg(base / f"val/images/val_{i}.JPEG", (64, 64), (80 * (i % len(wnids)), 9, 200))
        lines.append(f"val_{i}.JPEG\t{wnids[i % len(wnids)]}\t0\t0\t62\t62")
    (base / "val/val_annotations.txt").write_text("\n".join(lines) + "\n")
    (base / "wnids.txt").write_text("\n".join(wnids) + "\n")
    return base


def write_imagenet(root: Path, num: dict[str, int], wnids: tuple[str, ...] = ("n01", "n02")) -> None:
    """Write images of noise, of unequal sizes: so many in each part ("train", "val") and class."""
    for part, n in num.items():
        for wnid in wnids:
            for i in range(n):
                path = root / f"imagenet/{part}/{wnid}/{i}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(RNG.integers(0, 256, (90 + i, 120, 3), dtype=np.uint8)).save(path, format="JPEG")
