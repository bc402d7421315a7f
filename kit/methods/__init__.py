"""The registry: a method's name, and how each of its blocks gets its head and its loss."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from math import isqrt
from types import MappingProxyType
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from kit import growth
from kit.block import Block
from kit.compute.optimizers import OptimizerSettings
from kit.compute.precision import resolve
from kit.context import Encoding, parse
from kit.delayed import Delay, DelayedBlock
from kit.errors import check_name
from kit.methods import al, cross_entropy, deinforeg, infopro, late, predsim, scpl
from kit.methods.method import Method
from kit.methods.registry import Registry
from kit.modules import takes_mask
from kit.net import Net
from kit.plan import Plan, pooling, widest
from kit.settings import Count, Positive, Whole, accept, typed
from kit.shapes import Shape, output_shapes
from kit.splitting.stage import split_classifier

REGISTRY = Registry(
    {
        "bp": cross_entropy.BP,
        "greedy": cross_entropy.GREEDY,
        "dgl": cross_entropy.DGL,
        "predsim": predsim.METHOD,
        "scpl": scpl.METHOD,
        "al": al.METHOD,
        "infopro": infopro.METHOD,
        "deinforeg": deinforeg.METHOD,
        "fdg": late.FDG,
        "ddg": late.DDG,
        "fr": late.FR,
        "pipedream": late.PIPEDREAM,
    }
)

Stages = Annotated[Sequence[nn.Module], Field(min_length=1, description="a list of modules, as kit.split cuts a model")]

register = REGISTRY.register

METHODS: Mapping[str, str] = MappingProxyType(REGISTRY.summaries)
"""Every method's name with a line on what it is."""


def lookup(name: str, options: Mapping[str, object] = MappingProxyType({})) -> Method:
    """Return the method of that name; ValueError for a name that does not exist, and options that it does not take."""
    check_name("method", name, REGISTRY)
    REGISTRY[name].check(name, options)
    return REGISTRY[name]


@typed
def decouple(
    stages: Stages,
    method: str,
    num_classes: Count,
    example: Tensor | Mapping[str, Tensor],
    context: str = "none",
    optimizer: str | OptimizerSettings = "adamw",
    lr: Positive = 1e-3,
    *,
    context_options: Mapping[str, object] = MappingProxyType({}),
    precision: str = "fp32",
    seed: Whole = 0,
    pixels: Callable | None = None,
    start: int | None = None,
    shapes: Sequence[object] | None = None,
    **options: object,
) -> Net:
    """Return the net whose blocks are `stages`, each trained by `method`'s local loss.

    `stages` are modules that compose to a model, as `kit.split` gives them; `example` is a batch of the model's
    inputs, from which the heads take their sizes. A classifier at the end of the last stage becomes the last block's
    head, or is left out by methods that bring their own (`deinforeg`). Heads draw their first weights from (`seed`,
    block), so that they do not depend on the stages or on each other. `context` gives blocks more to see than their
    predecessor's output: the network's input (`E`), so many earlier outputs (`R1`, `R2`, …), or both (`R1E`);
    `context_options` are those of `kit.context.Encoding`. `pixels` turns inputs into images in [0, 1], for methods that
    reconstruct them. A net that grows begins with the first `start` stages and gets the others with `net.grow()`; for
    blocks that see more than the net's input, `example` holds every view by its name, the input's being `x`. `shapes`
    tell where the stages' outputs have their channels, if they are not to be found by one forward pass. `options` are
    those of the optimizer (`weight_decay`, `momentum`, `nesterov`, `trust`), and the method's own: see
    `kit.methods.REGISTRY[method].options`. Raises ValueError for an unknown name, for an optimizer, precision or option
    that does not exist, for stages that share what they learn, and for another `num_classes` than that of the model's
    classifier.
    """
    supply, settings = parse(context, len(stages)), optimizer
    encoding = Encoding(**accept("context option", context_options, Encoding))
    if not isinstance(optimizer, OptimizerSettings):
        names = {field.name for field in fields(OptimizerSettings)} & options.keys()
        settings = OptimizerSettings(optimizer=optimizer, lr=lr, **{name: options.pop(name) for name in names})
    chosen = lookup(method, options)
    delay = _delay(chosen, method, options, settings, precision, context) if chosen.delay else None
    examples = dict(example) if isinstance(example, Mapping) else {"x": example}
    check_name("view", "x", examples)
    example = examples["x"]
    dtype = resolve(precision, example.device)
    *body, last = stages
    wants_map = options.get("last", chosen.options.get("last")) == "map"
    trunk, classifier = split_classifier(last, num_classes, pool=not wants_map)
    stages = [*body, trunk]
    found = output_shapes(stages, example) if shapes is None else [Shape(shape) for shape in shapes]
    width = next((m.in_features for m in classifier.modules() if isinstance(m, nn.Linear)), 0) if classifier else 0
    if wants_map and width and found[-1] != (width,):
        side = isqrt(found[-1][0] // width)  # the classifier read a pooled map; heads of their own read it whole
        stages[-1], classifier = nn.Sequential(trunk, nn.Unflatten(1, (width, side, side))), None
        found[-1] = Shape((width, side, side))
    if classifier is None and found[-1] == (num_classes,):
        classifier = nn.Identity()  # the model ends in logits without a Linear, as SqueezeNet does
    if classifier is None and len(found[-1]) == 1 and split_classifier(last, *found[-1])[1] is not None:
        raise ValueError(
            f"num_classes={num_classes}, but the model ends in a Linear with {found[-1][0]} outputs: give that number, "
            "or a model without classifier"
        )
    masked = any(map(takes_mask, stages))
    channels_last = dtype is not None and example.ndim == 4
    plan = Plan(
        groups=[stages] if chosen.end_to_end else [[stage] for stage in stages],
        classifier=classifier,
        example={name: view[:2].detach().clone() for name, view in examples.items()},
        shapes=[Shape(example.shape[1:], words=_words(stages[0])), *found],
        pools=[pooling(stage, shape) if masked else None for stage, shape in zip(stages, found, strict=True)],
        widest=widest(stages, found),
        num_classes=num_classes,
        objective=partial(chosen.build, **options),
        make_block=partial(DelayedBlock, delay=delay, num_blocks=len(stages)) if delay and body else Block,
        probe=cross_entropy.greedy_objective,
        make_optimizer=partial(settings.make_optimizer, fused=precision != "fp32"),  # fp32 promises PyTorch's own bits
        supply=supply,
        encoding=encoding,
        dtype=dtype,
        channels_last=channels_last,
        seed=seed,
        pixels=pixels,
        one_loss=chosen.one_loss,
    )
    blocks: list[Block] = []
    for k in range(_first(start, plan, method)):
        blocks.append(plan.block(k, [block.objective for block in blocks]))
    growth.link(blocks)
    return Net(blocks, method, num_classes, channels_last, plan)


def _words(stage: nn.Module) -> int:
    """Return how many words the stage embeds; 0 where it reads no words."""
    return next((part.num_embeddings for part in stage.modules() if isinstance(part, nn.Embedding)), 0)


def _delay(
    chosen: Method, method: str, options: dict, settings: OptimizerSettings, precision: str, context: str
) -> Delay:
    """Take the options that say how gradients come late out of `options`."""
    if context != "none":
        raise ValueError(f"context={context!r}, but {method} passes one gradient back along the net itself: use none")
    delay = replace(chosen.delay, **{name: options.pop(name) for name in vars(chosen.delay).keys() & options.keys()})
    if delay.weights == "mixed" and precision != "fp32":
        raise ValueError(
            f"precision={precision!r} with weights='mixed': a bf16 graph keeps copies of weights and cannot meet "
            "today's; choose precision='fp32', or weights='stashed' or 'replayed'"
        )
    if delay.weights == "predicted" and (settings.optimizer != "sgd" or not settings.momentum):
        raise ValueError(
            f"optimizer={settings.optimizer!r} and momentum={settings.momentum:g} with weights='predicted': weights "
            "are predicted by sgd's momentum; choose optimizer='sgd' and a momentum, or weights='stashed'"
        )
    return delay


def _first(start: int | None, plan: Plan, method: str) -> int:
    """Return how many blocks a net starts with. Raises ValueError for a number that its plan does not have."""
    if start is None:
        return len(plan)
    if plan.one_loss:
        raise ValueError(f"start={start}, but a {method} net is trained as a whole, from its first to its last layer")
    if not 1 <= start <= len(plan):
        raise ValueError(f"start={start!r}, but there are {len(plan)} stages; choose 1 to {len(plan)}, or None for all")
    return start
