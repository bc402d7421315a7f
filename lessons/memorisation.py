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


def training_answers(net: nn.Module, data, batch_size: int = 512) -> pd.DataFrame:
    """Return what every exit answers to every training image: a row per (image, block).

    Columns: image (its position in `data.train`), block (the exit, from 1), given (the label trained on), answer, loss
    (the cross-entropy with the given label), true (the label before noise), corrupted (whether the two labels differ).
    """
    device, first, parts = next(net.parameters()).device, 0, []
    for x, y in data.batches(data.train, batch_size, device=device):
        logits = torch.stack(net.predict(x))  # (exits, images, classes)
        num_exits, num_images, _ = logits.shape
        given = y.repeat(num_exits)
        part = {
            "image": np.tile(np.arange(first, first + num_images), num_exits),
            "block": np.repeat(np.arange(1, num_exits + 1), num_images),
            "given": given.cpu(),
            "answer": logits.argmax(2).flatten().cpu(),
            "loss": F.cross_entropy(logits.flatten(0, 1), given, reduction="none").cpu(),
        }
        parts.append(pd.DataFrame(part))
        first += num_images
    table = pd.concat(parts, ignore_index=True)
    true = data.train.clean_labels.cpu().numpy()[table["image"]]
    return table.assign(true=true, corrupted=table["given"] != true)


def answer_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Return block, metric, value: the shares of `SHARES`, in [0, 1], and the mean losses, of `training_answers`.

    Without corrupted images only `fitted` and `loss_untouched` are there.
    """
    names = {
        False: {"says_given": "fitted", "loss": "loss_untouched"},
        True: {"says_given": "memorised", "says_true": "recovered", "loss": "loss_corrupted"},
    }
    said = table.assign(says_given=table["answer"] == table["given"], says_true=table["answer"] == table["true"])
    parts = []
    for corrupted in sorted(set(table["corrupted"])):
        own = said[said["corrupted"] == corrupted].groupby("block")[list(names[corrupted])].mean()
        parts.append(own.rename(columns=names[corrupted]).melt(var_name="metric", ignore_index=False))
    return pd.concat(parts).reset_index()


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
