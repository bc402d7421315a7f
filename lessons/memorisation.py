"""What a net makes of training images whose labels are wrong: does it learn the mistake, or see through it?"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
import torch.nn.functional as F
from torch import nn

from kit import exits

SHARES = {
    "memorised": "corrupted images answered with their wrong label",
    "recovered": "corrupted images answered with their true label",
    "fitted": "untouched images answered with their label",
}


def training_answers(net: nn.Module, data, batch_size: int = 512) -> pd.DataFrame:
    """Return what every exit answers to every training image: a row per (block, image).

    Columns: image (its position in `data.train`), block (the exit, from 1), given (the label trained on), true (the
    label before noise), corrupted (whether they differ), answer, and loss, the cross-entropy with the given label.
    """
    device = next(net.parameters()).device
    logits, given = exits.collect(net, data.batches(data.train, batch_size, device=device))
    num_exits, num_images, _ = logits.shape
    table = pd.DataFrame(
        {
            "image": np.tile(np.arange(num_images), num_exits),
            "block": np.repeat(np.arange(1, num_exits + 1), num_images),
            "given": given.repeat(num_exits).cpu(),
            "true": data.train.clean_labels.repeat(num_exits).cpu(),
            "answer": logits.argmax(2).flatten().cpu(),
            "loss": F.cross_entropy(logits.flatten(0, 1), given.repeat(num_exits), reduction="none").cpu(),
        }
    )
    return table.assign(corrupted=table["given"] != table["true"])


def answer_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Return block, metric, value: the shares of `SHARES`, in [0, 1], and the mean losses, of `training_answers`.

    Without corrupted images only `fitted` and `loss_untouched` are there.
    """
    names = {
        False: {"says_given": "fitted", "loss": "loss_untouched"},
        True: {"says_given": "memorised", "says_true": "recovered", "loss": "loss_corrupted"},
    }
    said = table.assign(says_given=table["answer"] == table["given"], says_true=table["answer"] == table["true"])
    means = said.groupby(["corrupted", "block"])[["says_given", "says_true", "loss"]].mean()
    parts = [
        means.loc[corrupted, list(names[corrupted])].rename(columns=names[corrupted])
        for corrupted in sorted(set(table["corrupted"]))
    ]
    return pd.concat([part.melt(var_name="metric", ignore_index=False) for part in parts]).reset_index()


class Memorisation:
    """Records `answer_shares` of a net while it trains: `kit.run(config, on_epoch=memorisation)`.

    `table` has epoch, block, metric, value; `last` are the `training_answers` after the last epoch recorded; `epochs`
    are those to record (None: all).
    """

    def __init__(self, data, epochs: Collection[int] | None = None):
        self.data, self.epochs, self.parts, self.last = data, epochs, [], None

    def __call__(self, epoch: int, net: nn.Module) -> None:
        if self.epochs is None or epoch in self.epochs:
            self.last = training_answers(net, self.data)
            self.parts.append(answer_shares(self.last).assign(epoch=epoch))

    @property
    def table(self) -> pd.DataFrame:
        return pd.concat(self.parts, ignore_index=True)[["epoch", "block", "metric", "value"]]
