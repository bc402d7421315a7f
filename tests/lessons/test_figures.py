"""Figures: what they show is what was given, and nothing is drawn empty."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from lessons import embedding_figures, gradient_flow

RNG = np.random.default_rng(0)


@pytest.fixture
def gradient_table():
    rows = [
        (step, depth, f"layer{depth}", "gradient", method, seed, 10.0 ** -(depth + seed))
        for step in range(3) for depth in (1, 2, 3) for method in ("bp", "local") for seed in (0, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["step", "depth", "layer", "metric", "method", "seed", "value"])


def inside(figure):
    """Say whether all that the figure draws is within its edges."""
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return min(box.x0, box.y0) > -0.02 and box.x1 < width + 0.02 and box.y1 < height + 0.02


def test_gradient_by_depth_draws_the_median(gradient_table):
    one = gradient_table[gradient_table["seed"] == 0]
    panel = gradient_flow.gradient_by_depth(one).axes[0]
    lines = [line.get_ydata() for line in panel.lines if len(line.get_ydata()) == 3]
    assert len(lines) == 2 and all(line == pytest.approx([1e-1, 1e-2, 1e-3]) for line in lines)
    assert panel.get_yscale() == "log"


def test_gradient_by_depth_has_a_band_over_seeds(gradient_table):
    assert len(gradient_flow.gradient_by_depth(gradient_table).axes[0].collections) == 2
    assert not gradient_flow.gradient_by_depth(gradient_table[gradient_table["seed"] == 0]).axes[0].collections


def test_heatmap_shows_the_values(gradient_table):
    figure = gradient_flow.gradient_heatmap(gradient_table[gradient_table["seed"] == 0])
    image = figure.axes[0].images[0].get_array()
    assert image[:, 0].tolist() == pytest.approx([1e-1, 1e-2, 1e-3]) and image.shape == (3, 3)


def test_heatmap_bears_gradients_that_are_zero(gradient_table):
    gradient_flow.gradient_heatmap(
        gradient_table.assign(value=gradient_table["value"].where(gradient_table["depth"] > 1, 0.0))
    )
    gradient_flow.gradient_heatmap(gradient_table.assign(value=0.0)).draw_without_rendering()


def test_exits_answers_are_probabilities():
    figure = embedding_figures.exit_probabilities(RNG.random((1, 8, 8)), [np.array([0.0, np.log(3)])], 1, ["a", "b"])
    assert figure.axes[1].images[0].get_array()[0].tolist() == pytest.approx([0.25, 0.75])


def test_all_text_is_inside(gradient_table):
    points, labels = RNG.normal(size=(50, 2)), RNG.integers(0, 10, 50)
    digits = [str(k) for k in range(10)]
    blocks = pd.DataFrame([(1, b, "accuracy", 0.5, m) for b in (1, 2, 3) for m in "xyz"],
                          columns=["epoch", "block", "metric", "value", "method"])  # fmt: skip
    alignment = gradient_table.assign(metric="alignment")
    figures = {
        "heat map": gradient_flow.gradient_heatmap(gradient_table),
        "depth": gradient_flow.gradient_by_depth(gradient_table),
        "alignment": gradient_flow.gradient_alignment(alignment),
        "spectra": embedding_figures.spectra({"m": [RNG.normal(size=(30, 8))] * 3}),
        "cka": embedding_figures.cka_maps({"A": np.eye(4), "A / B": np.ones((4, 3))}),
        "blocks": embedding_figures.by_block(blocks, {"accuracy": "accuracy of the exit"}),
        "map": embedding_figures.embedding_map(
            points, labels, digits, labels, labels > 5, "corrupted", title="method: block 1"
        ),
        "answers": embedding_figures.exit_probabilities(
            RNG.random((3, 8, 8)), [RNG.normal(size=10)] * 4, 3, ["a long name"] * 10, True
        ),
    }
    assert [name for name, figure in figures.items() if not inside(figure)] == []


def test_the_style_stays_inside(gradient_table):
    before = dict(mpl.rcParams)
    gradient_flow.gradient_heatmap(gradient_table)
    assert dict(mpl.rcParams) == before


# Bad input


@pytest.mark.parametrize(
    "figure", [gradient_flow.gradient_heatmap, gradient_flow.gradient_by_depth, gradient_flow.gradient_alignment]
)
def test_no_figure_is_drawn_empty(figure, gradient_table):
    with pytest.raises(ValueError, match="the table holds no"):
        figure(gradient_table.assign(metric="loss"))


def test_maps_say_what_is_missing():
    points, labels = np.zeros((4, 2)), np.zeros(4, dtype=int)
    with pytest.raises(ValueError, match="unknown colouring 'klass': did you mean 'class'"):
        embedding_figures.embedding_map(points, labels, ["a"], colour="klass")
    with pytest.raises(ValueError, match="a map by corrupted takes one corrupted each"):
        embedding_figures.embedding_map(points, labels, ["a"], colour="corrupted")
    with pytest.raises(ValueError, match="4 points and 3 labels"):
        embedding_figures.embedding_map(points, labels[:3], ["a"])
    with pytest.raises(ValueError, match="unknown metric 'acuracy': did you mean 'accuracy'"):
        table = pd.DataFrame([(1, 1, "accuracy", 0.5)], columns=["epoch", "block", "metric", "value"])
        embedding_figures.by_block(table, {"acuracy": ""})


def test_notebooks_show_them_whatever_the_backend(gradient_table):
    assert gradient_flow.gradient_by_depth(gradient_table)._repr_png_().startswith(b"\x89PNG")
