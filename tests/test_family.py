"""Every method of the registry on every kind of model with every kind of context; and what cannot be, refused."""

import copy
from functools import cache

import pytest
import torch
from test_methods import SMALL
from torch import nn
from torchvision.models import VisionTransformer

import kit
from kit.methods import REGISTRY
from tests.test_methods import AT_ONCE

torch.set_num_threads(1)
NUM_BLOCKS = 3


@cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Sixteen digits in three channels, as the models take them: (16, 3, 8, 8)."""
    x, y = next(kit.load_data("digits", limit=100).batches("train", 16, epoch=0))
    return x.expand(-1, 3, -1, -1).contiguous(), y


def vit() -> nn.Module:
    model = VisionTransformer(8, patch_size=4, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=10)
    nn.init.normal_(model.heads.head.weight, std=0.1)  # torchvision's zeros would let no gradient through at first
    return model


MODELS = {
    "resnet32": lambda: kit.backbone("resnet32", width=0.25, image_size=8),
    "vit": vit,
    "mlp": lambda: kit.backbone("mlp", image_size=8, depth=6, hidden=16),
}


@cache
def cut(name: str) -> tuple[list[nn.Module], list[dict]]:
    """Return the model's stages, and their first weights."""
    torch.manual_seed(0)
    stages = kit.split(MODELS[name](), NUM_BLOCKS, digits()[0], balance="layers")
    return stages, [copy.deepcopy(stage.state_dict()) for stage in stages]


def stages(name: str) -> list[nn.Module]:
    """Return the model's stages as at the beginning; cutting anew would take longer than the test."""
    for stage, weights in zip(*cut(name), strict=True):
        stage.load_state_dict(weights)
        stage.zero_grad()
    return cut(name)[0]


@pytest.mark.parametrize("context", ["none", "E", "R1", "R1E"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", AT_ONCE)
def test_every_method_trains_every_model_with_every_context(method, model, context):
    x, y = digits()
    options = SMALL.get(method, {})
    net = kit.decouple(stages(model), method, 10, x, context=context, optimizer="sgd", lr=0.1, **options)
    before = {name: value.clone() for name, value in net.named_parameters()}
    net.step(x, y)
    assert all(torch.isfinite(term) for block in net for term in block.last_terms.values())
    moved = {name for name, value in net.named_parameters() if not torch.equal(before[name], value)}
    for k, block in enumerate(net):
        assert any(name.startswith(f"blocks.{k}.body.") for name in moved), f"block {k + 1} did not learn"
        with_context = k > 0 and context != "none"
        assert (block.context is not None) == with_context
        assert any(name.startswith(f"blocks.{k}.context.") for name in moved) == with_context
    answers = net.predict(x)
    assert len(answers) == NUM_BLOCKS
    assert all(logits.shape == (16, 10) and torch.isfinite(logits).all() for logits in answers)


def convolutions() -> list[nn.Module]:
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    return [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), last]


def test_more_earlier_outputs_than_blocks():
    message = r"context='R4E' asks for 4 earlier outputs, but the net has only num_blocks=3; choose R1 to R3"
    with pytest.raises(ValueError, match=message):
        kit.decouple(convolutions(), "greedy", 10, digits()[0], context="R4E")
    with pytest.raises(ValueError, match=message):
        kit.RunConfig(num_blocks=3, context="R4E")
    assert len(kit.decouple(convolutions(), "greedy", 10, digits()[0], context="R3E")) == 3


class AsMap(nn.Module):
    """Token embeddings as a map of one row, for a convolution."""

    def forward(self, h):
        return h.movedim(-1, 1)[:, :, None]


class OneHot(nn.Module):
    """Token ids as rows without an embedding."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(50, 8)

    def forward(self, ids):
        return self.linear(nn.functional.one_hot(ids, 50).float())


@pytest.mark.parametrize("context", ["E", "R1", "R2E"])
def test_token_ids_are_context_once_they_are_embedded(context):
    ids = torch.randint(50, (4, 6))
    convolution = nn.Sequential(AsMap(), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    message = r"context gives block 2 the network's input, .* shape \(6,\) and torch.int64 .*: use context='none'"
    with pytest.raises(ValueError, match=message):
        kit.decouple([OneHot(), convolution], "greedy", 10, ids, context=context)
    net = kit.decouple([nn.Embedding(50, 8), convolution], "greedy", 10, ids, context=context)
    (encoder,) = [part for part in net[1].context.modules() if isinstance(part, nn.Embedding)]
    before = encoder.weight.clone()
    net.step(ids, torch.arange(4))
    moved = (encoder.weight != before).any(1).nonzero().flatten()
    assert encoder.weight.shape == (50, 8) and {*moved.tolist()} >= {*ids.unique().tolist()}


def test_vectors_do_not_become_maps():
    lift = nn.Sequential(nn.Linear(5, 64), nn.Unflatten(1, (4, 4, 4)))
    with pytest.raises(
        ValueError, match=r"context of shape \(5,\) cannot be brought .*\(4, 4, 4\): use context='none'"
    ):
        kit.decouple([lift, *convolutions()[1:]], "greedy", 10, torch.zeros(2, 5), context="E")


COMPARING = [name for name in REGISTRY if name in ("scpl", "predsim", "deinforeg")]


@pytest.mark.parametrize(
    ("method", "options"), [*((name, {}) for name in COMPARING), ("infopro", {"task": "contrast"})]
)
def test_losses_that_compare_samples_refuse_a_single_one(method, options):
    x, y = digits()
    net = kit.decouple(convolutions(), method, 10, x, **(SMALL.get(method, {}) | options))
    with pytest.raises(
        ValueError, match="block 1 got a batch of 1 sample, but its loss compares samples: give at least 2"
    ):
        net.step(x[:1], y[:1])


@pytest.mark.parametrize(("method", "options"), [("scpl", {}), ("infopro", {"task": "contrast"})])
def test_a_batch_of_one_class_contrasts_nothing_and_ends_no_run(method, options):
    x, _ = digits()
    net = kit.decouple(convolutions(), method, 10, x, **(SMALL.get(method, {}) | options))
    net.step(x, torch.full((16,), 7))
    assert all(torch.isfinite(term) for block in net for term in block.last_terms.values())


def test_correlating_labels_takes_two_classes():
    net = kit.decouple(convolutions()[:1] + [nn.Flatten()], "predsim", 1, digits()[0])
    with pytest.raises(ValueError, match="num_classes=1, but correlating labels takes at least 2 classes"):
        net.step(digits()[0], torch.zeros(16, dtype=torch.int64))
