"""Peak memory and compute of a training step: backprop, checkpointing and every local method, beside published figures.

    python benchmarks/memory.py [--quick] [--out FILE]

Memory and FLOPs are planned on tensors without data (kit.measure.memory), at sizes this machine could not train. The
plan is checked against PyTorch's allocator, in a process of its own for each case, at batches that fit. Step times are
ratios of the processor time of steps taken in turn, one thread. Networks are cut by memory, unless a row says that the
cuts are the paper's; SGD with momentum. Checkpointing is torch.utils.checkpoint on the same cuts, the last part kept;
`backprop` is one block.
About ten minutes of one core. What FILE holds already is not done again: remove it to start anew.
"""

import contextlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from _harness import ROOT, arguments, row, write

MODELS = {
    "resnet110": {"batch": 1024, "side": 32, "num_classes": 10, "measured": 32},
    "resnet1202": {"batch": 128, "side": 32, "num_classes": 10, "measured": 4},
    "vit_b_16": {"batch": 256, "side": 224, "num_classes": 1000, "measured": 2},
}
COUNTS = (4, 16, 2, 8)  # what issue 5 asks about first
VARIANTS = {
    "infopro contrast": ("infopro", {"task": "contrast"}),
    "deinforeg pool=2": ("deinforeg", {"pool": 2}),
}
MAPS_ONLY = {"deinforeg pool=2"}  # tokens are not pooled
MEASURED = [("resnet110", "backprop", 1), ("resnet110", "greedy", 4), ("resnet110", "infopro", 4)]
MEASURED += [("resnet110", "checkpointing", 4), ("resnet110", "greedy", 16), ("resnet110", "infopro", 16)]
MEASURED += [("resnet110", "fdg", 4), ("resnet110", "fr", 4), ("resnet1202", "fdg", 4)]
MEASURED += [("vit_b_16", "backprop", 1), ("vit_b_16", "greedy", 4)]
TIMED_BATCH = 8

# ResNet-110 on CIFAR-10, batch 1024, in GB, and its overhead in time: InfoPro, ICLR 2021, table 3.
PUBLISHED = {("backprop", 1): 9.40, ("checkpointing", None): 3.91}
PUBLISHED |= {("infopro contrast", k): gb for k, gb in ((2, 5.38), (3, 4.22), (4, 3.52))}
PUBLISHED_TIME = {("checkpointing", None): 27.5}
PUBLISHED_TIME |= {("infopro contrast", k): percent for k, percent in ((2, 1.1), (3, 7.5), (4, 13.4))}


def main() -> None:
    parser = arguments(__doc__, "memory")
    parser.add_argument("--measure", nargs=3, metavar=("MODEL", "CASE", "K"), help="be one of the processes (internal)")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if args.measure:
        model, case, count = args.measure
        print(json.dumps(measure(model, case, int(count))))
        return
    book = Book(args.out, args.quick)
    planned(book, "resnet110", (4,) if args.quick else COUNTS)
    print()
    for case in MEASURED[: 3 if args.quick else None]:
        compared(book, *case)
    timed(book, 2 if args.quick else 7)
    if not args.quick:
        planned(book, "vit_b_16", COUNTS)
    verdict(book.rows)


class Book:
    """The rows so far, written after every part: a benchmark that was stopped goes on with what is missing."""

    def __init__(self, path: Path, quick: bool):
        self.path, self.rows = path, []
        self.settings = {"models": MODELS, "optimizer": "sgd", "momentum": 0.9, "timed_batch": TIMED_BATCH}
        self.settings["quick"] = quick
        found = json.loads(path.read_text()) if path.exists() else {}
        if found.get("settings") == json.loads(json.dumps(self.settings)):
            self.rows = found["rows"]

    def has(self, case: str, metric: str) -> bool:
        return any((found["case"], found["metric"]) == (case, metric) for found in self.rows)

    def value(self, case: str, metric: str) -> float:
        return next(found["value"] for found in self.rows if (found["case"], found["metric"]) == (case, metric))

    def add(self, rows: list[dict]) -> None:
        self.rows += rows
        with contextlib.redirect_stdout(None):
            write(self.path, "memory", self.settings, self.rows)


def cases(model: str) -> list[str]:
    """Return backprop with checkpointing, every local method of the registry, and variants."""
    from kit.methods import REGISTRY

    local = [name for name, method in REGISTRY.items() if not method.one_loss]
    variants = [name for name in VARIANTS if model == "resnet110" or name not in MAPS_ONLY]
    return ["checkpointing", *local, *variants]


def stages(model: str, count: int, cuts: str = "memory") -> list:
    """Return the model in parts."""
    import torch

    import kit
    from kit.splitting.paper_cuts import find

    side = MODELS[model]["side"]
    whole = kit.backbone(model, 3, MODELS[model]["num_classes"], 1.0, side)
    return kit.split(whole, count, torch.zeros(2, 3, side, side), *find(cuts, model, count))


def build(model: str, case: str, parts: list):
    """Return the net of one case, untrained, on the model's parts."""
    import torch

    import kit

    example = torch.zeros(2, 3, MODELS[model]["side"], MODELS[model]["side"])
    method, options = VARIANTS.get(case, (case, {}))
    if case in ("backprop", "checkpointing"):
        method, parts = "bp", [*map(recomputed, parts[:-1]), parts[-1]]
    settings = {"optimizer": "sgd", "lr": 0.1, "pixels": torch.sigmoid} | options
    return kit.decouple(parts, method, MODELS[model]["num_classes"], example, **settings)


def recomputed(stage):
    """Return the stage with torch's own gradient checkpointing: it keeps its input, and runs again in the backward."""
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    class Recomputed(nn.Module):
        def __init__(self):
            super().__init__()
            self.stage = stage

        def forward(self, h):
            return checkpoint(self.stage, h, use_reentrant=False)

    return Recomputed()


def shape(model: str, batch: int | None = None) -> tuple[int, ...]:
    return (batch or MODELS[model]["batch"], 3, MODELS[model]["side"], MODELS[model]["side"])


def planned(book: Book, model: str, counts: tuple[int, ...]) -> None:
    """Plan every case that the book lacks, and print the table."""
    print(f"\n{model}, batch {MODELS[model]['batch']}, planned; cut by memory")
    print(f"{'case':<18} {'K':>3} {'peak GiB':>9} {'of it state':>11} {'share':>7} {'FLOPs':>8}  published")
    fill(book, model, ["backprop"], 1)
    for count in counts:
        fill(book, model, cases(model), count)
    if model == "resnet110":
        for count in (2, 3, 4):
            fill(book, model, ["infopro contrast"], count, "infopro-balanced")


def fill(book: Book, model: str, wanted: list[str], count: int, cuts: str = "memory") -> None:
    """Plan what is missing of the wanted cases, all on the same parts of the model, and print them all."""
    from kit.measure import memory

    names = {case: f"{model} {case} K={count}" + ("" if cuts == "memory" else ", paper's cuts") for case in wanted}
    missing = [case for case in wanted if not book.has(names[case], "planned peak")]
    with memory.on_paper():
        parts = stages(model, count, cuts) if missing else []
        nets = {case: build(model, case, parts) for case in missing}
    for case in wanted:
        if case in nets:
            book.add(planned_rows(model, case, count, names[case], memory.plan(nets.pop(case), shape(model)), book))
        line(book, case, count, names[case])


def planned_rows(model: str, case: str, count: int, name: str, found, book: Book) -> list[dict]:
    """Return the rows of one plan; shares are of backprop's, which comes first."""
    whole = f"{model} backprop K=1"
    peak = book.value(whole, "planned peak") if book.has(whole, "planned peak") else found.peak
    flops = book.value(whole, "planned FLOPs") if book.has(whole, "planned FLOPs") else found.flops
    rows = [
        row(name, "planned peak", [found.peak], "bytes"),
        row(name, "planned state between steps", [found.staying], "bytes"),
        row(name, "planned FLOPs", [found.flops], ""),
        row(name, "share of backprop's peak", [found.peak / peak], ""),
        row(name, "extra FLOPs", [found.flops / flops - 1], "share of backprop's"),
    ]
    published = PUBLISHED.get((case, count), PUBLISHED.get((case, None))) if model == "resnet110" else None
    if published:
        rows.append(row(name, "published peak", [published], "GB"))
        rows.append(row(name, "published share of backprop's peak", [published / PUBLISHED["backprop", 1]], ""))
    return rows


def line(book: Book, case: str, count: int, name: str) -> None:
    metrics = ("planned peak", "planned state between steps", "share of backprop's peak", "extra FLOPs")
    peak, state, share, extra = (book.value(name, metric) for metric in metrics)
    beside = ""
    if book.has(name, "published peak"):
        share_there = book.value(name, "published share of backprop's peak")
        beside = f"{book.value(name, 'published peak'):.2f} GB, {share_there:.0%}"
    note = " (paper's cuts)" if name.endswith("paper's cuts") else ""
    print(
        f"{case:<18} {count:>3} {peak / 2**30:9.2f} {state / 2**30:11.2f} {share:7.1%} {extra:+8.1%}  {beside}{note}",
        flush=True,
    )


def measure(model: str, case: str, count: int) -> dict[str, int]:
    """Train a step for real; return the allocator's peak, the plan's, and the growth of resident memory, in bytes."""
    import torch

    from kit.measure import memory
    from kit.measure.costs import peak_bytes

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    net, batch = build(model, case, stages(model, count)), MODELS[model]["measured"]
    x = torch.rand(shape(model, batch))
    y = torch.arange(batch) % MODELS[model]["num_classes"]
    held = sum(t.nbytes for t in [*net.parameters(), *net.buffers(), x, y])  # all else comes with the first steps
    steps = net.num_filling + 2
    peak = held + peak_bytes(lambda: [net.step(x, y) for _ in range(steps)])
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {"measured": peak, "planned": memory.plan(net, tuple(x.shape)).peak, "resident": resident}


def compared(book: Book, model: str, case: str, count: int) -> None:
    """Measure one case in a process of its own, unless the book has it, and print the plan beside it."""
    name = f"{model} {case} K={count} batch={MODELS[model]['measured']}"
    kinds = ("planned", "measured", "resident")
    if not book.has(name, "planned / measured"):
        command = [sys.executable, __file__, "--measure", model, case, str(count)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows = [row(name, f"{kind} peak", [found[kind]], "bytes") for kind in kinds]
        book.add([*rows, row(name, "planned / measured", [found["planned"] / found["measured"]], "")])
    planned, measured, resident = (book.value(name, f"{kind} peak") / 2**20 for kind in kinds)
    print(
        f"{name}: planned {planned:.1f} MiB, measured {measured:.1f} MiB, ratio {planned / measured:.3f}; resident "
        f"memory grew by {resident:.0f} MiB",
        flush=True,
    )


def timed(book: Book, rounds: int) -> None:
    """Take steps of all cases in turn, and print the ratios of their times to backprop's of the same round."""
    import torch

    name = f"resnet110 {{}} K={{}} batch={TIMED_BATCH}".format
    print(f"\nresnet110, batch {TIMED_BATCH}: a step's processor time, times backprop's")
    if book.has(name("backprop", 1), "step's processor time / backprop's"):
        for found in book.rows:
            if found["metric"] == "step's processor time / backprop's":
                print(f"{found['case']:<46} {found['value']:6.3f} (from {found['min']:.3f} to {found['max']:.3f})")
        return

    x = torch.rand(shape("resnet110", TIMED_BATCH))
    y = torch.arange(TIMED_BATCH) % 10
    wanted = [("backprop", 1), *((case, 4) for case in cases("resnet110"))]
    wanted += [("infopro contrast", 2), ("infopro contrast", 16), ("greedy", 16)]
    nets = {(case, count): build("resnet110", case, stages("resnet110", count)) for case, count in wanted}
    ratios: dict[tuple, list[float]] = {case: [] for case in nets}
    for turn in range(rounds + 1):
        seconds = {}
        for case, net in nets.items():
            begin = time.process_time()  # of one thread: what else the machine does stays out
            net.step(x, y)
            seconds[case] = time.process_time() - begin
        for case, taken in seconds.items():
            if turn:  # the first round only warms up
                ratios[case].append(taken / seconds["backprop", 1])
    for (case, count), values in ratios.items():
        found = row(name(case, count), "step's processor time / backprop's", values, "")
        book.add([found])
        published = PUBLISHED_TIME.get((case, count), PUBLISHED_TIME.get((case, None)))
        beside = f"; published overhead {published:+.1f} % (batch 1024, GPU)" if published else ""
        print(f"{found['case']:<46} {found['value']:6.3f} (from {found['min']:.3f} to {found['max']:.3f}){beside}")


def verdict(rows: list[dict]) -> None:
    """Print what issue 5 asks of these figures, and whether they show it."""
    values = {(found["case"], found["metric"]): found["value"] for found in rows}
    ratios = [value for (_, metric), value in values.items() if metric == "planned / measured"]
    worst = max(ratios, key=lambda ratio: abs(ratio - 1))
    asked = [
        ("greedy, K = 4: at most 32 % of backprop's peak", ("resnet110 greedy K=4", "share of backprop's peak"), 0.32),
        ("greedy, K = 16: at most 13 %", ("resnet110 greedy K=16", "share of backprop's peak"), 0.13),
        ("InfoPro, K = 4: at most 6 % more FLOPs", ("resnet110 infopro K=4", "extra FLOPs"), 0.06),
    ]
    print()
    for text, key, bound in asked:
        if key in values:
            print(f"{text}: {values[key]:.1%}, {'yes' if values[key] <= bound else 'NO'}")
    print(f"plan within 10 % of measured: at worst {worst:.3f}, {'yes' if abs(worst - 1) <= 0.1 else 'NO'}")


if __name__ == "__main__":
    main()
