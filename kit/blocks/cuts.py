"""Where the papers cut their networks: (backbone, number of blocks) → the places after which a block ends."""

_BY_STAGE = ("layer1", "layer2", "layer3")

PAPER_CUTS: dict[tuple[str, int], tuple[str, ...]] = {
    ("vgg-paper", 4): ("block1", "block2", "block3"),
    ("resnet18", 4): _BY_STAGE,
    ("resnet34", 4): _BY_STAGE,
    ("resnet50", 4): _BY_STAGE,
}
"""DeInfoReg's (arXiv 2506.18193): VGG in four groups, ResNets with a block per stage."""
