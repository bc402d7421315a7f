"""Blocks trained one after another: finished ones stay, kept outputs are the outputs, and a stop loses nothing."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import kit
from kit import pipeline
from kit.signal import Signal
from kit.train import build, checkpoint, load_data, stagewise

SETTINGS = {
    "backbone": "mlp",
    "backbone_options": {"depth": 3, "hidden": 16},
    "method": "al",
    "options": {"code": 6, "hidden": 12},
    "context": "R1E",
    "num_blocks": 3,
    "epochs": 2,
    "batch_size": 32,
    "limit": 100,
    "precision": "fp32",
    "stagewise": True,
}


def config(folder=None, **changes):
    return kit.RunConfig(**SETTINGS | {"output": folder and str(folder), "augment": "none"} | changes)


def weights(folder):
    return checkpoint.weights(folder, "step")


def same(a, b):
    return all(torch.equal(one[n], other[n]) for one, other in zip(a, b, strict=True) for n in one)


@pytest.mark.parametrize("augment", ["none", "shift"])
def test_a_block_learns_in_its_epochs_only(augment):
    seen = []

    def remember(epoch, net):
        seen.append([{name: value.clone() for name, value in block.state_dict().items()} for block in net])

    history = kit.run(config(augment=augment), remember)
    assert len(seen) == 6
    for epoch, (before, after) in enumerate(zip(seen, seen[1:], strict=False), 1):
        changed = [not same([a], [b]) for a, b in zip(before, after, strict=True)]
        assert changed == [k == epoch // 2 for k in range(3)]
    assert history.accuracy("test").notna().sum().tolist() == [6, 4, 2]


def test_outputs_in_files_are_those_in_memory(tmp_path, monkeypatch):
    one = kit.run(config(tmp_path / "memory"))
    monkeypatch.setattr(stagewise.psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    other = kit.run(config(tmp_path / "files"))
    pd.testing.assert_frame_equal(one.table, other.table, check_exact=True)
    left = [{path.name for path in (tmp_path / where).iterdir()} for where in ("memory", "files")]
    assert left[0] == left[1], "the files have no name, so that nothing is left of them"


def test_what_is_kept_is_what_the_blocks_before_give(tmp_path):
    given = config()
    loaded = load_data(given)
    net = build(given, loaded).eval()
    (x, y), *_ = loaded.batches("train", 64)
    expected = stagewise.through(net.blocks[:2], net.signal(x, y))
    halves = [stagewise.through(net.blocks[:2], net.signal(x[i : i + 32], y[i : i + 32])) for i in (0, 32)]
    kept = stagewise.Outputs(net[2], iter(halves), 64, tmp_path).take(torch.arange(64), torch.device("cpu"))
    for name in ("h", "y", "x", "target"):
        assert torch.allclose(getattr(kept, name), getattr(expected, name), atol=1e-6)
    assert len(kept.context) == len(expected.context) == 1
    assert torch.equal(kept.context[0], expected.context[0])


def test_one_block_is_the_usual_run(tmp_path):
    for name, value in (("usual", False), ("stagewise", True)):
        kit.run(config(tmp_path / name, num_blocks=1, context="none", augment="shift", stagewise=value))
    assert same([weights(tmp_path / "usual")], [weights(tmp_path / "stagewise")])


def test_a_run_stopped_in_a_stage_ends_as_one_that_was_not(tmp_path):
    whole = kit.run(config(tmp_path / "whole"))

    def stop(epoch, net):
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kit.run(config(tmp_path / "stopped"), stop)
    again = kit.run(config(tmp_path / "stopped"))
    pd.testing.assert_frame_equal(whole.table, again.table, check_exact=True)
    assert same([weights(tmp_path / "whole")], [weights(tmp_path / "stopped")])


def test_a_disk_that_is_too_small_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(stagewise.psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    signal = Signal(torch.zeros(1, 2**20), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"one block's outputs for 1000000000 images take .* GiB left: choose"):
        stagewise.Outputs(None, iter([signal]), 10**9, tmp_path)


def test_the_pipeline_refuses():
    with pytest.raises(ValueError, match="stagewise=True trains one block at a time.*kit.run"):
        pipeline.launch(config())
