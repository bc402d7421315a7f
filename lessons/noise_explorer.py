"""The noise explorer: how well each method answers, and whether it has learnt the mistakes, by rate, exit and epoch."""

from __future__ import annotations

import ipywidgets as w
import pandas as pd

from lessons import label_noise, widgets


def noise_explorer(table: pd.DataFrame):
    """Return the explorer of `table` (see `label_noise.at_epoch`); headless, the figure at its first position."""
    if widgets.headless():
        return label_noise.at_epoch(table, *NoiseExplorer.start(table))
    return NoiseExplorer(table)


class NoiseExplorer(widgets.PictureExplorer):
    """Choose a noise rate, an exit and an epoch."""

    def __init__(self, table: pd.DataFrame):
        self.table, self.cache = table, {}
        rate, exit_, epoch = self.start(table)
        self.rate = w.SelectionSlider(options=sorted(table["noise_rate"].unique()), value=rate, description="rate")
        self.exit = w.SelectionSlider(options=self.exits(table), value=exit_, description="exit")
        self.epoch = w.SelectionSlider(options=self.epochs(table), value=epoch, description="epoch")
        super().__init__([self.rate, self.exit, self.epoch])
        self.guarded(self.draw)()

    @staticmethod
    def exits(table: pd.DataFrame) -> list[int]:
        return sorted(int(block) for block in table["block"].unique())

    @staticmethod
    def epochs(table: pd.DataFrame) -> list[int]:
        return sorted(int(epoch) for epoch in table["epoch"].unique())

    @classmethod
    def start(cls, table: pd.DataFrame) -> tuple[float, int, int]:
        """Return the first position: the middle rate, the last exit and the last epoch."""
        rates = sorted(table["noise_rate"].unique())
        return rates[len(rates) // 2], cls.exits(table)[-1], cls.epochs(table)[-1]

    def draw(self) -> None:
        """Show the figure as the sliders say; pictures drawn before are shown again."""
        key = (self.rate.value, self.exit.value, self.epoch.value)
        if key not in self.cache:
            self.cache[key] = widgets.png(label_noise.at_epoch(self.table, *key))
        self.picture.value = self.still = self.cache[key]
