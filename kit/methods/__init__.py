"""The registry: a method's name, and how each of its blocks gets its head and its loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from torch import Tensor, nn

from kit import growth, heads
from kit.block import Block
from kit.compute import optimizers
from kit.compute.precision import resolve
from kit.context import parse
from kit.errors import unknown
from kit.methods.objectives import AL, SCPL, CrossEntropy, DeInfoReg, InfoPro, Objective, PredSim
from kit.net import Net
from kit.plan import Place, Plan, output_shapes, widest
from kit.splitting.split import split_classifier


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
    example: Tensor | Mapping[str, Tensor],
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
    start: int | None = None,
    **options: object,
) -> Net:
    """Return the net whose blocks are `stages`, each trained by `method`'s local loss.

    `stages` are modules that compose to a model, as `kit.split` gives them; `example` is a batch of the model's
    inputs, from which the heads take their sizes. A classifier at the end of the last stage becomes the last block's
    head, or is left out by methods that bring their own (`deinforeg`). Heads draw their first weights from (`seed`,
    block), so that they do not depend on the stages or on each other. The optimizer's settings and `precision` hold
    for every block. `context` gives blocks more to see than their predecessor's output: the network's input (`E`), so
    many earlier outputs (`R1`, `R2`, …), or both (`R1E`). `pixels` turns inputs into images in [0, 1], for methods that
    reconstruct them. A net that grows begins with the first `start` stages and gets the others with `net.grow()`; for
    blocks that see more than the net's input, `example` holds every view by its name, the input's being `x`. `options`
    are the method's own: see `kit.methods.REGISTRY[method].options`. Raises ValueError for an unknown name, and for an
    optimizer, precision or option that does not exist.
    """
    supply = parse(context, len(stages))
    chosen = lookup(method, options)
    examples = dict(example) if isinstance(example, Mapping) else {"x": example}
    example = examples["x"]
    dtype = resolve(precision, example.device)
    make_optimizer = partial(
        optimizers.optimizer,
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
    shapes = output_shapes(stages, example)
    if classifier is None and shapes[-1] == (num_classes,):
        classifier = nn.Identity()  # the model ends in logits without a Linear, as SqueezeNet does
    channels_last = dtype is not None and example.ndim == 4
    plan = Plan(
        groups=[stages] if chosen.end_to_end else [[stage] for stage in stages],
        classifier=classifier,
        example={name: view[:2].detach().clone() for name, view in examples.items()},
        shapes=shapes,
        widest=widest(stages, shapes),
        num_classes=num_classes,
        objective=partial(chosen.objective, **options),
        probe=greedy,
        make_optimizer=make_optimizer,
        supply=supply,
        dtype=dtype,
        channels_last=channels_last,
        seed=seed,
        pixels=pixels,
        end_to_end=chosen.end_to_end,
    )
    blocks: list[Block] = []
    for k in range(_first(start, plan, method)):
        blocks.append(plan.block(k, [block.objective for block in blocks]))
    growth.link(blocks)
    return Net(blocks, method, num_classes, channels_last, plan)


def _first(start: int | None, plan: Plan, method: str) -> int:
    """Return how many blocks a net starts with. Raises ValueError for a number that its plan does not have."""
    if start is None:
        return len(plan)
    if plan.end_to_end:
        raise ValueError(f"start={start}, but a {method} net is trained as a whole, from its first to its last layer")
    if not isinstance(start, int) or isinstance(start, bool) or not 1 <= start <= len(plan):
        raise ValueError(f"start={start!r}, but there are {len(plan)} stages; choose 1 to {len(plan)}, or None for all")
    return start
