"""Nets, blocks and signals: what students give them."""

import torch
from torch import nn

import kit
from kit.block import Block
from kit.context import parse
from kit.net import Net
from tests.bad_input.cases import Case, settings
from tests.bad_input.things import (
    BP,
    CONV,
    FDG,
    MODEL,
    NAN,
    NET,
    NORMED,
    SCPL,
    SEEN,
    SIGNAL,
    STAGES,
    X,
    Y,
    net,
    resting,
)

SHARED = nn.Linear(64, 64)
FLAT = X.flatten(1)
HALF = nn.Sequential(nn.Linear(64, 64), nn.ReLU())


def decouple(stages=STAGES, method="greedy", num_classes=10, example=X, **options):
    return kit.decouple(stages, method, num_classes, example, **options)


def tied(first, second):
    second.weight = first.weight
    return [first, second]


VALUES = {
    "method": ["gredy", None, 3],
    "num_classes": ["10", 0, -1, 10.0, None, 2.5, True],
    "lr": ["0.1", 0, -1, NAN, None],
    "optimizer": ["adamm", None, 3],
    "precision": ["fp23", None, 16],
    "seed": [-1, None, "0", 1.5],
    "start": [0, 4, "2", True],
    "weight_decay": [-1, "0"],
    "momentum": [1, "0.9"],
    "nesterov": ["no", 1],
    "context": ["E1", "R7", None, 2],
}

CASES = [
    *settings("decouple", decouple, VALUES),
    Case("decouple(model, …)", "stages…kit.split", lambda: decouple(MODEL)),
    Case("decouple(nn.Linear, …)", "stages", lambda: decouple(nn.Linear(4, 4))),
    Case("decouple([], …)", "stages", lambda: decouple([])),
    Case("decouple(None, …)", "stages=None", lambda: decouple(None)),
    Case("decouple(['layer1'], …)", "stages", lambda: decouple(["layer1"])),
    Case(
        "decouple([s, s, head], …)",
        "blocks 1 and 2 share the stage Linear",
        lambda: decouple([SHARED, SHARED, nn.Linear(64, 10)], example=FLAT),
    ),
    Case(
        "decouple([a, b with a's weight], …)",
        "share the tensor",
        lambda: decouple([*tied(nn.Linear(64, 64), nn.Linear(64, 64)), nn.Linear(64, 10)], example=FLAT),
    ),
    Case("decouple(…, 5) of a model of 10", "num_classes=5…10 outputs", lambda: decouple(num_classes=5)),
    Case("decouple(…, example=numpy)", "example", lambda: decouple(example=X.numpy())),
    Case("decouple(…, example=None)", "example=None", lambda: decouple(example=None)),
    Case("decouple(…, example=(1, 8, 8))", "example", lambda: decouple(example=(1, 8, 8))),
    Case("decouple(…, example={})", "unknown view 'x'", lambda: decouple(example={"top": X})),
    Case("decouple(…, beta=1) of greedy", "unknown option of method 'greedy'", lambda: decouple(beta=1)),
    Case("decouple(…, pixels=3)", "pixels=3", lambda: decouple(pixels=3)),
    Case("decouple(…, 'bp', start=1)", "start=1", lambda: decouple(method="bp", start=1)),
    Case("net(x)", "net.predict(x)", lambda: NET(X)),
    Case("net.signal(numpy)", "ndarray…torch.as_tensor", lambda: NET.signal(X.numpy(), Y)),
    Case("net.signal(x, numpy)", "y is a ndarray…torch.as_tensor", lambda: NET.signal(X, Y.numpy())),
    Case("net.signal(list)", "list…torch.as_tensor", lambda: NET.signal([1, 2], Y)),
    Case("net.signal(None)", "NoneType", lambda: NET.signal(None)),
    Case("net.signal(x, list)", "y is a list", lambda: NET.signal(X, [1, 2])),
    Case("net.signal(x, y.float())", "torch.float32…int64 class numbers", lambda: NET.signal(X, Y.float())),
    Case("net.signal(x, y.int())", "torch.int32…y.long()", lambda: NET.signal(X, Y.int())),
    Case("net.signal(x, one_hot(y))", "argmax(1)", lambda: NET.signal(X, torch.eye(10)[Y])),
    Case("net.signal(x, y[:, None])", "(8, 1)…one per row", lambda: NET.signal(X, Y[:, None])),
    Case("net.signal(x, y[:4])", "one batch…(4,)", lambda: NET.signal(X, Y[:4])),
    Case("net.signal(x, -y)", "labels: -1 at position 1…10 classes", lambda: NET.signal(X, -Y)),
    Case("net.signal(x, y + 5)", "labels: 10 at position 5…0 to 9", lambda: NET.signal(X, Y + 5)),
    Case("net.signal(x, labels 1 to 10)", "labels: 10 at position 7…renumber", lambda: NET.signal(X, Y + 3)),
    Case("net.signal(one image, y)", "batch", lambda: NET.signal(X[0], Y[:1])),
    Case("net.signal({'image': x}, y)", "unknown view 'x'…image", lambda: NET.signal({"image": X}, Y)),
    Case("net.step(x) of scpl with one sample", "batch of 1 sample…at least 2", lambda: SCPL.step(X[:1], Y[:1])),
    Case(
        "net.step(x, y) with a batch of one and batch norm",
        "batch of 1 sample…batch norm",
        lambda: NORMED.step(X[:1], Y[:1]),
    ),
    Case("net.step(x, y) in evaluation mode", "evaluation mode…net.train()", lambda: resting().step(X, Y)),
    Case(
        "Net(blocks).new_block(module)", "no plan…kit.decouple", lambda: Net(net(), "greedy", 10).new_block(nn.ReLU())
    ),
    Case("net.step(x, None)", "without labels", lambda: NET.step(X, None)),
    Case("fdg.step(x, None)", "without labels", lambda: FDG.step(X, None)),
    Case("fdg.step(x, y) in evaluation mode", "evaluation mode", lambda: net("fdg").eval().step(X, Y)),
    Case("fdg[0].step(signal)", "gradient that comes late", lambda: FDG[0].step(SIGNAL)),
    Case("net.step(x of another size, y)", "block 1…(B, 1, 8, 8)", lambda: NET.step(X[..., :4], Y)),
    Case("net.step(x of three channels, y)", "block 1…(B, 1, 8, 8)", lambda: CONV.step(X.expand(8, 3, 8, 8), Y)),
    Case("net.step(x.double(), y)", "block 1…float64", lambda: NET.step(X.double(), Y)),
    Case("net.step(uint8, y)", "block 1…uint8", lambda: NET.step((X * 255).byte(), Y)),
    Case("net.step(x.half(), y)", "block 1…float16", lambda: NET.step(X.half(), Y)),
    Case("net.predict(one image)", "x[None]", lambda: NET.predict(X[0])),
    Case("net.predict(one image without channel)", "(8, 8)", lambda: NET.predict(X[0, 0])),
    Case("net.predict(numpy)", "ndarray", lambda: NET.predict(X.numpy())),
    Case("net.predict(wrong size)", "(B, 1, 8, 8)", lambda: NET.predict(X[..., :4])),
    Case("net.predict('x')", "str", lambda: NET.predict("x")),
    Case("net.predict(x.double())", "float64", lambda: NET.predict(X.double())),
    Case("block.step(x)", "block 1 takes a signal…net.signal(x, y)", lambda: NET[0].step(X)),
    Case("block.step((x, y))", "takes a signal…tuple", lambda: NET[0].step((X, Y))),
    Case("block.step(None)", "takes a signal…NoneType", lambda: NET[1].step(None)),
    Case("block.step(signal without labels)", "without labels", lambda: NET[0].step(NET.signal(X))),
    Case("block(x)", "takes a signal", lambda: NET[0](X)),
    Case("block.losses(x)", "takes a signal", lambda: NET[0].losses(X)),
    Case("block.pass_through(x)", "takes a signal", lambda: NET[0].pass_through(X)),
    Case(
        "block 2 gets block 1's signal", "block 2…that the one before returned", lambda: CONV[1].step(CONV.signal(X, Y))
    ),
    Case("block 3 gets block 1's signal", "block 3", lambda: NET[2].step(SIGNAL)),
    Case("Signal(numpy)", "ndarray", lambda: kit.Signal(X.numpy())),
    Case("Signal(h, y.float())", "int64", lambda: kit.Signal(X, Y.float())),
    Case("Signal(h, y, x=numpy)", "x is a ndarray", lambda: kit.Signal(X, Y, x=X.numpy())),
    Case("Signal(h, y of another size)", "one batch", lambda: kit.Signal(X, Y[:3])),
    Case("Signal(h, y, x of another size)", "one batch…x (4", lambda: kit.Signal(X, Y, X[:4])),
    Case("Signal(h, context=(3,))", "is a int", lambda: kit.Signal(X, context=(3,))),
    Case("Signal(h, views={'top': 3})", "top is a int", lambda: kit.Signal(X, views={"top": 3})),
    Case("Signal(a number's tensor)", "one batch", lambda: kit.Signal(torch.tensor(1.0))),
    Case("Block([], …)", "0 stages", lambda: Block([], NET[0].objective, torch.optim.SGD)),
    Case("Block(module, …)", "stages", lambda: Block(nn.Linear(4, 4), NET[0].objective, torch.optim.SGD)),
    Case(
        "Block(stages, 'greedy', …)", "objective='greedy'", lambda: Block([nn.Linear(4, 4)], "greedy", torch.optim.SGD)
    ),
    Case("Block(…, make_optimizer='sgd')", "make_optimizer='sgd'", lambda: Block(STAGES[:1], NET[0].objective, "sgd")),
    Case("Block(…, index='0')", "index='0'", lambda: Block(STAGES[:1], NET[0].objective, torch.optim.SGD, index="0")),
    Case(
        "Block(two stages without a probe)",
        "2 stages with 0 probes",
        lambda: Block(STAGES[:2], NET[0].objective, torch.optim.SGD),
    ),
    Case("net.append(nn.Linear)", "net.new_block(module)", lambda: NET.append(nn.Linear(10, 10))),
    Case("net.append(its own block)", "in the net already", lambda: NET.append(NET[0])),
    Case("net.insert(9, block)", "cannot insert before block 9", lambda: NET.insert(9, net()[0])),
    Case("net.insert(-1, block)", "cannot insert before block -1", lambda: NET.insert(-1, net()[0])),
    Case("net.insert('0', block)", "k='0'", lambda: NET.insert("0", net()[0])),
    Case("net.insert(1.0, block)", "k=1.0", lambda: NET.insert(1.0, net()[0])),
    Case("net.append(block of another size)", "net.new_block", lambda: NET.append(CONV[1])),
    Case(
        "net.append(block with the net's stage)",
        "share",
        lambda: CONV.append(Block([CONV[2].body[0]], CONV[2].objective, lambda p: torch.optim.SGD(p, 0.1))),
    ),
    Case("net.grow() with all blocks there", "max_blocks=3", lambda: NET.grow()),
    Case(
        "net.grow(side='bottom')",
        "unknown view 'bottom'…top",
        lambda: kit.decouple(kit.split(MODEL, 3, X), "greedy", 10, {"x": X, "top": X}, start=1).grow("bottom"),
    ),
    Case("bp.grow()", "does not grow", lambda: BP.grow()),
    Case("net.new_block(3)", "module=3", lambda: NET.new_block(3)),
    Case("net.new_block(module that does not fit)", "Linear", lambda: NET.new_block(nn.Linear(3, 4))),
    Case(
        "net.new_block(module, side='left')", "unknown view 'left'…top", lambda: SEEN.new_block(nn.Identity(), "left")
    ),
    Case("net.new_block(module, side=3)", "side=3", lambda: SEEN.new_block(nn.Identity(), 3)),
    Case("net.freeze(9)", "upto=9…0 to 3", lambda: NET.freeze(9)),
    Case("net.freeze('all')", "upto='all'", lambda: NET.freeze("all")),
    Case("net.freeze(True)", "upto=True", lambda: NET.freeze(True)),
    Case("net.thaw(-1)", "upto=-1", lambda: NET.thaw(-1)),
    Case("net.thaw(1.0)", "upto=1.0", lambda: NET.thaw(1.0)),
    *(
        Case(f"context.parse({c!r})", "context", lambda c=c: parse(c))
        for c in ("E1", "R", "e", "R1 E", "", "ER1", None, 3)
    ),
    Case("context.parse('R9', 4)", "num_blocks=4…R1 to R4", lambda: parse("R9", 4)),
]
