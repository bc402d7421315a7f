"""Early exits on Fashion-MNIST: FLOPs saved, time saved, and what they cost in accuracy.

    python benchmarks/adaptive.py [--quick] [--out FILE] [--runs FOLDER]

A narrow VGG in four blocks is trained with DeInfoReg, the threshold of each rule is chosen on the validation split (the
cheapest that is right as often as the last exit), and the test split says what that choice gives.
Wall time is per image for batches of 1, 32 and 1,024: the whole net with its last head alone against adaptive
inference, taken in turn. --quick takes the bundled digits. The trained net is kept in FOLDER and used again.
"""

import sys
import time
from itertools import islice
from pathlib import Path

from _harness import ROOT, arguments, row, write

CUTS = ("block1.5", "block1", "block2")
BATCHES = (1, 32, 1024)
SETTINGS = {
    "dataset": "fashion-mnist",
    "backbone": "vgg-paper",
    "width": 0.125,
    "num_blocks": 4,
    "cuts": CUTS,
    "method": "deinforeg",
    "options": {"pool": 4, "widths": (256, 256, 256)},  # small heads: every image that goes on has paid for one
    "epochs": 4,
    "lr": 3e-3,
    "augment": "none",
}


def main() -> None:
    parser = arguments(__doc__, "adaptive")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/benchmarks", help="where the trained net is kept")
    args = parser.parse_args()
    changes = {"dataset": "digits", "limit": 600, "epochs": 3} if args.quick else {}
    net, data, config = trained(SETTINGS | changes, args.runs)
    rows, rule = accuracy_rows(net, data)
    report(rows)
    times = time_rows(net, data, rule, rounds=3 if args.quick else 7)
    report(times)
    rows += times
    write(args.out, "adaptive", config.identity() | {"rule": str(rule)}, rows)


def trained(settings: dict, runs: Path):
    """Return the net as its training ended, the data and the config."""
    from kit import RunConfig
    from kit.train import build, fit, load_data

    config = RunConfig(**settings, output=str(runs / f"adaptive-{settings['dataset']}-{settings['method']}"))
    data = load_data(config)
    net = build(config, data)
    fit(net, data, config)  # where the run had ended before, with its weights
    return net, data, config


def accuracy_rows(net, data) -> tuple[list[dict], object]:
    """Choose every rule's threshold on validation; return its rows on test, and the rule that validation likes best."""
    from kit import exits

    x, _ = next(data.batches("val", 16))
    cost, straight = exits.exit_costs(net, x), exits.last_cost(net, x)
    val, test = (exits.collect(net, data.batches(split, 512)) for split in ("val", "test"))
    last_val, last = ((logits[-1].argmax(1) == y).double().mean().item() for logits, y in (val, test))
    rows, points = [row("last exit", "test accuracy", [last], "share")], {}
    for name in exits.RULES:
        points[name] = exits.choose(exits.curve(name, *val, cost), accuracy=last_val)
        found = exits.measure(points[name].rule, *test, cost)
        rows += [
            row(name, "test accuracy", [found.accuracy], "share"),
            row(name, "accuracy lost", [100 * (last - found.accuracy)], "points"),
            row(name, "FLOPs saved", [1 - found.cost / straight], "share"),
            row(name, "random exit, same cost", [found.random], "share"),
        ]
        print(f"{points[name].rule}: exits {[round(share, 3) for share in found.shares]}", file=sys.stderr, flush=True)
    return rows, min(points.values(), key=lambda point: point.cost).rule


def time_rows(net, data, rule, rounds: int) -> list[dict]:
    """Return seconds per image of the whole net and of adaptive inference with `rule`, and the share saved."""
    from kit import exits

    rows = []
    for size in BATCHES:
        batches = [x for x, _ in islice(data.batches("test", size), 8 if size < 1000 else 2)]
        cost = [float(k) for k in range(net.num_exits)]
        plain, early = [], []
        for turn in range(rounds + 1):
            a = seconds(lambda x: exits.last_only(net, x), batches)
            b = seconds(lambda x: net.adaptive(x, rule, cost=cost), batches)  # noqa: B023
            if turn:  # the first only warms up
                plain, early = [*plain, a], [*early, b]
        saved = [1 - b / a for a, b in zip(plain, early, strict=True)]
        rows += [
            row(f"batch {size}, whole net", "time per image", plain, "s"),
            row(f"batch {size}, early exits", "time per image", early, "s"),
            row(f"batch {size}", "time saved", saved, "share"),
        ]
    return rows


def seconds(fn, batches) -> float:
    begin = time.perf_counter()
    for x in batches:
        fn(x)
    return (time.perf_counter() - begin) / sum(map(len, batches))


def report(rows: list[dict]) -> None:
    for item in rows:
        spread = f"  ({item['min']:.3g} to {item['max']:.3g}, n={item['n']})" if item["n"] > 1 else ""
        print(f"{item['case']:<28} {item['metric']:<24} {item['value']:10.4g} {item['unit']}{spread}", flush=True)


if __name__ == "__main__":
    main()
