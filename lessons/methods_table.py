"""The table of methods that the README shows, from the registry: `python -m lessons.methods_table` prints it."""

from __future__ import annotations

import torch

from kit.backbones import backbone
from kit.measure import memory
from kit.measure.costs import parameters
from kit.methods import REGISTRY, decouple
from kit.net import Net
from kit.objective import Objective
from kit.splitting.paper_cuts import INFOPRO_CUTS
from kit.splitting.split import split

SHAPE = (128, 3, 32, 32)
HEAD = ("name", "each block learns from", "needs beside labels", "weights added", "peak memory", "pipelines", "source")


def table(*names: str) -> str:
    """Return the table of these methods, or all, as Markdown.

    Weights added and peak memory are those of ResNet-32 in 4 blocks (InfoPro's cuts) on 10 classes and batches of
    128 colour images of 32×32, with AdamW and each method's own defaults; memory as planned, in shares of backprop's.
    """
    nets = {name: _net(name) for name in {"bp", *(names or REGISTRY)}}
    peaks = {name: memory.plan(net, SHAPE).peak for name, net in nets.items()}
    plain = parameters(backbone("resnet32"))
    lines = [HEAD, ["---"] * len(HEAD)]
    for name in names or REGISTRY:
        method = REGISTRY[name]
        added = parameters(nets[name]) - plain
        share = f"{peaks[name] / peaks['bp']:.0%}".replace("%", " %")
        exact = "one block: nothing to spread" if method.end_to_end else "to the bit"
        lines.append([f"`{name}`", method.summary, _needs(nets[name]), f"{added:,}", share, exact, method.source])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _net(name: str) -> Net:
    example = torch.zeros(2, *SHAPE[1:])
    stages = split(backbone("resnet32"), 4, example, at=list(INFOPRO_CUTS["resnet32", 4]))
    return decouple(stages, name, 10, example, pixels=torch.sigmoid)


def _needs(net: Net) -> str:
    objectives = [block.objective for block in net]
    needs = {
        "the input": any(o.needs_x for o in objectives),
        "the label's code": any(type(o).encode is not Objective.encode for o in objectives),
        "other samples": any(o.batch_statistics for o in objectives),
    }
    return ", ".join(name for name, needed in needs.items() if needed) or "–"


if __name__ == "__main__":
    print(table())
