"""The report's figure: any grid is drawn, by its factors."""

import numpy as np
import pandas as pd
import pytest

from lessons.grid_figures import across, by_factors


def summary(**factors):
    names, rows = list(factors), [[]]
    for values in factors.values():
        rows = [[*row, value] for row in rows for value in values]
    table = pd.DataFrame(rows, columns=names).merge(pd.DataFrame({"case": ["bp", "greedy"]}), how="cross")
    table = table.merge(pd.DataFrame({"measure": ["error", "seconds"]}), how="cross")
    return table.assign(mean=np.arange(len(table)) / 10, std=0.1, low=0.0, high=np.nan, n=1, of=1)


def test_the_factor_with_most_numbers_goes_across():
    assert across(summary(num_blocks=[2, 4, 8], context=["none", "E"])) == ("num_blocks", ["context"])
    assert across(summary(noise=["a", "b", "c"])) == ("noise", [])
    assert across(summary(lr=[0.1])) == (None, [])


def test_every_combination_is_a_line():
    numbers = summary(num_blocks=[2, 4, 8], context=["none", "E"])
    figure = by_factors(numbers)
    assert [panel.get_title() for panel in figure.axes] == ["error", "seconds"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(labels) == {f"{case}, context {c}" for case in ("bp", "greedy") for c in ("none", "E")}
    drawn = {tuple(line.get_ydata()) for line in figure.axes[0].lines if len(line.get_ydata()) == 3}
    own = numbers[(numbers["measure"] == "error") & (numbers["case"] == "bp") & (numbers["context"] == "E")]
    assert tuple(own["mean"]) in drawn


def test_a_batch_without_a_grid_is_drawn_case_by_case():
    figure = by_factors(summary(lr=[0.1]))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["bp", "greedy"]


def test_no_numbers_no_figure():
    with pytest.raises(ValueError, match="there are no numbers to draw: no cell of the grid has finished"):
        by_factors(summary(lr=[0.1]).head(0))
