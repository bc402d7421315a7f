"""`python -m kit.data [NAME] [--root data]`: have a dataset at hand, and say where it is or how it was got."""

import argparse
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from kit.data import fashion_mnist
from kit.data.readers import DATASETS

DEBIAN_PACKAGE = "dataset-fashion-mnist"


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
        how = get_fashion_mnist(root) if name == "fashion-mnist" else f"in {root}"
        train, test, _ = DATASETS[name][0](root, True)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    how = "with scikit-learn" if name == "digits" else how
    print(f"{name}: {len(train[1])} training and {len(test[1])} test images {how}")
    return 0


def get_fashion_mnist(root: Path) -> str:
    """Have Fashion-MNIST: there already, else by torchvision's download, else by Debian's package as root.

    Returns how and where. Raises FileNotFoundError if all three fail.
    """
    try:
        return f"already in {fashion_mnist.find_files(root)[0].parent}"
    except FileNotFoundError:
        pass
    try:
        fashion_mnist.download_files(root)
        return f"downloaded to {fashion_mnist.find_files(root)[0].parent}"
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        print(f"fashion-mnist: torchvision's download failed ({reason[-1]})", file=sys.stderr)
    if shutil.which("apt-get") and os.geteuid() == 0:
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", DEBIAN_PACKAGE]):
            print(f"fashion-mnist: {' '.join(command)}", flush=True)
            if subprocess.run(command).returncode:
                print(f"fashion-mnist: `{' '.join(command)}` failed", file=sys.stderr)
    return f"now in {fashion_mnist.find_files(root)[0].parent}"


if __name__ == "__main__":
    sys.exit(main())
