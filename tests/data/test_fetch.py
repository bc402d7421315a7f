"""`python -m kit.data`, with network and apt-get played by the test."""

import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from dataset_files import write_fashion_mnist as write
from torchvision import datasets

from kit.data import __main__ as command
from kit.data import fashion_mnist


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Return an empty root, offline, without rights or packages, and the list of commands that get run."""

    def offline(self):
        raise RuntimeError("Error downloading\nnetwork is unreachable")

    ran = []

    def run(arguments, **options):
        ran.append(arguments)
        if "install" in arguments:
            write(tmp_path / "debian")
        return subprocess.CompletedProcess(arguments, 0)

    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(datasets.FashionMNIST, "download", offline)
    monkeypatch.setattr(socket, "setdefaulttimeout", lambda seconds: None)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(command.os, "geteuid", lambda: 1000)
    return tmp_path, ran


def run(root: Path, *arguments: str) -> int:
    return command.main([*arguments, "--root", str(root / "data")])


def test_what_is_there_is_left_alone(world, capsys):
    root, ran = world
    write(root / "data" / "FashionMNIST" / "raw")
    assert run(root) == 0 and not ran
    assert capsys.readouterr().out == f"fashion-mnist: 20 training and 20 test images in {root}/data/FashionMNIST/raw\n"


def test_torchvisions_download_comes_first(world, monkeypatch, capsys):
    root, ran = world
    monkeypatch.setattr(datasets.FashionMNIST, "download", lambda self: write(Path(self.raw_folder)))
    assert run(root, "fashion-mnist") == 0 and not ran
    assert capsys.readouterr().out == f"fashion-mnist: 20 training and 20 test images in {root}/data/FashionMNIST/raw\n"
    assert [path.name for path in (root / "data").iterdir()] == ["FashionMNIST"]


def test_then_debians_package_as_root(world, monkeypatch, capsys):
    root, ran = world
    monkeypatch.setattr(command.os, "geteuid", lambda: 0)
    assert run(root) == 0
    assert ran == [["apt-get", "update"], ["apt-get", "install", "-y", "dataset-fashion-mnist"]]
    output = capsys.readouterr()
    assert "the download failed (Error downloading network is unreachable)" in output.err
    assert output.out == f"fashion-mnist: 20 training and 20 test images in {root}/debian\n"


def test_then_a_clear_error(world, capsys):
    root, ran = world
    assert run(root) == 1 and not ran
    assert (
        "error: the download failed (Error downloading network is unreachable), and fashion-mnist is neither in"
        in capsys.readouterr().err
    )


def test_a_damaged_file_is_an_error_not_a_download(world, capsys):
    root, _ = world
    write(root / "data" / "FashionMNIST" / "raw")
    (root / "data" / "FashionMNIST" / "raw" / fashion_mnist.FILES[0]).write_bytes(b"")
    assert run(root) == 1
    assert "train-images-idx3-ubyte is damaged" in capsys.readouterr().err


def test_other_datasets(world, monkeypatch, capsys):
    root, _ = world
    assert run(root, "digits") == 0
    assert capsys.readouterr().out == "digits: 1438 training and 359 test images with scikit-learn\n"

    def offline(*arguments):
        raise OSError("network is unreachable")

    monkeypatch.setattr(datasets.utils, "download_url", offline)
    assert run(root, "cifar10") == 1
    assert "data_batch_1 not found" in (message := capsys.readouterr().err) and "network is unreachable" in message
    with pytest.raises(SystemExit):
        run(root, "cifar11")
