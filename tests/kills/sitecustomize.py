"""Ends a process, as kill -9 does, at the first file it renames or removes at which none was ended before.

Python imports it at its start from a folder of PYTHONPATH. KIT_KILL is a pattern of the paths that count, KIT_KILLED
the file that keeps the points: start after start, every such call has its kill.
"""

import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path


def _watch(pattern: str, killed: Path) -> None:
    passed: Counter[str] = Counter()

    def hook(event: str, arguments: tuple) -> None:
        if event not in ("os.rename", "os.remove", "os.rmdir") or arguments[-1] != -1:  # relative to no open folder
            return
        path = os.path.abspath(arguments[0])
        if re.search(pattern, path) and "__pycache__" not in path:
            point = f"{event} {re.sub(r'[-.][0-9a-z_]{8}(?=[./]|$)', '', path)}"
            passed[point] += 1
            point = f"{point} {passed[point]}\n"
            with killed.open("a+") as file:
                file.seek(0)
                if point not in file.readlines():
                    file.write(point)
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if "KIT_KILL" in os.environ:
    _watch(os.environ["KIT_KILL"], Path(os.environ["KIT_KILLED"]))
