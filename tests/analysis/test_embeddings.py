"""Embeddings: recorded without a trace in the training, saved whole, and refused clearly where they cannot be read."""

import json

import numpy as np
import pytest
import torch

import kit
from kit import train
from lessons import embeddings


def config(**settings) -> kit.RunConfig:
    usual = {"backbone": "mlp", "backbone_options": {"depth": 2, "hidden": 16}, "method": "greedy", "num_blocks": 2}
    usual |= {"cuts": "layers", "epochs": 2, "limit": 200, "precision": "fp32", "output": None}
    return kit.RunConfig(**(usual | settings))


@pytest.fixture(scope="module")
def run():
    """A run with corrupted labels, its data and its embeddings."""
    chosen = config(noise="symmetric", noise_rate=0.4)
    data = train.load_data(chosen)
    recorded = embeddings.sample(data, "train", 60, seed=1, note="a test")
    net = train.build(chosen, data)
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
    data, nets = train.load_data(chosen), []
    for on_epoch in (None, embeddings.sample(train.load_data(chosen), "test", 50)):
        nets.append(train.build(chosen, data))
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
    read = embeddings.load(tmp_path)
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
    assert list(embeddings.load_all(tmp_path)) == ["one", "two"]
    assert list(embeddings.load_all(tmp_path / "one")) == ["one"]


def test_table_has_the_accuracy_on_the_sample(run):
    recorded = run[0]
    table = recorded.table().set_index(["epoch", "block", "metric"])["value"]
    assert len(table) == 2 * 2 * 4
    assert table[2, 1, "accuracy"] == (recorded.logits[2, 1].argmax(1) == recorded.labels).mean()
    assert set(recorded.table([2])["epoch"]) == {2}


def test_maps_and_tokens_are_averaged_over_places():
    h = torch.randn(2, 3, 4, 5)
    assert torch.equal(embeddings.pooled(h), h.mean(dim=(2, 3)))
    assert torch.equal(embeddings.pooled(h[0]), h[0].mean(dim=1))


# Bad input


def test_a_folder_without_embeddings(tmp_path):
    with pytest.raises(FileNotFoundError, match="it has no embeddings.npz. Record them with"):
        embeddings.load_all(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        embeddings.load(tmp_path / "nowhere")


@pytest.mark.parametrize("manifest", [{}, {"manifest": np.array(json.dumps({"format": "decoupled-kit embeddings 0"}))}])
def test_an_older_format(tmp_path, manifest):
    np.savez(tmp_path / "embeddings.npz", labels=np.zeros(3), **manifest)
    with pytest.raises(ValueError, match="but 'decoupled-kit embeddings 1' is expected. Record the embeddings again"):
        embeddings.load(tmp_path)


def test_a_damaged_file(run, tmp_path):
    path = run[0].save(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="it is damaged"):
        embeddings.load(tmp_path)


def test_fewer_images_than_classes(run):
    with pytest.raises(ValueError, match="5 images of 10 classes in the test split"):
        embeddings.sample(run[2], "test", 5)


def test_nothing_recorded(run, tmp_path):
    with pytest.raises(ValueError, match="no epoch was recorded"):
        embeddings.sample(run[2], "test", 50).save(tmp_path)
    run[0].save(tmp_path)
    with pytest.raises(ValueError, match="were read from a file"):
        embeddings.load(tmp_path)(3, run[1])
