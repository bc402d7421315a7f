"""The registry: a method's name, and how each of its blocks gets its head and its loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from kit import seeds
from kit.blocks import heads, optim
from kit.blocks.block import Block
from kit.blocks.context import parse, supplied
from kit.blocks.net import Net
from kit.blocks.objectives import AL, SCPL, CrossEntropy, DeInfoReg, InfoPro, Objective, PredSim
from kit.blocks.precision import resolve
from kit.blocks.split import split_classifier
from kit.errors import unknown


@dataclass(frozen=True)
class Place:
    """Where in the net an objective goes."""

    shape: tuple[int, ...]
    """Shape of the features it reads, without the batch."""

    num_classes: int

    widest: int
    """Channels of the net's widest place: auxiliary nets grow up to it."""

    classifier: nn.Module | None
    """The model's own classifier, at its end; None elsewhere."""

    index: int
    """Number of cuts before it."""

    num_places: int

    image: tuple[int, ...]
    """Shape of the network's input, without the batch."""

    pixels: Callable[[Tensor], Tensor] | None
    """Turns the network's input into images in [0, 1]; None where nobody said how."""

    before: tuple[Objective, ...] = ()
    """The objectives of the blocks before it."""


@dataclass(frozen=True)
class Method:
    """A way to train: one line of description, and the builder of one objective from its place and options."""

    summary: str
    objective: Callable[..., Objective]
    source: str
    end_to_end: bool = False
    """One block for the whole net; the cuts are only watched."""

    @property
    def options(self) -> dict[str, object]:
        """The method's options with their defaults."""
        parameters = list(inspect.signature(self.objective).parameters.values())[1:]
        return {p.name: p.default for p in parameters}


def greedy(place: Place) -> CrossEntropy:
    """Cross-entropy of average pooling and a Linear; at the end, of the model's own classifier."""
    return dgl(place, aux="0c1f")


def dgl(place: Place, aux: str = "1c2f") -> CrossEntropy:
    """Cross-entropy of a small auxiliary classifier (Belilovsky et al., ICML 2020)."""
    if place.classifier is not None:
        return CrossEntropy(place.classifier)
    return CrossEntropy(heads.aux_net(aux, place.shape, place.num_classes, place.widest))


def deinforeg(
    place: Place,
    variant: str = "paper",
    widths: Sequence[int] = (2048, 2048, 2048),
    pool: int | None = None,
    classifier: str = "merge",
    weights: Mapping[str, float] | None = None,
) -> DeInfoReg:
    """Variance, invariance and covariance of a projection (Huang et al., Neurocomputing 651, 2025)."""
    if classifier not in ("merge", "unmerge"):
        raise unknown("classifier", classifier, ("merge", "unmerge"))
    projector = heads.projector(place.shape, widths, pool)
    if classifier == "merge":
        answer = nn.Sequential(nn.BatchNorm1d(widths[-1]), nn.ReLU(), nn.Linear(widths[-1], place.num_classes))
    else:
        answer = heads.projector(place.shape, (512, place.num_classes), pool)
    return DeInfoReg(projector, answer, place.num_classes, variant, classifier == "merge", weights)


def predsim(place: Place, beta: float = 0.99) -> PredSim:
    """Cross-entropy and similarity matching (Nøkland & Eidnes, ICML 2019)."""
    if not 0 <= beta <= 1:
        raise ValueError(f"beta={beta!r}, but it has to be a share in [0, 1]: of the similarity loss, the rest is CE's")
    return PredSim(greedy(place).head, heads.similarity_net(place.shape), place.num_classes, beta)


def scpl(place: Place, widths: Sequence[int] = (512, 1024), pool: int | None = None, temperature: float = 0.1) -> SCPL:
    """Supervised contrast of a projection; a classifier that only watches (SCPL, arXiv 2602.00062)."""
    if temperature <= 0:
        raise ValueError(f"temperature={temperature!r}, but it has to be positive; the paper's is 0.1")
    return SCPL(heads.projector(place.shape, widths, pool), greedy(place).head, temperature)


INFOPRO_WEIGHTS = {2: (5, 0.5, 0, 0), 4: (1, 0, 0, 1), 8: (5, 0, 0, 1), 16: (5, 0, 0.5, 1)}
"""(α₁, β₁, α₂, β₂) by number of blocks: ResNet-110, contrast, CIFAR-10 (InfoPro, ICLR 2021, appendix)."""


def infopro(
    place: Place,
    task: str = "softmax",
    aux: str = "1c2f",
    weights: Sequence[float] | None = None,
) -> InfoPro | CrossEntropy:
    """Reconstruction of the input and a task loss; plain cross-entropy in the last block (Wang et al., ICLR 2021).

    `weights` are (α₁, β₁, α₂, β₂): α and β run linearly from their first to their last value over all blocks but the
    last. None takes the paper's for the nearest number of blocks in `INFOPRO_WEIGHTS`.
    """
    if task not in ("softmax", "contrast"):
        raise unknown("task", task, ("softmax", "contrast"))
    if place.index == place.num_places - 1:
        return dgl(place, aux)
    if place.pixels is None or len(place.image) != 3:
        raise ValueError(
            f"infopro reconstructs images in [0, 1] from inputs of shape {place.image}, whose range it does not know: "
            "give decouple pixels=, a function from the network's input to images, such as data.denormalize"
        )
    if weights is None:
        weights = INFOPRO_WEIGHTS[min(INFOPRO_WEIGHTS, key=lambda k: abs(k - place.num_places))]
    done = place.index / max(1, place.num_places - 2)
    alpha, beta = (first + (last - first) * done for first, last in zip(weights[:2], weights[2:], strict=True))
    if task == "softmax":
        own = dgl(place, aux)
    else:
        own = SCPL(heads.aux_net(aux, place.shape, 128, place.widest), greedy(place).head, temperature=0.07)
    return InfoPro(heads.Decoder(place.shape, place.image), own, place.pixels, alpha, beta)


def al(place: Place, code: int = 128, hidden: int = 512, pool: int | None = None) -> AL:
    """Features and labels meet in a code of `code` numbers in [-1, 1] (associated learning, Kao & Chen 2021)."""
    size = code if place.before else place.num_classes
    bridge = nn.Sequential(heads.projector(place.shape, (hidden, code), pool), nn.Tanh())
    encoder, decoder = nn.Sequential(nn.Linear(size, code), nn.Tanh()), nn.Sequential(nn.Linear(code, size))
    nn.init.xavier_uniform_(encoder[0].weight, nn.init.calculate_gain("tanh"))  # or classes' codes fade, block by block
    if place.before:  # the first decodes to labels, the others to codes
        decoder.append(nn.Tanh())
    return AL(bridge, encoder, decoder, place.num_classes, [objective.decoder for objective in place.before])


REGISTRY: Mapping[str, Method] = MappingProxyType(
    {
        "bp": Method(
            "backpropagation: one block, the cuts only watched by classifiers", greedy, "Rumelhart et al. 1986", True
        ),
        "greedy": Method(
            "cross-entropy of average pooling and a linear classifier at each block", greedy, "Belilovsky et al. 2020"
        ),
        "dgl": Method("cross-entropy of a small auxiliary network at each block", dgl, "Belilovsky et al. 2020"),
        "predsim": Method(
            "cross-entropy at each block, and similar features for samples of one class",
            predsim,
            "Nøkland and Eidnes 2019",
        ),
        "scpl": Method(
            "supervised contrast of each block's projection; classifiers only watch", scpl, "arXiv 2602.00062"
        ),
        "al": Method(
            "features and encoded labels brought together at each block, decoded the way back",
            al,
            "Kao and Chen 2021",
        ),
        "infopro": Method(
            "reconstruction of the input, with cross-entropy or contrast, at each block", infopro, "Wang et al. 2021"
        ),
        "deinforeg": Method(
            "variance, invariance and covariance of each block's projection, on labels",
            deinforeg,
            "Huang et al. 2025",
        ),
    }
)

METHODS: Mapping[str, str] = MappingProxyType({name: method.summary for name, method in REGISTRY.items()})
"""Every method's name with a line on what it is."""


def lookup(name: str, options: Mapping[str, object] = MappingProxyType({})) -> Method:
    """Return the method of that name; ValueError for a name or an option that does not exist."""
    if name not in REGISTRY:
        raise unknown("method", name, REGISTRY)
    for option in options:
        if option not in REGISTRY[name].options:
            raise unknown(f"option of method {name!r}:", option, REGISTRY[name].options)
    return REGISTRY[name]


def decouple(
    stages: Sequence[nn.Module],
    method: str,
    num_classes: int,
    example: Tensor,
    context: str = "none",
    optimizer: str = "adamw",
    lr: float = 1e-3,
    *,
    weight_decay: float | None = None,
    momentum: float = 0.9,
    nesterov: bool = False,
    precision: str = "fp32",
    seed: int = 0,
    pixels: Callable[[Tensor], Tensor] | None = None,
    **options: object,
) -> Net:
    """Return the net whose blocks are `stages`, each trained by `method`'s local loss.

    `stages` are modules that compose to a model, as `kit.split` gives them; `example` is a batch of the model's
    inputs, from which the heads take their sizes. A classifier at the end of the last stage becomes the last block's
    head, or is left out by methods that bring their own (`deinforeg`). Heads draw their first weights from (`seed`,
    block), so that they do not depend on the stages or on each other. The optimizer's settings and `precision` hold
    for every block. `context` gives blocks more to see than their predecessor's output: the network's input (`E`), so
    many earlier outputs (`R1`, `R2`, …), or both (`R1E`). `pixels` turns inputs into images in [0, 1], for methods that
    reconstruct them. `options` are the method's own: see `kit.methods.REGISTRY[method].options`. Raises ValueError for
    an unknown name, and for an optimizer, precision or option that does not exist.
    """
    supply = parse(context, len(stages))
    chosen = lookup(method, options)
    dtype = resolve(precision, example.device)
    make_optimizer = partial(
        optim.optimizer,
        optimizer,
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        nesterov=nesterov,
        fused=precision != "fp32",  # fp32 promises plain PyTorch's bits
    )
    *body, last = stages
    trunk, classifier = split_classifier(last, num_classes)
    stages = [*body, trunk]
    shapes = _output_shapes(stages, example)
    if classifier is None and shapes[-1] == (num_classes,):
        classifier = nn.Identity()  # the model ends in logits without a Linear, as SqueezeNet does
    widest = _widest(stages, shapes)
    channels_last = dtype is not None and example.ndim == 4

    def objective(k: int, build: Callable[..., nn.Module], **options: object) -> nn.Module:
        own = classifier if k == len(stages) - 1 else None
        before = tuple(block.objective for block in blocks)
        place = Place(shapes[k], num_classes, widest, own, k, len(stages), tuple(example.shape[1:]), pixels, before)
        with seeds.seeded(seed, "head", k):
            return heads.on(example.device, build(place, **options))

    inputs = [tuple(example.shape[1:]), *shapes[:-1]]
    groups = [stages] if chosen.end_to_end else [[stage] for stage in stages]
    blocks, end = [], 0
    for index, group in enumerate(groups):
        probes = [objective(end + i, greedy).head for i in range(len(group) - 1)]
        end += len(group)
        own = objective(end - 1, chosen.objective, **options)
        with seeds.seeded(seed, "context", index):
            extra = supplied(supply, index, inputs, example)
            extra = extra and heads.on(example.device, extra)
        if channels_last:
            nn.ModuleList([m for m in (*group, own, *probes, extra) if m]).to(memory_format=torch.channels_last)
        blocks.append(Block(group, own, make_optimizer, probes, extra, autocast=dtype, index=index, seed=seed))
    for k, block in enumerate(blocks):
        behind = range(k + 1, len(blocks))
        block.keep_x = any(supply.image or blocks[j].objective.needs_x for j in behind)
        block.depth = max((min(supply.depth, j) - (j - k - 1) for j in behind), default=0)
    return Net(blocks, method, num_classes, channels_last)


@torch.no_grad()
def _output_shapes(stages: Sequence[nn.Module], example: Tensor) -> list[tuple[int, ...]]:
    """Return each stage's output shape without the batch, found by one forward in evaluation mode."""
    h, shapes = example, []
    for stage in stages:
        training = stage.training
        h = stage.eval()(h)
        stage.train(training)
        shapes.append(tuple(h.shape[1:]))
    return shapes


def _widest(stages: Sequence[nn.Module], shapes: Sequence[tuple[int, ...]]) -> int:
    convs = [m.out_channels for stage in stages for m in stage.modules() if isinstance(m, nn.Conv2d)]
    return max(convs or [heads.num_channels(shape) for shape in shapes])
