"""Each dataset's loader reads small files in that dataset's own format, and says which file is missing or damaged."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import tracemalloc

import numpy as np
import pytest
import scipy.io
from dataset_files import idx, pixels, write_fashion_mnist
from torchvision import datasets

from kit.data import fashion_mnist, load_data
from kit.data.fashion_mnist import FILES, read_idx

TRAIN, TEST = 40, 20


def md5(path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def fashion_root(tmp_path, monkeypatch):
    """Return a root with 40 training and 20 test images, the training files gzipped, and no Debian package."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    raw = tmp_path / "FashionMNIST" / "raw"
    write_fashion_mnist(raw, TRAIN, TEST, side=28)
    for name in FILES[:2]:
        (raw / f"{name}.gz").write_bytes(gzip.compress((raw / name).read_bytes()))
        (raw / name).unlink()
    return tmp_path


def test_fashion_mnist_gzipped_or_not(fashion_root):
    data = load_data("fashion-mnist", fashion_root)
    raw = fashion_root / "FashionMNIST" / "raw"
    assert (len(data.train), len(data.val), len(data.test), data.shape) == (36, 4, 20, (1, 28, 28))
    assert data.test.images.numpy().tobytes() == (raw / FILES[2]).read_bytes()[16:]
    assert data.test.labels.tolist() == [i % 10 for i in range(20)]
    assert data.classes[9] == "Ankle boot" and data.augmentation == "shift-flip"


def test_fashion_mnist_falls_back_to_debians_files(fashion_root, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN", fashion_root / "FashionMNIST" / "raw")
    assert len(load_data("fashion-mnist", fashion_root / "elsewhere").test) == 20


def test_a_missing_fashion_mnist_names_the_three_ways(fashion_root):
    (fashion_root / "FashionMNIST" / "raw" / FILES[3]).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load_data("fashion-mnist", fashion_root)
    for part in (f"missing: {FILES[3]}", "`make data`", "apt-get install dataset-fashion-mnist", "FashionMNIST/raw"):
        assert part in str(caught.value)


def test_nothing_is_downloaded_unless_asked_and_a_failed_download_is_told(fashion_root, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setattr(datasets.FashionMNIST, "download", offline)
    with pytest.raises(FileNotFoundError, match="^fashion-mnist is neither in"):
        load_data("fashion-mnist", fashion_root / "empty")
    with pytest.raises(FileNotFoundError, match="the download failed .network is unreachable., and fashion-mnist is"):
        load_data("fashion-mnist", fashion_root / "empty", download=True)
    assert list((fashion_root / "empty").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"\x00\x00\x08", "3 bytes, but its header alone has 8"),
        (idx(np.zeros((2, 2, 2), np.uint8)), "magic number 2051, but expected 2049"),
        (idx(np.zeros(5, np.uint8))[:-1], r"its header promises \[5\] bytes, but 4 follow"),
        (idx(np.zeros(5, np.uint8)) + b"\x00", r"its header promises \[5\] bytes, but 6 follow"),
        (idx(np.zeros(0, np.uint8)), r"its header promises \[0\] bytes"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_damaged_idx_file_is_named_with_its_fault(tmp_path, content, fault, zipped):
    path = tmp_path / ("labels.gz" if zipped else "labels")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(ValueError, match=f"{path} is damaged: {fault}.*get it again with `make data`"):
        read_idx(path, 1)


WHOLE = gzip.compress(idx(pixels(50, 9, 9)))


@pytest.mark.parametrize("content", [b"not gzip", WHOLE[:-9], WHOLE[:2000], WHOLE[:2000] + bytes(200) + WHOLE[2200:]])
def test_a_damaged_gzip_file_is_named(tmp_path, content):
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is damaged: not a whole gzip file"):
        read_idx(path, 3)


@pytest.mark.parametrize(
    ("shape", "fault"),
    [
        ((5,), r"its header promises \[5\] bytes, but 6 follow, or more"),
        ((2**30,), r"its header promises \[1073741824\] bytes, but expected 1 to 47040000"),
        ((2**32 - 1,) * 3, r"its header promises \[4294967295, .*\] bytes, but expected 1 to 47040000"),
    ],
)
def test_a_gzip_bomb_is_refused_before_it_is_inflated(tmp_path, shape, fault):
    path = tmp_path / "bomb.gz"
    header = struct.pack(f">{1 + len(shape)}I", 0x0800 + len(shape), *shape)
    path.write_bytes(gzip.compress(header) + gzip.compress(bytes(2**20)) * 1024)  # 1 GiB in 1 MB
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"{path} is damaged: {fault}"):
            read_idx(path, len(shape))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_fashion_mnist_labels_that_do_not_fit(fashion_root):
    path = fashion_root / "FashionMNIST" / "raw" / FILES[3]
    path.write_bytes(idx(np.full(19, 3, np.uint8)))
    with pytest.raises(ValueError, match="holds 20 images, but .* holds 19 labels"):
        load_data("fashion-mnist", fashion_root)
    path.write_bytes(idx(np.full(20, 11, np.uint8)))
    with pytest.raises(ValueError, match="test labels: 11 at position 0, but 10 classes are numbered 0 to 9"):
        load_data("fashion-mnist", fashion_root)


def write_cifar(root, monkeypatch, cls, parts, key, names) -> dict:
    """Write pickled batches of images (n, 3072) as published, and give torchvision's class their checksums."""
    folder, written = root / cls.base_folder, {}
    folder.mkdir(exist_ok=True)
    for part, n in parts.items():
        written[part] = pixels(n, 3072)
        entry = {"data": written[part], key: [i % len(names) for i in range(n)]}
        (folder / part).write_bytes(pickle.dumps(entry))
    (folder / cls.meta["filename"]).write_bytes(pickle.dumps({cls.meta["key"]: names}))
    listed = [[part, md5(folder / part)] for part in parts]
    monkeypatch.setattr(cls, "train_list", listed[:-1])
    monkeypatch.setattr(cls, "test_list", listed[-1:])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": md5(folder / cls.meta["filename"])})
    return written


def test_cifar10(tmp_path, monkeypatch):
    names = [f"class {i}" for i in range(10)]
    parts = {"data_batch_1": 20, "data_batch_2": 20, "test_batch": 20}
    written = write_cifar(tmp_path, monkeypatch, datasets.CIFAR10, parts, "labels", names)
    data = load_data("cifar10", tmp_path)
    assert data.shape == (3, 32, 32) and data.classes == tuple(names) and data.augmentation == "crop-flip"
    assert np.array_equal(data.test.images.flatten(1).numpy(), written["test_batch"])  # planes R, G, B, row by row
    assert data.test.images.is_contiguous() and data.test.labels.tolist() == [i % 10 for i in range(20)]
    assert data.mean.shape == data.std.shape == (3,)

    batch = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    batch.write_bytes(batch.read_bytes()[:-5])
    fetch = f"`python -m kit.data cifar10 --root {tmp_path}`"
    with pytest.raises(ValueError, match=f"cifar10: {batch} is damaged .*{fetch}"):
        load_data("cifar10", tmp_path)
    batch.unlink()
    with pytest.raises(FileNotFoundError, match=f"cifar10: {batch} not found; put the published file there, or run"):
        load_data("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("member", "kind", "message"),
    [
        ("../outside", tarfile.REGTYPE, "outside the destination"),
        ("cifar-10-batches-py/link", tarfile.SYMTYPE, "outside the destination|absolute path"),
        ("cifar-10-batches-py/hard", tarfile.LNKTYPE, "outside the destination|absolute path"),
        ("cifar-10-batches-py/device", tarfile.CHRTYPE, "is a special file"),
        ("cifar-10-batches-py/fifo", tarfile.FIFOTYPE, "is a special file"),
    ],
)
def test_an_archive_that_leads_elsewhere_is_not_unpacked(tmp_path, monkeypatch, member, kind, message):
    root = tmp_path / "root"
    root.mkdir()
    entry = tarfile.TarInfo(member)
    entry.type, entry.linkname = kind, "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    with tarfile.open(root / datasets.CIFAR10.filename, "w:gz") as archive:
        archive.addfile(entry, io.BytesIO())
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(root / datasets.CIFAR10.filename))
    with pytest.raises(FileNotFoundError, match=f"cifar10: .*the download failed: .*({message})"):
        load_data("cifar10", root, download=True)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert [path.name for path in root.rglob("*") if not path.is_dir()] == [datasets.CIFAR10.filename]


def test_a_published_archive_is_unpacked(tmp_path, monkeypatch):
    cls, names = datasets.CIFAR10, [f"class {i}" for i in range(10)]
    write_cifar(tmp_path, monkeypatch, cls, {"data_batch_1": 40, "test_batch": 20}, "labels", names)
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / cls.filename, "w:gz") as archive:
        archive.add(tmp_path / cls.base_folder, cls.base_folder)
    monkeypatch.setattr(cls, "tgz_md5", md5(root / cls.filename))
    assert load_data("cifar10", root, download=True).fingerprint() == load_data("cifar10", tmp_path).fingerprint()


def test_cifar100_has_its_fine_labels(tmp_path, monkeypatch):
    names = [f"class {i}" for i in range(100)]
    write_cifar(tmp_path, monkeypatch, datasets.CIFAR100, {"train": 300, "test": 100}, "fine_labels", names)
    data = load_data("cifar100", tmp_path, image_size=16)
    assert data.num_classes == 100 and data.shape == (3, 16, 16) and data.test.labels.tolist() == list(range(100))


def test_svhn_counts_ten_as_zero(tmp_path, monkeypatch):
    test = pixels(20, 32, 32, 3)
    for part, array in {"train": pixels(40, 32, 32, 3), "test": test}.items():
        path = tmp_path / f"{part}_32x32.mat"
        y = (np.arange(len(array)) % 10 + 1).reshape(-1, 1).astype(np.uint8)  # 1 to 10, as published
        scipy.io.savemat(path, {"X": array.transpose(1, 2, 3, 0), "y": y})
        monkeypatch.setitem(datasets.SVHN.split_list, part, ["", path.name, md5(path)])
    data = load_data("svhn", tmp_path)
    assert np.array_equal(data.test.images.permute(0, 2, 3, 1).numpy(), test) and data.augmentation == "shift"
    assert data.test.labels.tolist() == [(i % 10 + 1) % 10 for i in range(20)]
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(FileNotFoundError, match="svhn: .*test_32x32.mat not found"):
        load_data("svhn", tmp_path)


def test_stl10_is_column_major_and_counts_from_one(tmp_path, monkeypatch):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    test = pixels(20, 3, 96, 96)
    contents = {"train_X.bin": pixels(30, 3, 96, 96), "train_y.bin": np.arange(30) % 10 + 1}
    contents |= {"unlabeled_X.bin": pixels(1, 3, 96, 96), "test_X.bin": test, "test_y.bin": np.arange(20) % 10 + 1}
    for name, array in contents.items():
        array = array.transpose(0, 1, 3, 2) if array.ndim == 4 else array
        (folder / name).write_bytes(array.astype(np.uint8).tobytes())
    listed = [[name, md5(folder / name)] for name in contents]
    monkeypatch.setattr(datasets.STL10, "train_list", listed[:3])
    monkeypatch.setattr(datasets.STL10, "test_list", listed[3:])
    data = load_data("stl10", tmp_path)
    assert np.array_equal(data.test.images.numpy(), test) and data.shape == (3, 96, 96)
    assert data.test.labels.tolist() == [i % 10 for i in range(20)] and data.classes[7] == "monkey"
    (folder / "train_y.bin").write_bytes(b"\x00" * 30)
    with pytest.raises(ValueError, match="stl10: .*train_y.bin is damaged"):
        load_data("stl10", tmp_path)
