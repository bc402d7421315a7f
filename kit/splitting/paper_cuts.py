"""Where the papers cut their networks: (backbone, number of blocks) → the modules behind which a block ends."""

from collections.abc import Sequence
from types import MappingProxyType

_LAYERS = tuple(f"layer{number}" for number in range(1, 12))

PAPER_CUTS = MappingProxyType(
    {("vgg-paper", 4): ("block1", "block2", "block3")}
    | {(f"resnet{depth}", 4): _LAYERS[:3] for depth in (18, 34, 50)}
    | {(name, 2 + k): ("embedding", *_LAYERS[:k]) for name in ("lstm", "transformer") for k in range(len(_LAYERS) + 1)}
)
"""DeInfoReg's (arXiv 2506.18193): VGG in four groups, ResNets by stage; of texts the word vectors and each layer."""


def _behind(pairs: str) -> tuple[str, ...]:
    """Return the modules named by InfoPro's "stage,block": stages count from 1, their residual blocks from 0."""
    return tuple("layer{}.{}".format(*pair.split(",")) for pair in pairs.split())


INFOPRO_CUTS = MappingProxyType({
    ("resnet32", 2): _behind("2,1"), ("resnet32", 3): _behind("1,4 2,4"), ("resnet32", 4): _behind("1,2 2,1 3,0"),
    ("resnet32", 8): _behind("1,0 1,2 1,4 2,1 2,3 3,0 3,2"),
    # behind the stem and each residual block but the last
    ("resnet32", 16): ("relu", *_behind("1,0 1,1 1,2 1,3 1,4 2,0 2,1 2,2 2,3 2,4 3,0 3,1 3,2 3,3")),
    ("resnet110", 2): _behind("2,8"), ("resnet110", 3): _behind("1,17 2,17"),
    ("resnet110", 4): _behind("1,11 2,7 3,3"), ("resnet110", 8): _behind("1,4 1,11 2,0 2,7 2,14 3,3 3,10"),
    ("resnet110", 16): _behind("1,1 1,4 1,7 1,10 1,13 1,16 2,1 2,4 2,7 2,11 2,15 3,1 3,5 3,9 3,13"),
})  # fmt: skip
"""InfoPro's (ICLR 2021, and its public settings for K = 3): about as many residual blocks in each, the first short."""

INFOPRO_BALANCED_CUTS = MappingProxyType({
    ("resnet32", 2): _behind("1,3"), ("resnet32", 4): _behind("1,2 1,4 2,2"),
    ("resnet32", 8): _behind("1,1 1,2 1,3 2,1 2,2 3,1 3,2"),
    ("resnet110", 2): _behind("1,14"), ("resnet110", 3): _behind("1,9 2,2"), ("resnet110", 4): _behind("1,6 1,14 2,8"),
})  # fmt: skip
"""InfoPro*'s for 32×32 images: about as much memory in each block; ResNet-32's as ContSup publishes them. For STL-10
they are the same, but for K = 3 layer1.8 and layer2.1."""

FDG_CUTS = MappingProxyType({
    ("resnet20", 2): _behind("2,0"), ("resnet20", 3): _behind("1,2 2,2"), ("resnet18", 2): ("layer2",),
    ("resnet56", 2): _behind("2,3"), ("resnet56", 3): _behind("1,8 2,8"), ("resnet56", 4): _behind("1,5 2,3 3,1"),
    ("resnet110", 2): _behind("2,8"), ("resnet110", 4): _behind("1,12 2,8 3,4"),
    ("resnet110", 5): _behind("1,9 2,2 2,13 3,6"), ("wrn28", 2): _behind("2,1"), ("wrn28", 4): _behind("1,2 2,1 3,0"),
})  # fmt: skip
"""FDG's (Zhuang et al., arXiv 1906.09108; its public code)."""

DDG_CUTS = MappingProxyType({
    ("resnet56", 2): _behind("2,3"), ("resnet110", 2): _behind("2,7"), ("resnet110", 4): _behind("1,11 2,8 3,5"),
})  # fmt: skip
"""Those of DDG (Huo et al., ICML 2018) and of FR: as many layers, listed flat, in each."""

TABLES = {"infopro": INFOPRO_CUTS, "infopro-balanced": INFOPRO_CUTS, "fdg": FDG_CUTS, "ddg": DDG_CUTS}
NAMED_CUTS = ("auto", *TABLES)
"""What `find` knows by name, beside the quantities that `kit.split` balances."""


def find(cuts: str | Sequence[str], backbone: str, num_blocks: int) -> tuple[str, list[str] | None]:
    """Return the `balance` and the cut points `at` that `kit.split` takes, for cuts by name or by a list of points.

    `auto`: those of DeInfoReg's paper, else by parameters. `infopro`, `fdg`, `ddg`: those of that paper.
    `infopro-balanced`: those of InfoPro*, and where it has none for one of InfoPro's models and K, the same idea:
    `balance="memory"`. Any other name is a balance. Raises ValueError for a model or K that the paper does not cut.
    """
    if not isinstance(cuts, str):
        if len(cuts) + 1 != num_blocks:
            raise ValueError(f"cuts={list(cuts)} make {len(cuts) + 1} blocks, but num_blocks={num_blocks}")
        return "params", list(cuts)
    case = backbone, num_blocks
    if cuts not in NAMED_CUTS:
        return cuts, None
    if cuts == "auto":
        return "params", list(PAPER_CUTS[case]) if case in PAPER_CUTS else None
    table, counts = TABLES[cuts], {}
    for name, count in sorted(table, key=lambda case: (len(case[0]), *case)):
        counts.setdefault(name, [1]).append(count)
    if num_blocks not in counts.get(backbone, ()):
        cut = "; ".join(f"{name} into {', '.join(map(str, found))}" for name, found in counts.items())
        raise ValueError(
            f"cuts={cuts!r} with backbone={backbone!r} and num_blocks={num_blocks}, but these cuts are published for: "
            f"{cut} blocks. Choose one of these, or a cut for any model: cuts='memory', 'params', 'layers', 'time' or "
            "a list of cut points"
        )
    at = {(backbone, 1): ()} | dict(INFOPRO_BALANCED_CUTS if cuts == "infopro-balanced" else table)
    return "memory", list(at[case]) if case in at else None
