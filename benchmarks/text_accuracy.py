"""Every method on LSTM and Transformer: the test accuracy of the last exit, and of the one best on validation.

    python benchmarks/text_accuracy.py [--quick] [--out FILE] [--jobs 2] [--seeds 5] [--methods bp …] [--rates 0.002 …]

Functions of Python's standard library, labelled by package (`stdlib`), a network of word vectors and three layers, cut
into four blocks; the same data, budget and optimizer for all, beside the majority class and a logistic regression on
bags of words. A row a run goes into the CSV as soon as it is there, so the benchmark can be stopped, and started again
to go on.
"""

from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache

import pandas as pd
from _harness import ROOT, add, arguments, begin, trained

SETTINGS = {
    "dataset": "stdlib", "max_tokens": 32, "width": 0.34, "num_blocks": 4, "epochs": 12, "batch_size": 64,
    "optimizer": "adam", "precision": "fp32", "output": None,
}  # fmt: skip
COLUMNS = ["backbone", "method", "lr", "seed"]
"""Of a cell: settings of its run, too."""


def main() -> None:
    from kit.backbones import TEXT_BACKBONES
    from kit.methods import REGISTRY
    from lessons.texts import references

    parser = arguments(__doc__, "text_accuracy")
    parser.set_defaults(out=ROOT / "benchmarks/results/text_accuracy.csv")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time, a thread each")
    parser.add_argument("--seeds", type=int, default=5)
    methods = [name for name in REGISTRY if name not in ("infopro", "pipedream")]
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.002], help="learning rates")
    args = parser.parse_args()
    settings = SETTINGS | ({"epochs": 1, "limit": 240} if args.quick else {})
    args.out = ROOT / "runs/benchmarks/text_accuracy.csv" if args.quick else args.out
    done = begin(args.out, {"settings": settings}, COLUMNS)
    planned = [
        (b, m, lr, s) for s in range(args.seeds) for lr in args.rates for m in args.methods for b in TEXT_BACKBONES
    ]
    with ProcessPoolExecutor(args.jobs) as pool:
        for future in as_completed([pool.submit(measure, settings, cell) for cell in planned if cell not in done]):
            add(args.out, future.result(), COLUMNS)
    print({name: round(100 * share, 1) for name, share in references(read(settings["max_tokens"], None)).items()})
    print(summary(pd.read_csv(args.out)).to_string())


def measure(settings: dict, cell: tuple) -> dict:
    """Train one net and return its row."""
    import torch

    import kit
    from kit.train import build

    torch.set_num_threads(1)
    own = dict(zip(COLUMNS, cell, strict=True))
    config = kit.RunConfig(**settings, **own)
    loaded = read(config.max_tokens, config.limit)
    test, best = trained(build(config, loaded), loaded, config)
    return own | {"last": test[-1], "best": test[best], "best_exit": best + 1}


@cache
def read(max_tokens: int, limit: int | None):
    """Return the data, which a process parses once."""
    import kit

    return kit.load_data("stdlib", max_tokens=max_tokens, limit=limit)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return, by network, method and rate, mean and half the 95 % interval (Student's t) of both accuracies, in %."""
    from scipy.stats import t

    percent = table.assign(last=100 * table["last"], best=100 * table["best"])
    groups = percent.groupby(COLUMNS[:-1])[["last", "best"]]
    mean, count = groups.mean(), groups.count()
    half = groups.std() / count**0.5 * t.ppf(0.975, (count - 1).clip(lower=1))
    return mean.join(half.add_suffix(" ±")).join(groups.size().rename("n")).round(1)


if __name__ == "__main__":
    main()
