"""Memory-allocator settings that make CPU training faster: `python -m kit.cpu_allocator COMMAND…` runs it with them.

Training allocates tensors of many megabytes and frees them a moment later. glibc maps each of those from the system
and gives it back, so that the kernel clears every page again at every step; that clearing takes about half of a bf16
step. The settings below keep freed memory in the process and use huge pages. They must be in the environment before a
process starts, so whoever starts one sets them: `make`, the notebook runner, the pipeline's launcher.

What it costs: the process keeps its peak memory until it ends, and that peak is higher by a tenth (DeInfoReg on the
paper's VGG) to a quarter (backprop on it), as `benchmarks/step_time.py` measures.
"""

import os
import platform
import sys
from pathlib import Path

_TUNABLES = {
    "glibc.malloc.hugetlb": 1,  # ask for transparent huge pages
    "glibc.malloc.mmap_max": 0,  # large tensors from the heap, not from a mapping each
    "glibc.malloc.trim_threshold": 1 << 40,  # never give the top of the heap back
}

NVIDIA = Path("/proc/driver/nvidia/version")


def environment() -> dict[str, str]:
    """Return the variables to add to a new process's environment; empty where they would not help.

    That is: not glibc (macOS, musl, Windows), or a machine with an NVIDIA GPU, whose tensors have an allocator of
    their own. Variables that the user has set already win.
    """
    if platform.libc_ver()[0] != "glibc" or NVIDIA.exists():
        return {}
    chosen = dict(item.split("=", 1) for item in os.environ.get("GLIBC_TUNABLES", "").split(":") if "=" in item)
    tunables = {name: str(value) for name, value in _TUNABLES.items()} | chosen
    return {
        "GLIBC_TUNABLES": ":".join(f"{name}={value}" for name, value in tunables.items()),
        "THP_MEM_ALLOC_ENABLE": os.environ.get("THP_MEM_ALLOC_ENABLE", "1"),  # huge pages for PyTorch's own buffers
    }


def main(command: list[str]) -> None:
    """Become `command`, with the settings in its environment."""
    if not command:
        sys.exit("usage: python -m kit.cpu_allocator COMMAND [ARGUMENT…]")
    try:
        os.execvpe(command[0], command, os.environ | environment())
    except OSError as error:
        sys.exit(f"kit.cpu_allocator: cannot run {command[0]!r}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
