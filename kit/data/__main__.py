"""`python -m kit.data [NAME] [--root data]`: have a dataset at hand, and say where it is."""

import argparse
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from kit.data.fashion_mnist import find_files
from kit.data.readers import DATASETS


def main(arguments: list[str] | None = None) -> int:
    """Fetch the dataset named on the command line; return 0, or 1 after printing one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m kit.data", description="Fetch a dataset, if it is not there.")
    names = f"one of {', '.join(DATASETS)} (default: fashion-mnist)"
    parser.add_argument("name", nargs="?", default="fashion-mnist", choices=DATASETS, metavar="NAME", help=names)
    parser.add_argument("--root", type=Path, default=Path("data"), help="the folder of datasets (default: data)")
    options = parser.parse_args(arguments)
    name, root = options.name, options.root.expanduser().absolute()
    socket.setdefaulttimeout(30)  # seconds; behind a firewall a download would otherwise hang for ever
    try:
        train, test, _ = _read(name, root)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    where = f"in {find_files(root)[0].parent if name == 'fashion-mnist' else root}"
    where = "with scikit-learn" if name == "digits" else where
    print(f"{name}: {len(train[1])} training and {len(test[1])} test images {where}")
    return 0


def _read(name: str, root: Path) -> tuple:
    """Read what is there, else what torchvision downloads, else, for Fashion-MNIST and as root, Debian's package."""
    read, _ = DATASETS[name]
    try:
        return read(root, True)
    except FileNotFoundError as error:
        if name != "fashion-mnist" or not shutil.which("apt-get") or os.geteuid() != 0:
            raise
        print(f"{error}; installing Debian's package now", file=sys.stderr)
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "dataset-fashion-mnist"]):
        if subprocess.run(command).returncode:
            print(f"`{' '.join(command)}` failed", file=sys.stderr)
    return read(root, False)


if __name__ == "__main__":
    sys.exit(main())
