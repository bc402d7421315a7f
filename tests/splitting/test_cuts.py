"""The papers' cuts divide their networks as the papers say, and refuse every other network."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import kit
from kit.backbones import backbone
from kit.splitting.paper_cuts import INFOPRO_BALANCED_CUTS, INFOPRO_CUTS, find
from kit.splitting.split import cut_points

torch.set_num_threads(1)

# Residual blocks in each of K blocks: two 3×3 convolutions each, the stem one more, counted by hand from the paper.
INFOPRO = {
    ("resnet32", 2): [7, 8],
    ("resnet32", 3): [5, 5, 5],
    ("resnet32", 4): [3, 4, 4, 4],
    ("resnet32", 8): [1, 2, 2, 2, 2, 2, 2, 2],
    ("resnet32", 16): [0] + [1] * 15,
    ("resnet110", 2): [27, 27],
    ("resnet110", 3): [18, 18, 18],
    ("resnet110", 4): [12, 14, 14, 14],
    ("resnet110", 8): [5, 7, 7, 7, 7, 7, 7, 7],
    ("resnet110", 16): [2, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4],
}
BALANCED = {("resnet32", 2): [4, 11], ("resnet32", 4): [3, 2, 3, 7], ("resnet32", 8): [2, 1, 1, 3, 1, 4, 1, 2]}
BALANCED |= {("resnet110", 2): [15, 39], ("resnet110", 3): [10, 11, 33], ("resnet110", 4): [7, 8, 12, 27]}


def residual_blocks(stages: list[nn.Module]) -> list[int]:
    convolutions = [sum(isinstance(m, nn.Conv2d) for m in stage.modules()) for stage in stages]
    assert convolutions[0] % 2 == 1, "the stem is in the first block"
    return [count // 2 for count in convolutions]


@pytest.fixture(scope="module")
def known() -> dict[str, list[str]]:
    """All places where the models can be cut, in order."""
    return {
        name: cut_points(backbone(name, width=0.1), torch.zeros(2, 3, 32, 32)) for name in ("resnet32", "resnet110")
    }


def counted(name: str, places_in_order: list[str], at: list[str]) -> list[int]:
    """Return the number of residual blocks that end in each block."""
    stages = range(1, 4)
    ends = [f"layer{k}.{i}" for k in stages for i in range({"resnet32": 5, "resnet110": 18}[name])]
    aliases = {f"layer{k}": f"layer{k}.{len(ends) // 3 - 1}" for k in stages}  # a stage ends with its last block
    order = [aliases.get(place, place) for place in places_in_order]
    bounds = [-1, *(order.index(place) for place in at), len(order)]
    return [sum(low < order.index(end) <= high for end in ends) for low, high in pairwise(bounds)]


@pytest.mark.parametrize(
    ("cuts", "case", "expected"),
    [("infopro", *item) for item in INFOPRO.items()] + [("infopro-balanced", *item) for item in BALANCED.items()],
)
def test_infopros_cuts_divide_the_residual_blocks_as_published(cuts, case, expected, known):
    name, num_blocks = case
    at = find(cuts, name, num_blocks)[1]
    assert counted(name, known[name], at) == expected


def test_every_published_cut_is_tested():
    assert INFOPRO.keys() == INFOPRO_CUTS.keys()
    assert BALANCED.keys() == INFOPRO_BALANCED_CUTS.keys()


@pytest.mark.parametrize("case", [("resnet110", 16), ("resnet32", 3)])
def test_where_none_is_published_infopros_balanced_cuts_are_those_of_memory(case):
    name, num_blocks = case
    assert find("infopro-balanced", name, num_blocks) == ("memory", None)


@pytest.mark.parametrize("cuts", ["infopro", "infopro-balanced"])
def test_one_block_is_the_whole_model(cuts):
    assert find(cuts, "resnet32", 1)[1] == []


@pytest.mark.parametrize("cuts", ["infopro", "infopro-balanced"])
@pytest.mark.parametrize(("name", "num_blocks"), [("resnet32", 5), ("vgg-paper", 4), ("resnet50", 4)])
def test_other_models_and_counts_are_refused_with_a_way_out(cuts, name, num_blocks):
    message = (
        f"cuts='{cuts}' with backbone='{name}' and num_blocks={num_blocks}, but these cuts are published for: resnet32 "
        "into 1, 2, 3, 4, 8, 16; resnet110 into 1, 2, 3, 4, 8, 16 blocks. Choose one of these, or a cut for any model: "
        "cuts='memory'"
    )
    for make in (find, lambda cuts, name, k: kit.RunConfig(cuts=cuts, backbone=name, num_blocks=k)):
        with pytest.raises(ValueError) as error:
            make(cuts, name, num_blocks)
        assert message in str(error.value)


def test_a_run_takes_the_cuts_by_name():
    from kit.train import build, load_data

    settings = {"backbone": "resnet32", "width": 0.1, "num_blocks": 8, "method": "greedy", "limit": 40}
    for cuts, expected in (("infopro", INFOPRO["resnet32", 8]), ("infopro-balanced", None), (("layer1",), [5, 10])):
        num_blocks = 2 if isinstance(cuts, tuple) else 8
        config = kit.RunConfig(**(settings | {"cuts": cuts, "num_blocks": num_blocks}), output=None)
        net = build(config, load_data(config))
        found = residual_blocks([block.body for block in net])
        assert len(found) == num_blocks
        assert sum(found) == 15
        assert expected is None or found == expected
