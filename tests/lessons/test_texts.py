"""Lesson 9: figures and box show what the net says."""

import pandas as pd
import pytest
import torch

import kit
from kit import exits
from kit.measure.probes import gradient_profile
from kit.train import build
from lessons import texts
from tests.lessons.test_figures import inside

CONFIG = kit.RunConfig(
    dataset="stdlib", max_tokens=12, limit=240, vocabulary=300, backbone="lstm", width=0.03, method="greedy",
    num_blocks=4, lr=0.02, epochs=1, precision="fp32", output=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return kit.load_data(CONFIG)


@pytest.fixture(scope="module")
def net(data):
    return build(CONFIG, data)


def test_references_know_no_order(data):
    found = texts.references(data)
    assert 1 / 24 < found["most frequent class"] < 1 / 6 < found["bag of words"] < 1
    rows = data.train.images.flip(1)
    turned = pd.Series([sorted(row) for row in rows.tolist()]).equals(
        pd.Series([sorted(row) for row in data.train.images.tolist()])
    )
    assert turned and torch.equal(texts._counts(rows, len(data.words)), texts._counts(data.train.images, 303))


@pytest.mark.parametrize("method", ["bp", "greedy"])
def test_a_layers_gradient_is_that_of_all_its_weights(data, method):
    config = kit.RunConfig(**{**CONFIG.plain(), "method": method, "output": None})
    net = build(config, data)
    x, y = next(data.batches("train", 32, epoch=0))
    found = texts.layer_gradients(net, x, y)
    assert found["depth"].tolist() == [1, 2, 3, 4] and (found["value"] > 0).all()
    second = ("blocks.0.body.1" if method == "bp" else "blocks.1.body.0") + "."
    rows = gradient_profile(net, x, y)
    own = rows.loc[rows["layer"].str.startswith(second), "value"]
    assert len(own) == 2 and found["value"][1] == pytest.approx((own**2).sum() ** 0.5), "both directions"


def test_what_is_told_of_a_text_is_what_the_net_says(net, data):
    rule, x = exits.Rule("confidence", 0.1), next(data.batches("test", 6))[0]
    rows = texts.told(net, data, x, rule)
    logits = torch.stack(net.predict(x))
    assert rows["exit"].tolist() == [k + 1 for k in exits.leaving(rule, logits).tolist()]
    assert rows["answers"][2] == [data.classes[k] for k in logits[:, 2].argmax(1)]
    assert rows["sure"][2] == pytest.approx(logits[:, 2].softmax(1).amax(1).tolist(), abs=1e-5)
    assert all(row.weighty in row.words.split() for row in rows.itertuples())
    figure = texts.sentences(rows, ["a long name"] * 6)
    assert inside(figure) and f"leaves at exit {rows['exit'][5]}" in figure.alt
    empty = texts.told(net, data, torch.zeros(1, 4).long(), rule)
    assert len(empty["answers"][0]) == 4, "a text without words is no error"


def test_shares_by_exit_draw_every_method_and_the_references():
    rows = [(backbone, method, block, 0.1 * block) for backbone in ("a", "b") for method in ("bp", "greedy")
            for block in (1, 2, 3)]  # fmt: skip
    rows = pd.DataFrame(rows, columns=["backbone", "method", "block", "value"])
    figure = texts.shares_by_exit(rows, "backbone", {"bag of words": 0.5})
    assert inside(figure) and [panel.get_title() for panel in figure.axes] == ["a", "b"]
    for panel in figure.axes:
        lines = {line.get_label(): list(line.get_ydata()) for line in panel.lines}
        assert lines["bp"] == lines["greedy"] == pytest.approx([0.1, 0.2, 0.3])
        assert [0.5, 0.5] in lines.values()


def test_the_box_answers_to_what_is_typed(net, data):
    box = texts.sentence_box(net, data, "the first text", threshold=1.0)
    text, threshold = box.controls
    for control, value in ((text, "parse the header"), (threshold, 0.1), (text, ""), (text, "qqq"), (text, "a " * 99)):
        before = box.still
        control.value = value
        assert box.message.value == "" and (box.still != before or value == "qqq"), value
    figure = texts.answers_to(net, data, "parse the qqq", 0.1)
    assert inside(figure) and figure.get_suptitle() == "read as: parse the ?"
    logits = net.predict(data.encode(["parse the qqq"]))
    for panel, own in zip(figure.axes, logits, strict=True):
        assert [bar.get_width() for bar in panel.patches] == pytest.approx(own[0].softmax(0).tolist(), abs=1e-5)
    assert ["leaves" in panel.get_title() for panel in figure.axes] == [True, False, False, False]
