"""One training step of DeInfoReg and of backprop, plain and in the kit's own settings, and where the time goes.

    python benchmarks/step_time.py [--quick] [--out FILE]

`plain` is PyTorch as it comes: fp32, contiguous tensors, the system's allocator. `auto` is the kit's default: bf16 and
channels-last where the processor has units for it, one-pass optimizers, and `kit.cpu_allocator`'s settings. Each
case lives in a process of its own, and the processes take their steps in turn, so that a busy machine is busy for all.
Paper's sizes: vgg-paper, width 1, 3×32×32, batch 128, projectors 2048-2048-2048, LARS. The last row is what the machine
itself gains from bf16, in a product of two large matrices: a bound for convolutions, which differs from host to host.
"""

import json
import os
import resource
import subprocess
import sys
import time

from _harness import ROOT, arguments, row, write

CASES = {(method, mode): f"{method} {mode}" for method in ("deinforeg", "bp") for mode in ("plain", "auto")}
PARTS = ("body", "heads", "optimizer")
SETTINGS = {"backbone": "vgg-paper", "image": [3, 32, 32], "num_classes": 10, "optimizer": "lars", "lr": 0.2}


def main() -> None:
    parser = arguments(__doc__, "step_time")
    parser.add_argument("--serve", nargs=2, metavar=("METHOD", "MODE"), help="be one of the processes (internal)")
    args = parser.parse_args()
    settings = SETTINGS | ({"width": 0.25, "batch": 32} if args.quick else {"width": 1.0, "batch": 128})
    if args.serve:
        serve(*args.serve, settings)
        return
    steps = 3 if args.quick else 5
    workers = {case: start(*case, args.quick) for case in CASES}
    times: dict[tuple, list[dict]] = {case: [] for case in CASES}
    for step in range(steps + 1):
        for case, worker in workers.items():
            worker.stdin.write("go\n")
            worker.stdin.flush()
            answer = json.loads(worker.stdout.readline())
            if step:  # the first round only warms up
                times[case].append(answer)
        print(f"round {step} of {steps}", file=sys.stderr, flush=True)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    report(times, settings, args)


def report(times: dict, settings: dict, args) -> None:
    rows = []
    print(f"{'case':<18} {'step, s':>9} {'min':>7} {'max':>7}   body  heads  optimizer  overhead  peak, GiB")
    for case, name in CASES.items():
        seconds = [answer["step"] for answer in times[case]]
        parts = {part: row(name, part, [answer[part] for answer in times[case]], "s") for part in PARTS}
        shares = [1 - sum(answer[part] for part in PARTS) / answer["walk"] for answer in times[case]]
        overhead = row(name, "overhead", shares, "share of step")
        peak = row(name, "peak resident memory", [answer["peak"] for answer in times[case][-1:]], "bytes")
        total = row(name, "step", seconds, "s")
        rows += [total, *parts.values(), overhead, peak]
        print(
            f"{name:<18} {total['value']:9.3f} {total['min']:7.3f} {total['max']:7.3f} "
            f"{parts['body']['value']:6.3f} {parts['heads']['value']:6.3f} {parts['optimizer']['value']:10.3f} "
            f"{overhead['value']:9.1%} {peak['value'] / 2**30:10.2f}"
        )
    pairs = [(("deinforeg", "plain"), ("deinforeg", "auto")), (("bp", "plain"), ("bp", "auto"))]
    for slow, fast in [*pairs, (("deinforeg", "auto"), ("bp", "auto"))]:
        ratios = [a["step"] / b["step"] for a, b in zip(times[slow], times[fast], strict=True)]
        rows.append(row(f"{CASES[slow]} / {CASES[fast]}", "ratio of steps", ratios, ""))
        print(f"{rows[-1]['case']}: {rows[-1]['value']:.2f} (from {rows[-1]['min']:.2f} to {rows[-1]['max']:.2f})")
    rows.append(row("matrix product fp32 / bf16", "ratio of times", products(), ""))
    print(f"{rows[-1]['case']}: {rows[-1]['value']:.2f}: what this machine's bf16 units give at best")
    write(args.out, "step_time", settings, rows)


def products(side: int = 4096, rounds: int = 5) -> list[float]:
    """Return how many times faster a product of two matrices is in bf16 than in fp32, measured in turn."""
    import torch

    ratios = []
    for _ in range(rounds + 1):
        seconds = {}
        for dtype in (torch.float32, torch.bfloat16):
            a = torch.ones(side, side, dtype=dtype)
            begin = time.perf_counter()
            a @ a
            seconds[dtype] = time.perf_counter() - begin
        ratios.append(seconds[torch.float32] / seconds[torch.bfloat16])
    return ratios[1:]


def start(method: str, mode: str, quick: bool) -> subprocess.Popen:
    from kit import cpu_allocator

    command = [sys.executable, __file__, "--serve", method, mode, *["--quick"] * quick]
    environment = {k: v for k, v in os.environ.items() if k not in cpu_allocator.environment()}
    environment |= cpu_allocator.environment() if mode == "auto" else {}
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def serve(method: str, mode: str, settings: dict) -> None:
    """For every line that comes in, take one step in parts, which also warms up after the wait, and one as a whole."""
    import torch

    net = build(method, mode, settings)
    x = torch.randn(settings["batch"], *settings["image"])
    y = torch.randint(settings["num_classes"], (settings["batch"],))
    for _ in sys.stdin:
        answer = in_parts(net, x, y)
        begin = time.perf_counter()
        net.step(x, y)
        answer["step"] = time.perf_counter() - begin
        answer["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(answer), flush=True)


def build(method: str, mode: str, settings: dict):
    import torch

    import kit
    from kit.splitting.paper_cuts import PAPER_CUTS

    torch.manual_seed(0)
    channels, side, _ = settings["image"]
    model = kit.backbone(settings["backbone"], channels, settings["num_classes"], settings["width"], side)
    example = torch.zeros(2, *settings["image"])
    stages = kit.split(model, 4, example, at=list(PAPER_CUTS[settings["backbone"], 4]))
    precision = "fp32" if mode == "plain" else "auto"
    return kit.decouple(
        stages, method, settings["num_classes"], example, optimizer="lars", lr=settings["lr"], precision=precision
    )


def in_parts(net, x, y) -> dict[str, float]:
    """Take one step by hand and return the seconds of bodies, heads with losses, optimizers, and of the whole `walk`.

    It is `Block.step` with the graph cut between body and head, so that each one's backward can be timed by itself.
    """
    from kit.seeds import seeded

    seconds = dict.fromkeys(PARTS, 0.0)
    start = time.perf_counter()

    def timed(part, fn):
        begin = time.perf_counter()
        result = fn()
        seconds[part] += time.perf_counter() - begin
        return result

    signal = net.signal(x, y)
    for block in net:
        with seeded(block.seed, block.index, block.num_steps), block.autocast(signal.h):
            *inner, h = timed("body", lambda: block.outputs(signal))  # noqa: B023
            leaf = h.detach().requires_grad_()
            terms = timed("heads", lambda: block.objective.loss(leaf, signal))  # noqa: B023
            watched = zip(block.probes, inner, strict=True)
            probes = [timed("heads", lambda: probe(f.detach()).float()) for probe, f in watched]  # noqa: B023
        losses = [block.objective.weights[name] * term for name, term in terms.items()]
        losses += [torch_cross_entropy(logits, signal.y) for logits in probes]
        timed("heads", sum(losses).backward)
        timed("body", lambda: h.backward(leaf.grad))  # noqa: B023
        timed("optimizer", block.optimizer.step)
        block.optimizer.zero_grad(set_to_none=True)
        signal = signal.advance(h)
    return seconds | {"walk": time.perf_counter() - start}


def torch_cross_entropy(logits, y):
    import torch.nn.functional as F

    return F.cross_entropy(logits, y)


if __name__ == "__main__":
    main()
