"""The pipeline's promise: over any number of processes, bit for bit what one process computes."""

import pandas as pd
import pytest
import torch

import kit
from kit.methods import REGISTRY
from kit.train import checkpoint
from tests.pipeline.ranks import in_one_process, on_ranks, run_all

SETTINGS = dict(
    backbone="mlp",
    backbone_options={"depth": 4, "norm": "batch", "hidden": 24},
    num_blocks=4,
    epochs=1,  # 21 steps of 64 images, the last of 14
    batch_size=64,
    precision="fp32",
    augment="shift",
    lr=0.01,
)
CASES = {
    name: SETTINGS | {"method": name, "options": {"widths": [16, 16]} if name == "deinforeg" else {}}
    for name in REGISTRY
}
LATE = {"beta": 0.5, "flush": "end"}
CASES |= {name: CASES[name] | {"epochs": 2, "options": LATE} for name, known in REGISTRY.items() if known.delay}
CASES["context"] = CASES["deinforeg"] | {"context": "R2E"}
CASES["bf16 images"] = SETTINGS | {
    "method": "dgl",
    "backbone": "vgg-paper",
    "backbone_options": {},
    "width": 0.03,
    "precision": "bf16",
    "limit": 200,
}
STAGES = {name: (1,) if name == "bp" else (1, 2, 4) for name in CASES}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """All cases on 1, 2 and 4 ranks, in one start of processes; the folder of each."""
    folder = tmp_path_factory.mktemp("exact")
    runs = [
        (CASES[name] | {"output": str(folder / f"{name}-{stages}")}, stages, {})
        for name in CASES
        for stages in STAGES[name]
    ]
    on_ranks(run_all, 4, folder, runs=runs, store=str(folder / "store"))
    return folder


@pytest.mark.parametrize("name", CASES)
def test_many_processes_give_what_one_gives(name, finished, tmp_path):
    history = in_one_process(CASES[name] | {"output": str(tmp_path)})
    assert history.table["step"].max() >= (2 if name == "bf16 images" else 20)
    for stages in STAGES[name]:
        folder = finished / f"{name}-{stages}"
        pd.testing.assert_frame_equal(kit.History.load(folder).table, history.table, check_exact=True)
        assert_same_state(tmp_path, folder)


def assert_same_state(one, other):
    """Weights, running statistics, optimizers, step counts; of the end and of the best epoch."""
    (mine, position), (theirs, there) = (state_of(folder) for folder in (one, other))
    assert_equal(mine, theirs)
    assert position == there
    assert_equal(*(checkpoint.weights(folder, "best") for folder in (one, other)))


def state_of(folder):
    """Return what every block keeps for going on, first to last, and the run's position."""
    path = checkpoint.latest(folder)
    (run,) = checkpoint.load(path, ["run"])
    return checkpoint.load(path, [f"block{k}" for k in range(run["num_blocks"])]), run["position"]


def assert_equal(a, b, where="state"):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}.{i}")
    else:
        assert a == b, where
