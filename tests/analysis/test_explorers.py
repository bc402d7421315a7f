"""Explorers: every control does something, an error is a sentence, and no control is left dead."""

import time

import numpy as np
import pytest
from matplotlib.figure import Figure

import kit
from lessons.embedding_explorer import EmbeddingExplorer, embedding_explorer
from lessons.embeddings import Embeddings
from lessons.gradient_explorer import GradientExplorer, gradient_explorer
from lessons.widgets import Explorer

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
    explorer = GradientExplorer(data, **SMALL)
    explorer.depth.value = 2
    assert "3 blocks of 2 layers: a block takes at least one; choose fewer blocks" in explorer.message.value
    explorer.blocks.value = 2
    assert explorer.message.value == "" and len(explorer.nets["decoupled"]) == 2


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


def test_they_answer_at_once(data, runs):
    """Time of the processor, not of the clock: other work on the machine does not count."""
    gradient, embedding = GradientExplorer(data, **SMALL | {"depth": 30, "num_blocks": 10}), EmbeddingExplorer(runs)

    def seconds(control, values):
        taken = []
        for value in values:
            begin = time.process_time()
            control.value = value
            taken.append(time.process_time() - begin)
        return min(taken)

    # 0.2 s is the aim, met on a quiet machine; shared cores take twice as long for the same work
    assert seconds(gradient.depth, (29, 28, 27, 26)) < 0.5
    assert seconds(embedding.block, (2, 3)) < 0.5
    assert seconds(embedding.point, (2, 3, 4)) < 0.5


def test_headless_the_static_figure_stands_there(data, runs, monkeypatch, tmp_path):
    monkeypatch.setenv("KIT_HEADLESS", "1")
    assert isinstance(gradient_explorer(data, **SMALL), Figure)
    assert isinstance(embedding_explorer(runs), Figure)
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
