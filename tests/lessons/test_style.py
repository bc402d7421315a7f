"""Figures fit the screen, say in words what they show, and give every method one look that all can tell apart."""

import itertools

import numpy as np
import pandas as pd
import pytest

import kit
from lessons.alt_text import in_words
from lessons.method_looks import LOOKS, label_lines, looks, method_of, spread
from lessons.per_block_accuracy import accuracy_by_exit, accuracy_over_epochs
from lessons.style import SCREEN, Picture, font_size, panels

DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
"""Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB."""


@pytest.fixture
def table():
    rows = [(e, "test", b, "accuracy", 0.1 * b + 0.01 * e, m) for e in (1, 2) for b in (1, 2, 3) for m in ("bp", "dgl")]
    return pd.DataFrame(rows, columns=["epoch", "split", "block", "metric", "value", "method"])


def lab(colour, matrix):
    """CIELAB of a hexadecimal colour, as somebody sees it whose eyes `matrix` describes."""
    rgb = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(matrix @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    f = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_every_method_of_the_kit_has_one_look():
    assert set(LOOKS) >= set(kit.METHODS)
    assert len({look.marker for look in LOOKS.values()}) == len({look.colour for look in LOOKS.values()}) == len(LOOKS)


@pytest.mark.parametrize("eyes", [np.eye(3), DEUTERANOPIA], ids=["all cones", "deuteranopia"])
def test_methods_of_one_lesson_can_be_told_apart(eyes):
    together = ("bp", "deinforeg", "greedy", "infopro")
    seen = [lab(LOOKS[name].colour, eyes) for name in together]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 20  # 2 is just seen


def test_a_name_is_drawn_as_the_method_it_tells_of():
    names = {"backprop": "bp", "shallow backprop": "bp", "DeInfoReg, constant lr": "deinforeg", "greedy + E": "greedy"}
    assert {name: method_of(name) for name in names} == names
    assert method_of("no context") is None and method_of("also") is None
    drawn = looks(["greedy", "greedy + E", "greedy + R1E", "mine", "yours"])
    assert len(set(drawn.values())) == 5
    assert len({look.colour for look in list(drawn.values())[:3]}) == 1


def test_names_at_line_ends_do_not_overlap():
    placed = spread({"a": 0.5, "b": 0.51, "c": 0.1, "d": 0.99, "e": 1.0}, 0.08)
    heights = sorted(placed.values())
    assert np.diff(heights).min() >= 0.08 - 1e-12 and heights[0] >= 0 and heights[-1] <= 1
    assert placed["c"] == pytest.approx(0.1), "what lies alone stays where it is"
    panel = Picture(figsize=(6, 4)).subplots()
    panel.plot([0, 1], [0, 1], label="bp")
    label_lines(panel, looks(["bp"]))
    assert [text.get_text() for text in panel.texts] == ["bp"] and panel.get_legend() is None


def test_no_figure_is_larger_than_the_screen(table):
    assert tuple(Picture(figsize=(30, 20)).get_size_inches()) == SCREEN
    figure, axes = panels(4)
    assert len(axes) == 4 and tuple(figure.get_size_inches()) <= SCREEN
    many = pd.concat([table.assign(method=name) for name in LOOKS])
    assert all(size <= most for size, most in zip(accuracy_over_epochs(many).get_size_inches(), SCREEN, strict=True))


def test_one_setting_makes_all_letters_larger(table, monkeypatch):
    before = accuracy_by_exit(table).axes[0].xaxis.label.get_fontsize()
    monkeypatch.setenv("KIT_FONT_SIZE", "19.5")
    assert accuracy_by_exit(table).axes[0].xaxis.label.get_fontsize() == pytest.approx(1.5 * before)
    for wrong in ("large", "3", "nan"):
        monkeypatch.setenv("KIT_FONT_SIZE", wrong)
        with pytest.raises(ValueError, match=f"KIT_FONT_SIZE='{wrong}', but it has to be a number of points from 8"):
            font_size()


def test_a_figure_says_what_is_seen(table):
    figure = accuracy_by_exit(table)
    assert figure.alt.startswith("the accuracy of every exit in the last epoch against its depth")
    assert "bp goes from 0.12 to 0.32, between 0.12 and 0.32" in figure.alt
    data, metadata = figure._repr_mimebundle_()
    assert f'alt="{figure.alt}"' in data["text/html"] and metadata["image/png"]["alt"] == figure.alt


def test_long_descriptions_are_cut_short():
    panel = (figure := Picture(figsize=(6, 4))).subplots()
    for k in range(20):
        panel.plot([0, 1], [k, k], label=f"line {k}")
    assert in_words(figure, "Many lines.").endswith("and 8 more lines.") and "line 12" not in in_words(figure)
