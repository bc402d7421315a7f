"""Seeded draws from labelled samples that respect the classes."""

from collections.abc import Sequence

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


def apart(labels: Tensor, groups: Sequence[str], count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return the positions of about `count` random samples and of the rest: as `stratified`, but of whole groups.

    A class gives groups until it has given its share of `count`, and none that would more than double that.
    """
    names = {name: k for k, name in enumerate(dict.fromkeys(groups))}
    own, chosen = torch.tensor([names[name] for name in groups]), torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        found, sizes = own[labels == label].unique(return_counts=True)
        wanted, taken = count * int(sizes.sum()) / len(labels), 0
        for k in torch.randperm(len(found), generator=generator).tolist():
            if taken < wanted and (taken + sizes[k] <= 2 * wanted or k == sizes.argmin()):
                chosen |= (own == found[k]) & (labels == label)
                taken += int(sizes[k])
    return chosen.nonzero().squeeze(1), (~chosen).nonzero().squeeze(1)
