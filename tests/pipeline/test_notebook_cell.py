"""`launch` in a notebook: it works from a cell, and interrupting the cell leaves no process behind."""

import json
import sys
import time

import psutil
import pytest
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from tests.pipeline.ranks import ROOT
from tests.pipeline.test_exact import SETTINGS

CELL = """
import kit, json
history = kit.pipeline.launch(kit.RunConfig(**json.loads({settings!r})), num_stages=2, threads=1)
print("exits:", history.accuracy("val").shape[1])
"""


class ThisPython(KernelManager):
    kernel_spec = KernelSpec(**get_kernel_dict())


@pytest.fixture
def kernel():
    assert sys.executable in ThisPython.kernel_spec.argv
    manager = ThisPython()
    manager.start_kernel(cwd=str(ROOT))
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def cell(**changes):
    return CELL.format(settings=json.dumps(SETTINGS | {"method": "greedy", "output": None} | changes))


def ranks_of(manager):
    return psutil.Process(manager.provisioner.pid).children(recursive=True)


@pytest.mark.faults
def test_launch_from_a_cell_then_interrupt_another(kernel):
    manager, client = kernel
    printed = []

    def note(message):
        content = message["content"]
        printed.append(content.get("text", "") + content.get("evalue", ""))

    answer = client.execute_interactive(cell(), timeout=120, output_hook=note)
    assert answer["content"]["status"] == "ok", printed
    assert "epoch   1/1" in "".join(printed) and "exits: 4" in "".join(printed)
    assert not ranks_of(manager)

    client.execute(cell(epochs=500))
    end = time.monotonic() + 60
    while len(ranks_of(manager)) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    time.sleep(3)
    manager.interrupt_kernel()
    answer = client.get_shell_msg(timeout=30)
    assert answer["content"]["ename"] == "KeyboardInterrupt"
    assert not ranks_of(manager)
    assert client.execute_interactive("1 + 1", timeout=20)["content"]["status"] == "ok"
