"""What a slow link costs: decoupled training, FDG, and PyTorch's GPipe and 1F1B, with seconds added to each transfer.

    python benchmarks/link_delay.py [--quick] [--out FILE] [--windows 7] [--depth 16]

Two processes with one thread each, as in `pipeline.py`; vgg-paper at a tenth of its width and batches of 8, so that a
step is not long beside a link. The decoupled net (a local loss) has `depth` receives posted; with fewer a step takes
delay / depth at least. GPipe and 1F1B do not wait for what they send, and have the number of micro-batches that is best
at that delay. All cases are measured in turn, window after window, for a second each; a row's value is the median.

Predicted (`kit.pipeline.simulate`) for 2, 4 and 8 ranks, where the same work is divided evenly: from what blocks take
while both ranks work, and for 1F1B from its operations at each number of micro-batches, whichever is best. For 2 ranks
the blocks are as they were measured, and the error of the prediction is a row.
"""

import os
from collections.abc import Sequence

from _harness import arguments, row, write
from pipeline import SETTINGS, measure

DELAYS = (0.0, 0.01, 0.05, 0.2)


def main() -> None:
    parser = arguments(__doc__, "link_delay")
    parser.add_argument("--windows", type=int, default=7)
    parser.add_argument("--depth", type=int, default=16, help="signals of the decoupled net that may be under way")
    args = parser.parse_args()
    settings = SETTINGS | {"width": 0.1, "batch": 8, "method": "greedy", "depth": args.depth, "delays": DELAYS}
    settings |= {"windows": args.windows, "seconds": 1.0}
    if args.quick:
        settings |= {"windows": 2, "seconds": 0.5, "delays": (0.0, 0.05)}
    measured = measure(settings)
    rows = report(measured, settings["delays"], args.depth)
    settings |= {"cuts": measured["cuts"], "micro_batches": measured["micro"], "processes": 2, "threads": 1}
    write(args.out, "link_delay", settings | {"load_average": os.getloadavg()[0]}, rows)


def report(measured: dict, delays: Sequence[float], depth: int) -> list[dict]:
    """Print the tables and return their rows."""
    windows, guesses = measured["windows"], predictions(measured["costs"], delays, depth)
    rows = [row(case, "step", values, "s") for case, values in windows.items()]
    rows += [row(case, "steps per second", [1 / value for value in values], "1/s") for case, values in windows.items()]
    for case, values in windows.items():
        still = windows[f"{case.split(', ')[0]}, {delays[0]} s"]
        rows.append(
            row(case, "share of its speed without delay", [a / b for a, b in zip(still, values, strict=True)], "")
        )
    for case, values in guesses.items():
        rows.append(row(case, "predicted steps per second", [1 / value for value in values], "1/s"))
        if case.endswith("K=2"):
            pairs = zip(values, windows[case.removesuffix(", K=2")], strict=True)
            rows.append(
                row(case, "error of the prediction", [guess / seconds - 1 for guess, seconds in pairs], "share")
            )
    found = {(r["case"], r["metric"]): r for r in rows}
    print(f"cuts: {measured['cuts']}; micro-batches: {measured['micro']}")
    for metric in ("steps per second", "share of its speed without delay"):
        print(f"\nmeasured, K=2: {metric}, median (min to max)")
        table(delays, ("ours", "fdg", "1f1b", "gpipe"), lambda name, d, metric=metric: found[f"{name}, {d} s", metric])
    for count in (2, 4, 8):
        print(f"\npredicted, K={count}: steps per second")
        case = f"{{}}, {{}} s, K={count}".format
        table(delays, ("ours", "fdg", "1f1b"), lambda n, d, case=case: found[case(n, d), "predicted steps per second"])
    return rows


def table(delays: Sequence[float], names: Sequence[str], find) -> None:
    print(f"{'':<6}" + "".join(f"{f'{delay * 1000:g} ms':>26}" for delay in delays))
    for name in names:
        cells = [find(name, delay) for delay in delays]
        print(f"{name:<6}" + "".join(f"{c['value']:9.3f} ({c['min']:.3f} to {c['max']:.3f})".rjust(26) for c in cells))


def predictions(costs: dict[str, list], delays: Sequence[float], depth: int) -> dict[str, list[float]]:
    """Return by case, delay and number of ranks the cost model's seconds per step, one for each window."""
    from kit.pipeline.simulate import Costs, predict

    micro = sorted(int(name.split()[1]) for name in costs if name.startswith("1f1b "))

    def step(name: str, delay: float, count: int, window: int) -> float:
        def share(seconds: Sequence[float]) -> Sequence[float]:
            return seconds if count == 2 else [sum(seconds) / count] * count

        link = {"transfer": costs["transfer"][window], "latency": delay}
        if name != "1f1b":
            work = Costs(forward=[0.0] * count, backward=share(costs[name][window]), update=[0.0] * count, **link)
            found = predict("decoupled" if name == "ours" else name, work, count)["step_seconds"]
            return max(found, delay / depth) if name == "ours" else found  # the cost model knows of no depth
        seconds = []
        for m in micro:
            forward, backward, update = map(share, costs[f"1f1b {m}"][window])
            whole = {"forward": [s * m for s in forward], "backward": [s * m for s in backward], "update": update}
            seconds.append(predict("1f1b", Costs(**whole, **link), count, m)["step_seconds"])
        return min(seconds)

    num_windows = len(costs["transfer"])
    return {
        f"{name}, {delay} s, K={count}": [step(name, delay, count, window) for window in range(num_windows)]
        for name in ("ours", "fdg", "1f1b")
        for delay in delays
        for count in (2, 4, 8)
    }


if __name__ == "__main__":
    main()
