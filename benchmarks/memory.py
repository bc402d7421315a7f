"""Peak memory and compute of a training step: backprop, checkpointing and every local method, beside published figures.

    python benchmarks/memory.py [--quick] [--out FILE]

Memory and FLOPs are planned on tensors without data (kit.analysis.memory), at sizes this machine could not train. The
plan is checked against PyTorch's allocator, in a process of its own for each case, at batches that fit. Step times are
ratios of steps taken in turn. Networks are cut by memory, unless a row says that the cuts are the paper's; SGD with
momentum. Checkpointing is torch.utils.checkpoint on the same cuts, the last part kept; `backprop` is one block.
"""

import json
import resource
import subprocess
import sys
import time

from _harness import ROOT, arguments, row, write

MODELS = {
    "resnet110": {"batch": 1024, "side": 32, "num_classes": 10, "measured": 32},
    "vit_b_16": {"batch": 256, "side": 224, "num_classes": 1000, "measured": 2},
}
COUNTS = (2, 4, 8, 16)
VARIANTS = {
    "infopro contrast": ("infopro", {"task": "contrast"}),
    "deinforeg pool=2": ("deinforeg", {"pool": 2}),
}
MAPS_ONLY = {"deinforeg pool=2"}  # tokens are not pooled
MEASURED = [("backprop", 1), ("checkpointing", 4), ("greedy", 4), ("greedy", 16), ("infopro", 4), ("infopro", 16)]
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
    rows = []
    for model in list(MODELS)[: 1 if args.quick else None]:
        rows += planned(model, (4,) if args.quick else COUNTS)
    checks = MEASURED[:3] if args.quick else MEASURED
    rows += [found for case in checks for found in compared("resnet110", *case)]
    if not args.quick:
        rows += [found for case in (("backprop", 1), ("greedy", 4)) for found in compared("vit_b_16", *case)]
    rows += timed(2 if args.quick else 7)
    verdict(rows)
    write(args.out, "memory", {"models": MODELS, "optimizer": "sgd", "momentum": 0.9, "timed_batch": TIMED_BATCH}, rows)


def cases(model: str) -> list[str]:
    """Return backprop with checkpointing, every local method of the registry, and variants."""
    from kit.methods import REGISTRY

    local = [name for name, method in REGISTRY.items() if not method.end_to_end]
    variants = [name for name in VARIANTS if model == "resnet110" or name not in MAPS_ONLY]
    return ["checkpointing", *local, *variants]


def stages(model: str, count: int, cuts: str = "memory") -> list:
    """Return the model in parts."""
    import torch

    import kit
    from kit.blocks.cuts import find

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


def batch_shape(model: str, batch: int) -> tuple[int, ...]:
    return (batch, 3, MODELS[model]["side"], MODELS[model]["side"])


def plans(model: str, wanted: list[str], count: int, cuts: str = "memory") -> dict:
    """Return the plan of each wanted case, all on the same parts."""
    from kit.analysis import memory

    with memory.on_paper():
        parts = stages(model, count, cuts)
        nets = {case: build(model, case, parts) for case in wanted}
    return {case: memory.plan(net, batch_shape(model, MODELS[model]["batch"])) for case, net in nets.items()}


def planned(model: str, counts: tuple[int, ...]) -> list[dict]:
    """Plan every case, print a table and return its rows."""
    print(f"\n{model}, batch {MODELS[model]['batch']}, planned; cut by memory")
    print(f"{'case':<18} {'K':>3} {'peak GiB':>9} {'of it state':>11} {'share':>7} {'FLOPs':>8}  published")
    base = plans(model, ["backprop"], 1)["backprop"]
    rows = report(model, "backprop", 1, base, base)
    for count in counts:
        for case, found in plans(model, cases(model), count).items():
            rows += report(model, case, count, found, base)
    if model == "resnet110":
        for count in (2, 3, 4):
            found = plans(model, ["infopro contrast"], count, "infopro-balanced")["infopro contrast"]
            rows += report(model, "infopro contrast", count, found, base, ", paper's cuts")
    return rows


def report(model: str, case: str, count: int, found, base, note: str = "") -> list[dict]:
    """Print one line and return its rows."""
    share, extra = found.peak / base.peak, found.flops / base.flops - 1
    published = PUBLISHED.get((case, count), PUBLISHED.get((case, None))) if model == "resnet110" else None
    beside = f"{published:.2f} GB, {published / PUBLISHED['backprop', 1]:.0%}" if published else ""
    print(
        f"{case + note:<18} {count:>3} {found.peak / 2**30:9.2f} {found.staying / 2**30:11.2f} {share:7.1%} "
        f"{extra:+8.1%}  {beside}",
        flush=True,
    )
    name = f"{model} {case} K={count}{note}"
    rows = [
        row(name, "planned peak", [found.peak], "bytes"),
        row(name, "planned state between steps", [found.staying], "bytes"),
        row(name, "share of backprop's peak", [share], ""),
        row(name, "extra FLOPs", [extra], "share of backprop's"),
    ]
    if published:
        rows.append(row(name, "published peak", [published], "GB"))
        rows.append(row(name, "published share of backprop's peak", [published / PUBLISHED["backprop", 1]], ""))
    return rows


def measure(model: str, case: str, count: int) -> dict[str, int]:
    """Train a step for real; return the allocator's peak, the plan's, and the growth of resident memory, in bytes."""
    import torch

    from kit.analysis import memory
    from kit.blocks.costs import peak_bytes

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    net, batch = build(model, case, stages(model, count)), MODELS[model]["measured"]
    x = torch.rand(batch_shape(model, batch))
    y = torch.arange(batch) % MODELS[model]["num_classes"]
    net.step(x, y)
    net.step(x, y)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    states = [v for block in net for state in block.optimizer.state.values() for v in state.values()]
    held = sum(t.nbytes for t in [*net.parameters(), *net.buffers(), *states, x, y] if isinstance(t, torch.Tensor))
    peak = held + peak_bytes(lambda: net.step(x, y), warm_up=1)
    return {"measured": peak, "planned": memory.plan(net, tuple(x.shape)).peak, "resident": resident}


def compared(model: str, case: str, count: int) -> list[dict]:
    """Measure one case in a process of its own, print and return the plan beside it."""
    command = [sys.executable, __file__, "--measure", model, case, str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    batch, ratio = MODELS[model]["measured"], found["planned"] / found["measured"]
    print(
        f"{model} {case} K={count}, batch {batch}: planned {found['planned'] / 2**20:.1f} MiB, measured "
        f"{found['measured'] / 2**20:.1f} MiB, ratio {ratio:.3f}; resident memory grew {found['resident'] / 2**20:.0f}",
        flush=True,
    )
    name = f"{model} {case} K={count} batch={batch}"
    rows = [row(name, f"{kind} peak", [found[kind]], "bytes") for kind in ("planned", "measured", "resident")]
    return [*rows, row(name, "planned / measured", [ratio], "")]


def timed(rounds: int) -> list[dict]:
    """Take steps of all cases in turn; print and return the ratios of their times to backprop's of the same round."""
    import torch

    x = torch.rand(batch_shape("resnet110", TIMED_BATCH))
    y = torch.arange(TIMED_BATCH) % 10
    wanted = [("backprop", 1), *((case, 4) for case in cases("resnet110"))]
    wanted += [("infopro contrast", 2), ("infopro contrast", 16), ("greedy", 16)]
    nets = {(case, count): build("resnet110", case, stages("resnet110", count)) for case, count in wanted}
    ratios: dict[tuple, list[float]] = {case: [] for case in nets}
    for turn in range(rounds + 1):
        seconds = {}
        for case, net in nets.items():
            begin = time.perf_counter()
            net.step(x, y)
            seconds[case] = time.perf_counter() - begin
        for case, taken in seconds.items():
            if turn:  # the first round only warms up
                ratios[case].append(taken / seconds["backprop", 1])
    print(f"\nresnet110, batch {TIMED_BATCH}: a step's time, times backprop's")
    rows = []
    for (case, count), values in ratios.items():
        rows.append(row(f"resnet110 {case} K={count} batch={TIMED_BATCH}", "step time / backprop's", values, ""))
        published = PUBLISHED_TIME.get((case, count), PUBLISHED_TIME.get((case, None)))
        beside = f"; published overhead {published:+.1f} % (batch 1024, GPU)" if published else ""
        found = rows[-1]
        print(f"{case:<18} {count:>3} {found['value']:6.3f} (from {found['min']:.3f} to {found['max']:.3f}){beside}")
    return rows


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
