"""Methods side by side: what is read off features, the committed table, and the widget over it."""

import numpy as np
import pandas as pd
import pytest
import torch

import kit
from kit import train
from kit.measure.representations import linear_reconstruction
from lessons import method_comparison, plots


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
    data = train.load_data(config)
    net = train.build(config, data)
    x, _ = next(data.batches("test", 16))
    features = method_comparison.features(net, x)
    heads = [*net[0].probes, net[0].objective] if method == "bp" else [block.objective for block in net]
    answers = [
        head.readout(h) if hasattr(head, "readout") else head(h) for head, h in zip(heads, features, strict=True)
    ]
    for answer, exit_ in zip(answers, net.predict(x), strict=True):
        torch.testing.assert_close(answer.float(), exit_, rtol=0.02, atol=0.02)


def test_summary_has_mean_and_deviation(table):
    shown = method_comparison.summary(table)
    assert shown.loc["greedy", (16, "none")] == "31.0 ± 1.0"
    assert list(shown.columns) == [(2, "none"), (16, "none"), (16, "E")]


def test_error_by_blocks_draws_the_means(table):
    figure = plots.error_by_blocks(table)
    left, right = figure.axes
    drawn = {tuple(np.round(line.get_ydata(), 6)) for line in left.lines}
    assert (21.0, 31.0) in drawn
    assert "backprop" in [text.get_text() for text in right.get_legend().get_texts()]


def test_the_widget_shows_the_choice(table):
    widget = method_comparison.explorer(table)
    before = widget.picture.value
    widget.context.value = "E"
    assert widget.picture.value != before
    assert not widget.message.value
    widget.method.value = "al"  # not measured with E: said, and nothing breaks
    assert not widget.message.value


def test_a_missing_table_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.csv is not there: run python benchmarks/accuracy.py"):
        method_comparison.load(tmp_path / "none.csv")
