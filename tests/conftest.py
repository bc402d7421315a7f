"""Every test: one thread, a fixed seed, no window."""

import multiprocessing
import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for notebooks and other processes that tests start

import numpy as np
import pytest
import torch

# Processes that tests fork off multiprocessing's server, started where one is first asked for, find this imported.
multiprocessing.set_forkserver_preload(
    ["kit.train", "kit.pipeline.rank", "pandas", "pytest", "sklearn.datasets", "torch._dynamo", "torchvision"]
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    """Long tests first, so that no worker of pytest-xdist ends with one.

    Fault injection is left to `make test-all`: minutes of killing processes, at the mercy of timing.
    """
    items.sort(key=lambda item: "slow" not in item.keywords)
    if not os.environ.get("KIT_FAULTS"):
        for item in items:
            if "faults" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="kills and stops processes for minutes: run make test-all"))
