"""The pipeline against backprop's pipelines, data parallelism and one process, on this machine's processor.

    python benchmarks/pipeline.py [--quick] [--out FILE] [--method greedy] [--batch 128] [--windows 21]

Two processes with one thread each, one model (vgg-paper, width 0.25), one batch of random 3×32×32 images, SGD. Cuts
are chosen by measured time, for backprop and for the decoupled net separately. GPipe and 1F1B are PyTorch's own
(`torch.distributed.pipelining`) at the number of micro-batches, of 2, 4, 8 and 16, that is fastest in a first look.
All cases are measured in turn, window after window; a row's value is the median over the windows.
FDG runs tick by tick as a rank of `kit.pipeline` does, its gradients coming back over a link.

`own work` is what a rank's blocks take in its process while the other rank works too, but without any exchange; the
bound on the speed-up of ours, and of FDG, is (one process's step) / (the slowest rank's own work). `predicted` comes
from the cost model (`kit.pipeline.simulate`): for these two given that work, for GPipe and 1F1B given forward, backward
and update times taken inside of PyTorch's stages in three more steps; and the time of a transfer between idle ranks.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from _harness import arguments, row, write

from kit.pipeline.launch import start_ranks

SETTINGS = {"backbone": "vgg-paper", "width": 0.25, "image": [3, 32, 32], "num_classes": 10, "optimizer": "sgd"}


def main() -> None:
    parser = arguments(__doc__, "pipeline")
    parser.add_argument("--method", default="greedy", help="the decoupled net's local loss")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--windows", type=int, default=21)
    parser.add_argument("--steps", type=int, default=3, help="steps per window")
    args = parser.parse_args()
    settings = SETTINGS | {"batch": args.batch, "method": args.method, "windows": args.windows, "steps": args.steps}
    if args.quick:
        settings |= {"batch": 32, "windows": 3, "steps": 2}
    measured = measure(settings)
    rows = report(measured)
    settings |= {"cuts": measured["cuts"], "micro_batches": measured["micro"], "processes": 2, "threads": 1}
    write(args.out, "pipeline", settings | {"load_average": os.getloadavg()[0]}, rows)


def measure(settings: dict) -> dict:
    """Start the two processes, and return what they measured."""
    with tempfile.TemporaryDirectory(prefix="kit-benchmark-") as folder:
        given = Path(folder, "settings.json")
        given.write_text(json.dumps(settings))
        command = [
            "-m",
            "kit.cpu_allocator",
            sys.executable,
            str(Path(__file__).with_name("_pipeline_rank.py")),
            str(given),
        ]
        start_ranks(sys.executable, command, 2, 0, folder)
        return json.loads(given.with_name("measured.json").read_text())


def report(measured: dict) -> list[dict]:
    """Print the table and return its rows."""
    windows, predicted = measured["windows"], measured["predicted"]
    rows = [row(case, "step", values, "s") for case, values in windows.items()]
    rows += [row(case, "predicted step", values, "s") for case, values in predicted.items()]

    def ratio(name: str, over: list[float], under: list[float]) -> None:
        rows.append(row(name, "ratio", [a / b for a, b in zip(over, under, strict=True)], ""))

    ours, one, own = windows["ours"], windows["decoupled, one process"], windows["own work, slowest rank"]
    ratio("bound on the speed-up", one, own)
    ratio("ours / its bound", own, ours)
    late, late_own = windows["fdg"], windows["own work of fdg, slowest rank"]
    ratio("bound on the speed-up of fdg", windows["fdg, one process"], late_own)
    ratio("fdg / its bound", late_own, late)
    ratio("speed-up of fdg over fdg in one process", windows["fdg, one process"], late)
    ratio("speed-up of fdg over backprop in one process", windows["backprop, one process"], late)
    ratio("speed-up of fdg over 1f1b", windows["1f1b"], late)
    ratio("speed-up of ours over the decoupled net in one process", one, ours)
    ratio("speed-up of ours over backprop in one process", windows["backprop, one process"], ours)
    for other in ("gpipe", "1f1b", "data parallel"):
        ratio(f"speed-up of ours over {other}", windows[other], ours)
        ratio(f"speed-up of {other} over backprop in one process", windows["backprop, one process"], windows[other])
    for case, values in predicted.items():
        errors = [guess / seconds - 1 for guess, seconds in zip(values, windows[case], strict=True)]
        rows.append(row(case, "error of the prediction", errors, "share"))
    print(f"cuts: {measured['cuts']}; micro-batches: {measured['micro']}")
    print(f"{'case':<56} {'metric':<24} {'median':>9} {'min':>9} {'max':>9}  unit")
    for r in rows:
        print(f"{r['case']:<56} {r['metric']:<24} {r['value']:9.4f} {r['min']:9.4f} {r['max']:9.4f}  {r['unit']}")
    return rows


if __name__ == "__main__":
    main()
