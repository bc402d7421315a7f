"""Replicas that share a batch: the whole batch's step with global statistics, a shard's with local ones."""

import pytest
import torch

import kit
from kit import checkpoints
from kit.pipeline.options import Place
from kit.pipeline.stage import shard_sizes
from tests.pipeline.ranks import on_ranks, run_all
from tests.pipeline.test_exact import SETTINGS, assert_equal

CASES = {
    "deinforeg": SETTINGS | {"method": "deinforeg", "options": {"widths": [16, 16], "variant": "scaled"}},
    "dgl": SETTINGS | {"method": "dgl", "backbone": "vgg-paper", "backbone_options": {}, "width": 0.03},
}
# Few steps: sums in another order differ by 1e-7, and sooner or later that puts a ReLU or a maximum on its other side,
# after which two runs part for good. Odd batches, so that shares of a batch differ.
CASES = {name: case | {"optimizer": "sgd", "lr": 0.02, "batch_size": 61, "limit": 200} for name, case in CASES.items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Every case on 2 × 2 ranks, and on 2 × 1; with batches of odd size, which cannot be shared evenly."""
    folder = tmp_path_factory.mktemp("replicas")
    kinds = {"global": (4, "global"), "thin": (2, "global"), "local": (4, "local")}
    runs = [
        (case | {"output": str(folder / f"{name}-{kind}")}, ranks, {"num_replicas": 2, "statistics": statistics})
        for name, case in CASES.items()
        for kind, (ranks, statistics) in kinds.items()
    ]
    on_ranks(run_all, 4, folder, runs=runs, store=str(folder / "store"), dropout=False)
    return folder


@pytest.mark.parametrize("kind", ["global", "thin"])
@pytest.mark.parametrize("name", CASES)
def test_global_statistics_equal_one_process_on_the_whole_batch(name, kind, finished, tmp_path):
    history = kit.run(kit.RunConfig(**CASES[name], output=str(tmp_path)))
    one, many = (
        torch.load(folder / checkpoints.LATEST, weights_only=True)["blocks"]
        for folder in (tmp_path, finished / f"{name}-{kind}")
    )
    worst = 0.0
    for mine, theirs in zip(one, many, strict=True):
        assert mine["module"].keys() == theirs["module"].keys()
        for key, value in mine["module"].items():
            worst = max(worst, (value - theirs["module"][key]).abs().max().item())
    print(f"{name}, {kind}: largest difference of a weight or running statistic {worst:.1e}")
    assert worst < 1e-5
    table = kit.History.load(finished / f"{name}-{kind}").table
    losses = [t[t["split"] == "train"]["value"].to_numpy() for t in (history.table, table)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_local_statistics_are_another_computation(name, finished):
    tables = [kit.History.load(finished / f"{name}-{kind}").table for kind in ("local", "global")]
    train = [t[t["split"] == "train"]["value"].to_numpy() for t in tables]
    assert train[0] == pytest.approx(train[1], rel=0.5)
    assert abs(train[0] - train[1]).max() > 1e-4


@pytest.mark.parametrize("name", CASES)
def test_the_pipeline_changes_no_bit_of_what_replicas_compute(name, finished):
    one, two = (
        torch.load(finished / f"{name}-{kind}" / checkpoints.LATEST, weights_only=True) for kind in ("thin", "global")
    )
    assert_equal(one["blocks"], two["blocks"])


def test_shards_make_up_the_batch():
    data = kit.load_data("digits", limit=100, val_fraction=0.3)
    assert shard_sizes(data, "train", 32, 3) == [[11, 11, 10], [11, 11, 10], [2, 2, 2]]
    assert shard_sizes(data, "val", 512, 4) == [[8, 8, 7, 7]]


def test_places_in_the_mesh():
    assert [(Place(r, 2, 2).replica, Place(r, 2, 2).stage) for r in range(4)] == [(0, 0), (0, 1), (1, 0), (1, 1)]
