"""Pure losses, heads, and the options of methods."""

from functools import partial

import torch

import kit
from kit import heads, losses
from kit.delayed import Delay
from tests.bad_input.cases import Case, settings
from tests.bad_input.things import MODEL, NAN, X, Y, Z

ROWS = [
    ("numpy", Z.numpy(), "ndarray"),
    ("None", None, "NoneType"),
    ("a list", [[1.0]], "list"),
    ("int64", Z.long(), "int64"),
    ("(B,)", Z[:, 0], "(8,)"),
    ("(B, C, D)", Z[None], "(1, 8, 4)"),
    ("one row", Z[:1], "(1, 4)"),
    ("bool", Z > 0, "bool"),
]
LABELS = [
    ("numpy", Y.numpy(), "ndarray"),
    ("None", None, "NoneType"),
    ("floats", Y.float(), "float32"),
    ("int32", Y.int(), "int32"),
    ("one-hot", torch.eye(10)[Y], "argmax(1)"),
    ("too few", Y[:5], "(5,)"),
    ("(B, 1)", Y[:, None], "(8, 1)"),
]
OF_ROWS = {
    "correlation": losses.correlation,
    "variance": losses.variance,
    "covariance": losses.covariance,
    "invariance": lambda z: losses.invariance(z, Y, 10),
    "supervised_contrast": lambda z: losses.supervised_contrast(z, Y),
    "deinforeg": lambda z: losses.deinforeg(z, Y, 10),
}
OF_LABELS = {
    "cross_entropy": lambda y: losses.cross_entropy(torch.zeros(8, 10), y),
    "invariance": lambda y: losses.invariance(Z, y, 10),
    "supervised_contrast": lambda y: losses.supervised_contrast(Z, y),
    "deinforeg": lambda y: losses.deinforeg(Z, y, 10),
}
OUTSIDE = [("negative", Y - 1, "labels: -1 at position"), ("too large", Y + 3, "labels: 10 at position 7…10 classes")]
CLASSES = [0, 1, -3, 2.5, 10.0, "10", None, True, NAN]
SHAPES = [(), (0,), (1.5,), (-4, 8, 8), ("3",), 3, None, "3", (4, 4, 0)]
WIDTHS = {"widths": [(), (0,), (-8,), (8.0,), ("8",), 256, None, "8", (8, None)], "pool": [0, -1, "2", 1.5, True]}
POSITIVE = [0, -0.1, "0.1", NAN, None, True]
OPTIONS = {
    "scpl": {**WIDTHS, "temperature": POSITIVE},
    "predsim": {"beta": [-0.1, 1.1, "1", NAN, None, True]},
    "deinforeg": {
        **WIDTHS,
        "variant": ["papre", None, 1],
        "classifier": ["merged", None, True],
        "weights": [{"ce": -1}, {"invarianz": 1}, {"ce": "1"}, {"ce": NAN}, [1, 1], 3, "ce"],
    },
    "al": {"code": [0, -1, "128", 1.5, None], "hidden": [0, "512", 2.5], "pool": [0, "2"]},
    "dgl": {"aux": ["3c9f", "", None, 2]},
    "infopro": {
        "task": ["softmx", None, 1],
        "aux": ["9c", None],
        "weights": [(1, 2), (1, 2, 3, "4"), (1, -1, 0, 0), 5, "1234", (NAN, 0, 0, 0)],
    },
    **{
        method: {
            "beta": [0, 1.5, -1, "1", None, NAN, True],
            "flush": ["epch", "", None, 1],
            "weights": ["stached", None, 1, {"ce": 1}],
            "delay_lr": [2.0, ["2"], [None], [-1.0], [0.0], None, "2", [NAN], [1.0] * 9],
        }
        for method in ("fdg", "ddg", "fr", "pipedream")
    },
}
DELAY = {"unlocked": ["True", 1, None], "beta": [2, "1"], "weights": ["mixd"], "delay_lr": [3, [-1.0]]}


def on(method):
    return lambda **options: kit.decouple(kit.split(MODEL, 3, X), method, 10, X, pixels=torch.sigmoid, **options)


def predicted(**options):
    return on("fdg")(weights="predicted", **options)


CASES = [
    *(
        Case(f"losses.{name}({what})", words, lambda f=f, z=z: f(z))
        for name, f in OF_ROWS.items()
        for what, z, words in ROWS
    ),
    *(
        Case(f"losses.{name}(…, labels: {what})", f"labels…{words}", lambda f=f, y=y: f(y))
        for name, f in OF_LABELS.items()
        for what, y, words in LABELS
    ),
    *(
        Case(f"losses.{name}(…, labels: {what})", words, lambda f=f, y=y: f(y))
        for name, f in OF_LABELS.items()
        if name != "supervised_contrast"  # which knows no number of classes
        for what, y, words in OUTSIDE
    ),
    *(
        Case(f"label_correlation(y, {n!r})", "num_classes=", lambda n=n: losses.label_correlation(Y, n))
        for n in CLASSES
    ),
    *(Case(f"invariance(z, y, {n!r})", "num_classes=", lambda n=n: losses.invariance(Z, Y, n)) for n in CLASSES),
    *(
        Case(f"supervised_contrast(z, y, {t!r})", "temperature=", lambda t=t: losses.supervised_contrast(Z, Y, t))
        for t in POSITIVE
    ),
    Case("covariance(z, ddof=8)", "ddof=8", lambda: losses.covariance(Z, 8)),
    Case("covariance(z, ddof=-1)", "ddof=-1", lambda: losses.covariance(Z, -1)),
    Case("deinforeg(…, 'papre')", "unknown variant 'papre'", lambda: losses.deinforeg(Z, Y, 10, "papre")),
    Case("cross_entropy of (B, C, H)", "(8, 2, 2)", lambda: losses.cross_entropy(torch.zeros(8, 2, 2), Y)),
    Case("reconstruction of other sizes", "must agree", lambda: losses.reconstruction(X, X[:4])),
    Case("reconstruction of pixels above 1", "[0, 1]", lambda: losses.reconstruction(X, X + 1)),
    Case("reconstruction of pixels below 0", "[0, 1]", lambda: losses.reconstruction(X, X - 1)),
    *(Case(f"projector({s!r})", "shape", lambda s=s: heads.projector(s)) for s in SHAPES),
    *(Case(f"similarity_net({s!r})", "shape", lambda s=s: heads.similarity_net(s)) for s in SHAPES),
    *(Case(f"aux_net('1c2f', {s!r}, 10, 64)", "shape", lambda s=s: heads.aux_net("1c2f", s, 10, 64)) for s in SHAPES),
    *settings("projector", lambda **o: heads.projector((4, 8, 8), **o), WIDTHS),
    Case("aux_net('3c9f', …)", "unknown auxiliary net '3c9f'", lambda: heads.aux_net("3c9f", (4, 8, 8), 10, 64)),
    Case("aux_net(2, …)", "kind=2", lambda: heads.aux_net(2, (4, 8, 8), 10, 64)),
    Case("aux_net('1c2f', …, out=0)", "out=0", lambda: heads.aux_net("1c2f", (4, 8, 8), 0, 64)),
    Case("aux_net('1c2f', …, widest='64')", "widest='64'", lambda: heads.aux_net("1c2f", (4, 8, 8), 10, "64")),
    *(case for method, table in OPTIONS.items() for case in settings(f"decouple(…, {method!r})", on(method), table)),
    *settings("Delay", lambda **o: Delay(**{"unlocked": True, "weights": "mixed"} | o), DELAY),
    Case("decouple(…, 'fdg', precision='bf16')", "weights='mixed'", lambda: on("fdg")(precision="bf16")),
    *(
        Case(f"decouple(…, 'fdg', weights='predicted', {given})", "by sgd's momentum", partial(predicted, **given))
        for given in [{"optimizer": name} for name in ("adam", "adamw", "nadam", "lars", "muon")]
        + [{}, {"optimizer": "sgd", "momentum": 0.0}]
    ),
    Case("decouple(…, 'fdg', context='E')", "context='E'", lambda: on("fdg")(context="E")),
    Case("decouple(…, 'fdg', weight='mixed')", "did you mean 'weights'", lambda: on("fdg")(weight="mixed")),
    Case(
        "decouple(…, 'infopro') without pixels",
        "pixels",
        lambda: kit.decouple(kit.split(MODEL, 3, X), "infopro", 10, X),
    ),
]
