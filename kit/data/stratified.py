"""Seeded draws from labelled samples that respect the classes."""

import torch
from torch import Generator, Tensor


def stratified(labels: Tensor, count: int, generator: Generator, *, proportional: bool) -> tuple[Tensor, Tensor]:
    """Return the positions of `count` random samples and those of the rest, int64 and each in ascending order.

    `proportional=True` is a stratified draw: each class gives its share of `count`, to within one sample.
    `proportional=False` is a balanced one: classes give equally many, to within one, as long as each has enough;
    what a small class lacks, the others give. `labels` is (N,) int64.
    """
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]  # class after class, shuffled within each
    counts = labels.bincount()
    each = counts.repeat_interleave(counts)  # the size of the class that sample i of `order` is in
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    # Drawn by ascending key: rank takes the classes in turn, (rank + 1/2)/size when each has given the same share.
    key = (2 * rank + 1).double() / each if proportional else rank
    ties = torch.randperm(len(labels), generator=generator)  # or the first classes would win every tie
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order[ties[key[ties].argsort(stable=True)]][:count]] = True
    return chosen.nonzero().squeeze(1), (~chosen).nonzero().squeeze(1)


def few_classes(order: Tensor, labels: Tensor, batch_size: int, num_classes: int) -> Tensor:
    """Return the rows `order` (N,) arranged so that most batches are of `num_classes` classes.

    A batch is of the next rows' classes; what is missing comes from the others (PredSim's option, ICML 2019).
    """
    left, batches = order, []
    while len(left):
        own = labels[left]
        chosen = list(dict.fromkeys(own[: 50 * num_classes].tolist()))[:num_classes]
        ranked = torch.argsort(torch.isin(own, torch.tensor(chosen)).logical_not().byte(), stable=True)
        batches.append(left[ranked[:batch_size]])
        left = left[ranked[batch_size:].sort().values]
    return torch.cat(batches)
