"""ContSup's context in its published form, against a walk written from its code; and what remains of the old forms."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kit
from kit.context import Context, Encoding, Needs, supplied
from kit.shapes import Shape

torch.set_num_threads(1)
OLD = {"reads": "received", "repeated": "encode", "encoders": "plain"}
SHAPES = [Shape((3, 8, 8)), Shape((6, 8, 8)), Shape((6, 8, 8)), Shape((8, 4, 4)), Shape((8, 4, 4))]


def net(context, **options):
    torch.manual_seed(0)
    widths, strides = [3, 6, 6, 8, 8], [1, 1, 2, 1]
    stages = [
        nn.Sequential(nn.Conv2d(i, o, 3, s, padding=1), nn.BatchNorm2d(o), nn.ReLU())
        for i, o, s in zip(widths[:-1], widths[1:], strides, strict=True)
    ]
    stages[-1] = nn.Sequential(*stages[-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return kit.decouple(stages, "greedy", 4, torch.randn(2, 3, 8, 8), context, context_options=options)


def encode(encoder, x, size):
    """Run convolutions and batch norm in evaluation mode, by PyTorch's functions alone."""
    for layer in encoder:
        if isinstance(layer, nn.Conv2d):
            x = F.conv2d(x, layer.weight, layer.bias, padding=layer.padding[0])
        elif isinstance(layer, nn.BatchNorm2d):
            x = F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)
            x = F.relu(x)
    return F.adaptive_avg_pool2d(x, size)


@pytest.mark.parametrize("context", ["E", "R1", "R2", "R1E", "R2E"])
def test_the_walk_is_contsups(context):
    """Each block's input is what the block before gave, with E(x) and R of the inputs before, context included."""
    own = net(context).eval()
    x = torch.randn(4, 3, 8, 8)
    image, depth = "E" in context, int(context[1]) if context[0] == "R" else 0
    signal, h, entered = own.signal(x), x, []
    for k, block in enumerate(own):
        if k:
            size = h.shape[2:]
            total = h + encode(block.context.image, x, size) if image else h
            sources = entered[::-1][:depth]
            if image and len(sources) == k:
                sources = sources[:-1]  # the oldest is x, which E reads
            for encoder, source in zip(block.context.earlier, sources, strict=True):
                total = total + encode(encoder, source, size)
            h = total
        torch.testing.assert_close(block.enter(signal), h)
        signal = own[k].pass_through(signal)
        entered.append(h)
        h = block.body(h)
    assert len(signal.context) == 0  # the last block hands on nothing


def test_what_is_handed_on_is_detached_and_freed():
    own = net("R1E")
    signal = own.signal(torch.randn(4, 3, 8, 8), torch.arange(4))
    for block in list(own)[:2]:
        signal = block.step(signal)
    assert not signal.context[0].requires_grad and own[1].entered is None
    own[2].step(signal)
    assert all(p.grad is None for p in own[1].parameters())


def test_the_old_reading():
    """R reads what a block received, and beside E the network's input once more; encoders without bias."""
    own = net("R1E", **OLD).eval()
    signal = own.signal(x := torch.randn(4, 3, 8, 8))
    assert len(own[1].context.earlier) == 1
    assert not any(m.bias is not None for m in own[1].context.modules() if isinstance(m, nn.Conv2d))
    first = own[0].pass_through(signal)
    torch.testing.assert_close(
        own[1].enter(first),
        first.h + encode(own[1].context.image, x, (8, 8)) + encode(own[1].context.earlier[0], x, (8, 8)),
    )
    second = own[1].pass_through(first)
    assert torch.equal(second.context[0], first.h)


def test_encoders_begin_with_fan_out_weights():
    torch.manual_seed(0)
    shape = Shape((64, 8, 8))
    context = Context(shape, SHAPES[0], [shape], Encoding())
    first, second = (m for m in context.image if isinstance(m, nn.Conv2d))
    assert first.bias is not None and abs(second.weight.std() - (2 / (9 * 64)) ** 0.5) < 0.003
    plain = Context(shape, SHAPES[0], [shape], Encoding(encoders="plain"))
    assert plain.image[0].bias is None and plain.image[0].weight.abs().max() <= 27**-0.5


def test_refusals():
    with pytest.raises(ValueError, match="unknown context option 'read': did you mean 'reads'"):
        net("E", read="entered")
    with pytest.raises(ValueError, match="unknown reads 'enter'"):
        kit.RunConfig(context="E", context_options={"reads": "enter"})
    assert supplied(Needs(), 2, SHAPES[:3], torch.zeros(2, 3, 8, 8)) is None


def test_contsup_without_infopro_has_no_decoder():
    """The task loss alone, with weight 1, on images that nobody can turn into pixels."""
    own = kit.decouple(net("none").plan.groups[0] + net("none").plan.groups[1], "infopro", 8,
                       torch.randn(2, 3, 8, 8), decoder="none", task="contrast")  # fmt: skip
    assert set(own[0].losses(own.signal(torch.randn(6, 3, 8, 8), torch.arange(6) % 2))[1]) == {"contrast", "ce"}
    assert own[0].objective.weights == {"contrast": 1.0, "ce": 1.0} and not own[0].needs.x
