"""Named data, their splits and batches, models to cut, and backbones."""

import torch
from torch import nn

import kit
from kit.backbones import backbone
from kit.data import Split, corrupt
from kit.splitting.split import cut_points
from tests.bad_input.cases import Case, settings
from tests.bad_input.things import DATA, FOLDER, MODEL, NAN, X, Y

TABLE = kit.Data.of((torch.rand(40, 3), torch.arange(40) % 2))


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def load(**given):
    return kit.load_data(**{"name": "digits"} | given)


def batches(split="train", batch_size=4, **more):
    return list(DATA.batches(split, batch_size, **more))


def build(**given):
    return backbone(**{"name": "mlp", "in_channels": 1, "image_size": 8} | given)


def split(model=MODEL, num_blocks=2, example=X, **more):
    return kit.split(model, num_blocks, example, **more)


LOAD = {
    "limit": ["100", 0, 19, 10**6, 1.5, True],
    "val_fraction": [0, 1, "0.1", 1e-9, NAN],
    "seed": ["0", None, 1.5],
    "root": [None, 3, ""],
    "image_size": ["8", 0, 1.5],
    "noise": ["symetric", None, 1],
    "noise_rate": ["0.4", -1, 0.4, NAN],
    "views": ["top", ["topp"], 3],
    "augment": ["crop", 3],
    "max_tokens": [0, "60", 1.5],
    "vocabulary": [0, "9", True],
    "vectors": [3, ""],
    "num_workers": [-1, "2", 1.5, True],
    "download": ["yes", 1, None],
}
BATCHES = {
    "split": ["tests", None, 3],
    "batch_size": [0, -1, "4", 2.5, None, True],
    "epoch": [-1, "0", 1.5, True],
    "seed": ["0", None, 1.5],
    "device": ["gpu", "cuda:7", "mps", "", None, 0],
}
BACKBONE = {
    "in_channels": [0, "1", 1.5],
    "num_classes": [0, "10", 2.5, None],
    "width": [0, "1", NAN, -1],
    "image_size": [0, "8", 8.0],
    "depth": [0, "3", 1.5, None],
    "hidden": [0, "16", 2.5],
    "activation": ["rellu", None],
    "norm": ["bach", 3],
    "residual": ["False", 1, None],
    "init": ["xavir", None],
}
CASES = [
    *settings("load_data", load, LOAD),
    Case("load_data('cifar-10')", "unknown dataset 'cifar-10'…'cifar10'", lambda: kit.load_data("cifar-10")),
    Case("load_data(None)", "dataset=None", lambda: kit.load_data(None)),
    Case("load_data(3)", "dataset=3", lambda: kit.load_data(3)),
    Case("load_data('digits', lmit=100)", "unknown setting 'lmit'…'limit'", lambda: load(lmit=100)),
    Case("load_data('cifar10') where there is none", "cifar10", lambda: kit.load_data("cifar10", FOLDER)),
    Case("load_data('tiny-imagenet') where there is none", "tiny", lambda: kit.load_data("tiny-imagenet", FOLDER)),
    Case("load_data('imagenet') where there is none", "imagenet", lambda: kit.load_data("imagenet", FOLDER)),
    *settings("data.batches", batches, BATCHES),
    Case("data.batches(…, start=99)", "start=99", lambda: batches(epoch=0, start=99)),
    Case("data.batches(…, start=-1)", "start=-1", lambda: batches(epoch=0, start=-1)),
    Case("data.batches(…, start='0')", "start='0'", lambda: batches(epoch=0, start="0")),
    Case("data.batches(…, augment='flip') without an epoch", "without an epoch", lambda: batches(augment="flip")),
    Case(
        "data.batches(…, augment='flp', epoch=0)", "unknown augmentation 'flp'", lambda: batches(augment="flp", epoch=0)
    ),
    Case("data.with_views('topp')", "unknown view 'topp'…top", lambda: DATA.with_views("topp")),
    Case("data.with_views('image', 'left2')", "unknown view", lambda: DATA.with_views("image", "left2")),
    Case("data.with_views(['top'])", "unknown view ['top']", lambda: DATA.with_views(["top"])),
    Case("data.with_views(own=3)", "view 'own'…'int' object is not callable", lambda: DATA.with_views(own=3)),
    Case("data.with_views(own=mean)", "view 'own'…(B, …) of (B, …), not ()", lambda: DATA.with_views(own=torch.mean)),
    Case("data.with_views(own=no tensor)", "view 'own'…no attribute 'shape'", lambda: DATA.with_views(own=lambda x: 3)),
    Case("data.with_views(x=…)", "x is the input", lambda: DATA.with_views(x=torch.neg)),
    Case("table.with_views('top')", "view 'top' cannot be made of…(3,)", lambda: TABLE.with_views("top")),
    Case("data.to('gpu')", "device='gpu'", lambda: DATA.to("gpu")),
    Case("data.test.to('cuda:7')", "cuda:7…GPUs here", lambda: DATA.test.to("cuda:7")),
    Case("load_data(max_tokens=5)", "are of texts, and digits has none", lambda: load(max_tokens=5)),
    Case("load_data('stdlib', image_size=8)", "has no images", lambda: load(name="stdlib", image_size=8)),
    Case("data.with_views twice", "seen in part already", lambda: DATA.with_views("top").with_views("left")),
    Case("Split(images, fewer labels)", "as many labels as images", lambda: Split(X, Y[:3])),
    Case("corrupt(labels, kind='symetric')", "unknown noise", lambda: corrupt(Y, 10, "symetric", 0.1, 0)),
    Case("corrupt(labels, rate=2)", "fraction in [0, 1]", lambda: corrupt(Y, 10, "symmetric", 2, 0)),
    Case("corrupt(labels, 1 class)", "at least 2 classes", lambda: corrupt(Y * 0, 1, "symmetric", 0.5, 0)),
    Case("corrupt(labels out of range)", "labels: 5 at position 5", lambda: corrupt(Y, 5, "symmetric", 0.5, 0)),
    Case("corrupt(labels, kind='instance') without images", "instance", lambda: corrupt(Y, 10, "instance", 0.5, 0)),
    *settings("backbone", build, BACKBONE),
    *(Case(f"backbone({n!r})", "unknown backbone", lambda n=n: backbone(n)) for n in ("mpl", "", None, 3)),
    Case("backbone('mlp', dpth=3)", "unknown option of backbone 'mlp'…'depth'", lambda: build(dpth=3)),
    Case("backbone('alexnet', image_size=8)", "alexnet does not take 8×8", lambda: backbone("alexnet", image_size=8)),
    Case("backbone('resnet18', width=2.0)", "one width", lambda: backbone("resnet18", width=2.0)),
    Case("backbone('alexnet', depth=3)", "does not take", lambda: backbone("alexnet", image_size=64, depth=3)),
    *(
        Case(f"split(model, {n!r}, x)", "num_blocks=", lambda n=n: split(num_blocks=n))
        for n in (0, -1, "2", 2.5, True, None, 50)
    ),
    Case("split(model, 2, x, balance='prams')", "unknown balance", lambda: split(balance="prams")),
    Case("split(model, 2, x, balance=None)", "balance=None", lambda: split(balance=None)),
    Case("split(model, 2, x, at='layer1')", "a list of cut points", lambda: split(at="layer1")),
    Case("split(model, 2, x, at=['layr1'])", "unknown cut point…layer1", lambda: split(at=["layr1"])),
    Case("split(model, 2, x, at=[1])", "unknown cut point 1", lambda: split(at=[1])),
    Case("split(model, 2, x, at=3)", "at=3", lambda: split(at=3)),
    Case("split(model, 4, x, at=['layer1'])", "makes 2 blocks", lambda: split(num_blocks=4, at=["layer1"])),
    Case("split(…, at=['layer2', 'layer1'])", "in order", lambda: split(num_blocks=3, at=["layer2", "layer1"])),
    Case(
        "split(…, at=['layer1', 'layer1'])",
        "different cut points",
        lambda: split(num_blocks=3, at=["layer1", "layer1"]),
    ),
    Case("split(…, at=['classifier'])", "cannot cut behind 'classifier'", lambda: split(at=["classifier"])),
    Case("split('mlp', 2, x)", "model='mlp'", lambda: split(model="mlp")),
    Case("split(None, 2, x)", "model=None", lambda: split(model=None)),
    Case("split(list of stages, 2, x)", "model", lambda: split(model=[nn.Linear(4, 4)])),
    Case("split(model, 2, numpy)", "example", lambda: split(example=X.numpy())),
    Case("split(model, 2, (1, 8, 8))", "example=", lambda: split(example=(1, 8, 8))),
    Case("split(model, 2, x of another size)", "example", lambda: split(example=X[..., :4])),
    Case("split(model that branches on data)", "Branching", lambda: split(model=Branching())),
    Case("cut_points(3, x)", "model=3", lambda: cut_points(3, X)),
    Case("kit.nothing", "has no attribute 'nothing'", lambda: kit.nothing),
]
