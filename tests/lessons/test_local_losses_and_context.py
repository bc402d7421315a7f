"""Lesson 6: what is read off features, the committed tables, and the explorer over them."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import kit
from kit.measure.representations import linear_reconstruction
from kit.train import build, load_data
from lessons import local_losses_and_context as lesson


@pytest.fixture(scope="module")
def table():
    cells = [("bp", 16, "none"), ("greedy", 2, "none"), ("greedy", 16, "none"), ("greedy", 16, "E"), ("al", 16, "none")]
    rows = [(*cell, seed, 0.1 * (k + 1) + 0.01 * seed) for k, cell in enumerate(cells) for seed in range(3)]
    return pd.DataFrame(rows, columns=["method", "num_blocks", "context", "seed", "error"])


def test_a_linear_map_of_the_image_is_read_back():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(200, 1, 4, 4))
    share, read = linear_reconstruction(images.reshape(200, 16) @ rng.normal(size=(16, 24)), images)
    assert share > 0.99
    assert np.corrcoef(read.ravel(), images.ravel())[0, 1] > 0.99


def test_noise_tells_nothing_of_the_image():
    rng = np.random.default_rng(0)
    share, _ = linear_reconstruction(rng.normal(size=(400, 20)), rng.normal(size=(400, 1, 4, 4)))
    assert -0.1 < share < 0.1


def test_as_many_features_as_images():
    with pytest.raises(ValueError, match="5 samples and 4 images: give one image per sample"):
        linear_reconstruction(np.zeros((5, 2)), np.zeros((4, 1, 2, 2)))


@pytest.mark.parametrize("method", ["bp", "greedy"])
def test_features_are_what_the_exits_read(method):
    config = kit.RunConfig(
        backbone="mlp", method=method, num_blocks=3, context="R1E" * (method != "bp") or "none", output=None
    )
    data = load_data(config)
    net = build(config, data)
    x, _ = next(data.batches("test", 16))
    features = lesson.stage_outputs(net, x)
    heads = [*net[0].probes, net[0].objective] if method == "bp" else [block.objective for block in net]
    answers = [
        head.readout(h) if hasattr(head, "readout") else head(h) for head, h in zip(heads, features, strict=True)
    ]
    for answer, exit_ in zip(answers, net.predict(x), strict=True):
        torch.testing.assert_close(answer.float(), exit_, rtol=0.02, atol=0.02)


def test_summary_has_mean_and_deviation(table):
    shown = lesson.error_summary(table)
    assert shown.loc["greedy", (16, "none")] == "31.0 ± 1.0"
    assert list(shown.columns) == [(2, "none"), (16, "none"), (16, "E")]


def test_error_by_blocks_draws_the_means(table):
    figure = lesson.error_by_blocks(table)
    left, right = figure.axes
    drawn = {tuple(np.round(line.get_ydata(orig=False), 6)) for line in left.lines}
    assert (21.0, 31.0) in drawn
    assert "backprop" in [text.get_text() for text in right.texts]


def test_the_explorer_shows_the_choice(table):
    explorer = lesson.comparison_explorer(table)
    method, case = explorer.controls
    assert (method.value, case.value) == ("greedy", (16, "none"))
    before = explorer.still
    case.value = (16, "E")
    assert explorer.still != before
    assert not explorer.message.value
    method.value = "al"  # not measured with E: said, and nothing breaks
    assert "al with 16 blocks and context E was not measured" in explorer.message.value


def test_the_choice_is_in_colour(table):
    panel = lesson.standing(table, "greedy", 16, "E").axes[0]
    errors = 100 * table[(table["context"] == "E") | (table["method"] == "bp")].groupby("method")["error"].mean()
    assert sorted(bar.get_width() for bar in panel.patches) == pytest.approx(sorted(errors))
    assert len({bar.get_facecolor() for bar in panel.patches}) == 2
    assert [text.get_text() for text in panel.texts] == [f"{bar.get_width():.1f}" for bar in panel.patches]
    with pytest.raises(ValueError, match="al with 16 blocks and context E was not measured"):
        lesson.standing(table, "al", 16, "E")


def test_memory_is_read_by_number_of_blocks(tmp_path):
    rows = [("resnet110 greedy K=4", 0.3), ("resnet110 greedy K=2", 0.5), ("resnet110 bp K=1", 1.0), ("vgg a K=4", 0.2)]
    rows = [{"case": case, "metric": "share of backprop's peak", "value": value} for case, value in rows]
    rows.append(rows[0] | {"metric": "MiB", "value": 9.0})
    (tmp_path / "memory.json").write_text(json.dumps({"rows": rows}))
    table = lesson.read_memory(tmp_path / "memory.json")
    assert list(table.itertuples(index=False, name=None)) == [("greedy", 2, 0.5), ("greedy", 4, 0.3)]
    (line,) = lesson.memory_by_blocks(table).axes[0].lines
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([2, 4], [0.5, 0.3])


def test_a_missing_table_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.csv is not there: run python benchmarks/accuracy.py"):
        lesson.read_accuracy(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match=r"none.json is not there: run python benchmarks/memory.py"):
        lesson.read_memory(tmp_path / "none.json")
