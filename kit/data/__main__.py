"""`python -m kit.data [NAME] [--root data]`: have a dataset at hand, and say where it is or how it was got."""

import argparse
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from kit.data.fashion import download_fashion, find_fashion, read_fashion
from kit.data.images import DATASETS
from kit.data.readers import READERS

DEBIAN_PACKAGE = "dataset-fashion-mnist"


def main(arguments: list[str] | None = None) -> int:
    """Fetch the dataset named on the command line; return 0, or 1 after printing one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m kit.data", description="Fetch a dataset, if it is not there.")
    parser.add_argument("name", nargs="?", default="fashion-mnist", choices=DATASETS, metavar="NAME",
                        help=f"one of {', '.join(DATASETS)} (default: fashion-mnist)")  # fmt: skip
    parser.add_argument("--root", type=Path, default=Path("data"), help="the folder of datasets (default: data)")
    options = parser.parse_args(arguments)
    root = options.root.expanduser().absolute()
    socket.setdefaulttimeout(30)  # seconds; behind a firewall a download would otherwise hang for ever
    try:
        print(fetch_fashion(root) if options.name == "fashion-mnist" else fetch(options.name, root))
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def fetch(name: str, root: Path) -> str:
    """Read the dataset from `root`, torchvision downloading what is missing; return a line for the user."""
    raw = READERS[name](root, True)
    where = "with scikit-learn" if name == "digits" else f"in {root}"
    return f"{name}: {len(raw.train_labels)} training and {len(raw.test_labels)} test images {where}"


def fetch_fashion(root: Path) -> str:
    """Have Fashion-MNIST: there already, else by torchvision's download, else by Debian's package as root.

    Returns a line for the user. Raises FileNotFoundError if all three fail, ValueError if a file there is damaged.
    """
    try:
        files = find_fashion(root)
        read_fashion(files)
        return f"fashion-mnist: already in {files[0].parent}"
    except FileNotFoundError:
        pass
    try:
        download_fashion(root)
        return f"fashion-mnist: downloaded to {find_fashion(root)[0].parent}"
    except (OSError, RuntimeError) as error:
        print(f"fashion-mnist: torchvision's download failed ({_brief(error)})", file=sys.stderr)
    if shutil.which("apt-get") and os.geteuid() == 0:
        print(f"fashion-mnist: installing Debian's package {DEBIAN_PACKAGE}")
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", DEBIAN_PACKAGE]):
            if subprocess.run(command).returncode:
                print(f"fashion-mnist: `{' '.join(command)}` failed", file=sys.stderr)
    return f"fashion-mnist: now in {find_fashion(root)[0].parent}"


def _brief(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
