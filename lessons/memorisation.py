"""What a net makes of training images whose labels are wrong: does it learn the mistake, or see through it?"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

SHARES = {
    "memorised": "corrupted images answered with their wrong label",
    "recovered": "corrupted images answered with their true label",
    "fitted": "untouched images answered with their label",
}


@torch.no_grad()
def answers(net: nn.Module, data, batch_size: int = 512) -> pd.DataFrame:
    """Return what every exit answers to every training image: a row per (image, block).

    Columns: image (its position in `data.train`), block (the exit, from 1), given (the label trained on), true (the
    label before noise), corrupted (whether they differ), answer, and loss, the cross-entropy with the given label.
    """
    train, device, first, parts = data.train, next(net.parameters()).device, 0, []
    for x, y in data.batches(train, batch_size, device=device):
        rows = slice(first, first + len(y))
        first += len(y)
        for block, logits in enumerate(net.predict(x), 1):
            part = {
                "image": np.arange(rows.start, rows.stop),
                "block": block,
                "given": y.cpu().numpy(),
                "true": train.clean_labels[rows].cpu().numpy(),
                "answer": logits.argmax(1).cpu().numpy(),
                "loss": F.cross_entropy(logits, y, reduction="none").cpu().numpy(),
            }
            parts.append(pd.DataFrame(part))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(corrupted=table["given"] != table["true"])


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """Return block, metric, value: the shares of `SHARES`, in [0, 1], and the mean losses of `answers`' rows.

    Without corrupted images only `fitted` and `loss_untouched` are there.
    """
    right = {"fitted": table["answer"] == table["given"], "memorised": table["answer"] == table["given"]}
    right["recovered"] = table["answer"] == table["true"]
    rows = []
    for corrupted, names in ((False, ("fitted",)), (True, ("memorised", "recovered"))):
        of_kind = table["corrupted"] == corrupted
        if not of_kind.any():
            continue
        for name in names:
            means = right[name][of_kind].groupby(table["block"][of_kind]).mean()
            rows += [(block, name, value) for block, value in means.items()]
        losses = table[of_kind].groupby("block")["loss"].mean()
        rows += [(block, f"loss_{'corrupted' if corrupted else 'untouched'}", value) for block, value in losses.items()]
    return pd.DataFrame(rows, columns=["block", "metric", "value"])


class Memorisation:
    """Records `shares` of a net while it trains: `kit.run(config, on_epoch=memorisation)`.

    `table` has epoch, block, metric, value; `last` are the `answers` after the last epoch recorded, `epochs` those to
    record (None: all).
    """

    def __init__(self, data, epochs: Collection[int] | None = None):
        self.data, self.epochs, self.parts, self.last = data, epochs, [], None

    def __call__(self, epoch: int, net: nn.Module) -> None:
        if self.epochs is None or epoch in self.epochs:
            self.last = answers(net, self.data)
            self.parts.append(shares(self.last).assign(epoch=epoch))

    @property
    def table(self) -> pd.DataFrame:
        return pd.concat(self.parts, ignore_index=True)[["epoch", "block", "metric", "value"]]
