"""Explorers: every control does something, an error is a sentence, and no control is left dead."""

import ipywidgets as w
import numpy as np
import pytest

import kit
from lessons.embeddings import Embeddings
from lessons.explore_embeddings import EmbeddingExplorer, embedding_explorer
from lessons.gradient_flow import GradientExplorer, gradient_explorer
from lessons.style import Picture, styled
from lessons.widgets import Explorer, figure_explorer

SMALL = {"method": "deinforeg", "depth": 6, "num_blocks": 3, "widths": (16, 16), "lr": 2e-3}


@pytest.fixture(scope="module")
def data():
    return kit.load_data("digits", val_fraction=0.1, limit=300)


@pytest.fixture
def runs():
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 4
    logits = np.eye(4)[labels] * 5
    logits[7] = logits[7][::-1]  # the one mistake
    return {
        name: Embeddings(
            images=generator.random((40, 1, 8, 8)).astype("float32"),
            inputs=None,
            labels=labels,
            noisy=labels == 9,
            classes=tuple("abcd"),
            features={(e, k): generator.normal(size=(40, 6)) for e in epochs for k in exits},
            logits={(e, k): logits for e in epochs for k in exits},
        )
        for name, epochs, exits in (("long", (1, 2, 5), (1, 2, 3)), ("short", (3,), (1,)))
    }


def test_gradient_explorer_answers_to_every_control(data):
    explorer = GradientExplorer(data, **SMALL)
    controls = {"depth": 5, "blocks": 2, "activation": "relu", "init": "xavier", "norm": "batch", "residual": True}
    for name, value in controls.items():
        before = explorer.picture.value
        getattr(explorer, name).value = value
        assert explorer.message.value == "" and explorer.picture.value != before, name
    assert [len(net) for net in explorer.nets.values()] == [1, 2]


def test_gradient_explorer_trains_both_sides_and_starts_anew(data):
    explorer = GradientExplorer(data, **SMALL)
    untrained, first = explorer.picture.value, explorer.measure()
    explorer.train_button.click()
    assert explorer.num_steps == explorer.steps.value == 20
    assert all(block.num_steps == 20 for net in explorer.nets.values() for block in net)
    assert explorer.bar.value == 1 and explorer.picture.value != untrained
    assert not any(control.disabled for control in explorer.controls)
    explorer.reset_button.click()
    assert explorer.measure().equals(first) and explorer.picture.value == untrained


def test_both_sides_have_the_same_first_weights(data):
    explorer = GradientExplorer(data, **SMALL)
    bodies = [[p for block in net for p in block.body.parameters()] for net in explorer.nets.values()]
    assert all((a == b).all() for a, b in zip(*bodies, strict=True))


def test_gradient_explorer_says_what_is_wrong_and_goes_on(data):
    explorer = GradientExplorer(data, **SMALL | {"lr": -1.0})
    assert "lr=-1.0, but it has to be a positive number" in explorer.message.value
    explorer.settings["lr"] = 2e-3
    explorer.reset_button.click()
    assert explorer.message.value == "" and len(explorer.nets["decoupled"]) == 3


def test_blocks_follow_layers(data):
    explorer = GradientExplorer(data, **SMALL)
    explorer.depth.value = 2
    assert explorer.message.value == "" and len(explorer.nets["decoupled"]) == explorer.blocks.value == 2
    explorer.depth.value = 6
    assert explorer.message.value == "" and len(explorer.nets["decoupled"]) == 3, "as many as were wanted"


def test_layers_are_those_one_counts(data):
    explorer = GradientExplorer(data, **SMALL)
    explorer.norm.value = "batch"
    assert explorer.measure().groupby("method")["depth"].apply(list).tolist() == [[1, 2, 3, 4, 5, 6]] * 2
    explorer.depth.value = 2
    ticks = explorer.figure().axes[0].get_xticks()
    assert all(tick == int(tick) for tick in ticks)


def test_an_error_in_training_leaves_no_dead_control(data):
    explorer = GradientExplorer(data, **SMALL)
    explorer.batches = iter([])
    explorer.train_button.click()
    assert "StopIteration" in explorer.message.value
    assert not any(control.disabled for control in explorer.controls)
    assert explorer.bar.layout.visibility == "hidden"


def test_embedding_explorer_answers_to_every_control(runs):
    explorer = EmbeddingExplorer(runs)
    for name, value in {"block": 2, "epoch": 1, "colour": "prediction", "projection": "tsne", "neighbours": 5}.items():
        before = explorer.map.value
        getattr(explorer, name).value = value
        assert explorer.message.value == "" and explorer.map.value != before, name
    before = explorer.map.value, explorer.card.value
    explorer.point.value = 3
    assert explorer.map.value != before[0] and explorer.card.value != before[1]
    explorer.run.value = "short"
    assert (explorer.block.options, explorer.epoch.options) == ((1,), (3,)) and explorer.message.value == ""
    assert not any(control.disabled for control in explorer.controls)


def test_every_image_has_its_card(runs):
    page = EmbeddingExplorer(runs).map.value
    assert page.count('class="kit-dot"') == 40
    assert page.count("label a<") == 10 and "a a a" in page and "<script" not in page


def test_next_mistake(runs):
    explorer = EmbeddingExplorer(runs)
    explorer.next_button.click()
    assert explorer.point.value == 7
    for logits in runs["long"].logits.values():
        logits[7] = logits[3]
    explorer.next_button.click()
    assert "block 1 makes no mistake" in explorer.message.value


def test_embedding_explorer_says_what_is_wrong_and_goes_on(runs, tmp_path):
    explorer = EmbeddingExplorer(tmp_path)
    assert "it has no embeddings.npz" in explorer.message.value
    explorer.point.value = 1
    runs["long"].save(tmp_path / "there")
    explorer.folder.value = str(tmp_path / "there")
    explorer.open_button.click()
    assert explorer.message.value == "" and explorer.run.options == ("there",)
    explorer.neighbours.value = 40
    explorer.projection.value = "tsne"
    assert "perplexity=40 with 40 points" in explorer.message.value
    assert not any(control.disabled for control in explorer.controls)
    explorer.projection.value = "pca"
    assert explorer.message.value == ""


def test_nothing_is_drawn_or_projected_twice(runs):
    explorer = EmbeddingExplorer(runs)
    known = set(explorer.cache)
    explorer.point.value = 3
    assert {key[0] for key in set(explorer.cache) - known} == {"card"}, "the map stands, only the image is new"
    explorer.block.value = 2
    known = set(explorer.cache)
    explorer.block.value = 1
    explorer.point.value = 0
    assert set(explorer.cache) == known


def test_headless_the_static_figure_stands_there(data, runs, monkeypatch, tmp_path):
    monkeypatch.setenv("KIT_HEADLESS", "1")
    assert isinstance(gradient_explorer(data, **SMALL), Picture)
    assert isinstance(embedding_explorer(runs), Picture)
    with pytest.raises(FileNotFoundError, match="no embeddings in"):
        embedding_explorer(tmp_path)


def test_a_page_without_javascript_gets_the_picture(data, runs):
    for explorer in (gradient_explorer(data, **SMALL), embedding_explorer(runs)):
        assert isinstance(explorer, Explorer)
        bundle = explorer._repr_mimebundle_()
        assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= set(bundle)


def test_messages_are_text_and_no_markup():
    explorer = Explorer([], [])
    explorer.guarded(lambda: [][1])()
    assert "IndexError: list index" in explorer.message.value
    explorer.say("<b>")
    assert "&lt;b&gt;" in explorer.message.value


@styled
def bar(height, wide=False):
    if height > 3:
        raise ValueError(f"height={height}, but the ceiling is at 3; choose less")
    picture = Picture()
    picture.subplots().bar([0], [height], width=1 if wide else 0.5)
    return picture


def test_a_figure_under_sliders():
    height = w.FloatSlider(1.0, min=0.0, max=5.0)
    drawn = []
    explorer = figure_explorer(lambda **values: drawn.append(values) or bar(**values), height=height, wide=w.Checkbox())
    first = explorer.still
    height.value = 2.0
    assert explorer.still != first and explorer.children[-1].value == explorer.still
    height.value = 4.0
    assert "height=4.0, but the ceiling is at 3; choose less" in explorer.message.value
    height.value = 1.0
    assert explorer.message.value == "" and explorer.still == first
    assert [values["height"] for values in drawn] == [1, 2, 4], "a picture drawn before is shown again"


def test_headless_a_figure_under_sliders_is_the_figure(monkeypatch):
    monkeypatch.setenv("KIT_HEADLESS", "1")
    picture = figure_explorer(bar, height=w.FloatSlider(1.5))
    assert isinstance(picture, Picture) and picture.axes[0].patches[0].get_height() == 1.5


def test_figures_under_sliders_have_a_picture_without_javascript():
    bundle = figure_explorer(bar, height=w.FloatSlider(1.5))._repr_mimebundle_()
    assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= set(bundle)
