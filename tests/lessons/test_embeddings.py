"""Embeddings: recorded without a trace in the training, saved whole, and refused clearly where they cannot be read."""

import json
from math import prod

import numpy as np
import pytest
import torch
from torch import nn

import kit
from kit.shapes import Shape
from kit.train import build, load_data
from lessons import embeddings


def config(**settings) -> kit.RunConfig:
    usual = {"backbone": "mlp", "backbone_options": {"depth": 2, "hidden": 16}, "method": "greedy", "num_blocks": 2}
    usual |= {"cuts": "layers", "epochs": 2, "limit": 200, "precision": "fp32", "output": None}
    return kit.RunConfig(**(usual | settings))


@pytest.fixture(scope="module")
def run():
    """A run with corrupted labels, its data and its embeddings."""
    chosen = config(noise="symmetric", noise_rate=0.4)
    data = load_data(chosen)
    recorded = embeddings.sample(data, "train", 60, seed=1, note="a test")
    net = build(chosen, data)
    kit.fit(net, data, chosen, on_epoch=recorded)
    return recorded, net, data


def test_they_are_the_stages_outputs_and_the_exits_answers(run):
    recorded, net, _ = run
    net.eval()
    h = recorded.inputs
    with torch.no_grad():
        for number, block in enumerate(net, 1):
            h = block.body(h)
            assert np.array_equal(recorded.features[2, number], h.numpy())
    expected = net.predict(recorded.inputs)
    assert all(np.array_equal(recorded.logits[2, k], logits.numpy()) for k, logits in enumerate(expected, 1))


@pytest.mark.parametrize("method", ["bp", "deinforeg"])
def test_recording_does_not_change_the_training(method):
    chosen = config(method=method, options={"widths": (16, 16)} if method == "deinforeg" else {})
    data, nets = load_data(chosen), []
    for on_epoch in (None, embeddings.sample(load_data(chosen), "test", 50)):
        nets.append(build(chosen, data))
        kit.fit(nets[-1], data, chosen, on_epoch=on_epoch)
    first, second = (net.state_dict() for net in nets)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert on_epoch.recorded_epochs == [1, 2] and on_epoch.exits == [1, 2]


def test_the_sample_is_the_same_each_time_and_knows_what_is_corrupted(run):
    recorded, _, data = run
    again = embeddings.sample(data, "train", 60, seed=1)
    assert torch.equal(again.inputs, recorded.inputs)
    assert not np.array_equal(embeddings.sample(data, "train", 60, seed=2).labels, recorded.labels)
    assert recorded.noisy.mean() == pytest.approx(float(data.train.noisy.float().mean()), abs=0.15)
    assert recorded.images.min() >= 0 and recorded.images.max() <= 1


def test_saved_and_read_again(run, tmp_path):
    recorded = run[0]
    recorded.save(tmp_path)
    read = embeddings.read_embeddings(tmp_path)
    for name in ("images", "labels", "noisy"):
        assert np.array_equal(getattr(read, name), getattr(recorded, name))
    for name in ("features", "logits"):
        mine, theirs = getattr(recorded, name), getattr(read, name)
        assert mine.keys() == theirs.keys() and all(np.array_equal(mine[key], theirs[key]) for key in mine)
    assert (read.classes, read.about) == (recorded.classes, recorded.about)
    assert read.about["method"] == "greedy" and read.about["note"] == "a test"
    assert [path.name for path in tmp_path.iterdir()] == ["embeddings.npz"]


def test_a_folder_of_runs_is_read_by_name(run, tmp_path):
    run[0].save(tmp_path / "one")
    run[0].save(tmp_path / "two")
    assert list(embeddings.read_runs(tmp_path)) == ["one", "two"]
    assert list(embeddings.read_runs(tmp_path / "one")) == ["one"]


def test_table_has_the_accuracy_on_the_sample(run):
    recorded = run[0]
    table = recorded.table().set_index(["epoch", "block", "metric"])["value"]
    assert len(table) == 2 * 2 * 4
    assert table[2, 1, "accuracy"] == (recorded.logits[2, 1].argmax(1) == recorded.labels).mean()
    assert set(recorded.table([2])["epoch"]) == {2}


def test_maps_and_tokens_are_averaged_over_places():
    """Channels last too, as Swin's blocks make maps: only the shape that a stage carries tells the two apart."""
    for made, shape, dims in (
        ((3, 4, 5), (3, 4, 5), (2, 3)),
        ((4, 5, 3), Shape((4, 5, 3), axis=-1), (1, 2)),
        ((7, 3), (7, 3), (1,)),
    ):
        recorded = embeddings.sample(load_data(config()), "test", 20)
        stages = [nn.Sequential(nn.Flatten(), nn.Linear(64, prod(made)), nn.Unflatten(1, made)), nn.Flatten()]
        net = kit.decouple(stages, "greedy", 10, recorded.inputs[:2], shapes=[shape, (prod(made),)])
        recorded(1, net)
        with torch.no_grad():
            expected = stages[0](recorded.inputs).mean(dims)
        assert np.array_equal(recorded.features[1, 1], expected.numpy())


def test_swins_maps_are_averaged_over_height_and_width():
    config_of_swin = config(backbone="swin_v2_t", backbone_options={}, image_size=32, limit=20, cuts="layers")
    data = load_data(config_of_swin)
    net = build(config_of_swin, data)
    recorded = embeddings.sample(data, "test", 10)
    recorded(1, net)
    with torch.no_grad():
        h = net.eval()[0](net.signal(recorded.inputs))
    assert h.ndim == 4 and h.shape[3] > h.shape[1], "(B, H, W, C)"
    assert recorded.features[1, 1].shape == (10, h.shape[3])
    assert np.array_equal(recorded.features[1, 1], h.mean((1, 2)).numpy())


def test_recording_leaves_every_mode_as_it_was(run):
    _, net, data = run
    net.train()
    net[0].eval()
    embeddings.sample(data, "test", 20)(1, net)
    assert [block.training for block in net] == [False, True] and net.training


# Bad input


def test_a_folder_without_embeddings(tmp_path):
    with pytest.raises(FileNotFoundError, match="it has no embeddings.npz. Record them with"):
        embeddings.read_runs(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        embeddings.read_embeddings(tmp_path / "nowhere")


@pytest.mark.parametrize("manifest", [{}, {"manifest": np.array(json.dumps({"format": "decoupled-kit embeddings 0"}))}])
def test_an_older_format(tmp_path, manifest):
    np.savez(tmp_path / "embeddings.npz", labels=np.zeros(3), **manifest)
    with pytest.raises(ValueError, match="but 'decoupled-kit embeddings 1' is expected. Record the embeddings again"):
        embeddings.read_embeddings(tmp_path)


def test_a_damaged_file(run, tmp_path):
    path = run[0].save(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="it is damaged"):
        embeddings.read_embeddings(tmp_path)


def test_fewer_images_than_classes(run):
    with pytest.raises(ValueError, match="5 images of 10 classes in the test split"):
        embeddings.sample(run[2], "test", 5)


def test_nothing_recorded(run, tmp_path):
    with pytest.raises(ValueError, match="no epoch was recorded"):
        embeddings.sample(run[2], "test", 50).save(tmp_path)
    run[0].save(tmp_path)
    with pytest.raises(ValueError, match="were read from a file"):
        embeddings.read_embeddings(tmp_path)(3, run[1])
