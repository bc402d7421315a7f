"""Every method on LSTM and Transformer: the test accuracy of the last exit, and of the one best on validation.

    python benchmarks/text_accuracy.py [--quick] [--out FILE] [--jobs 2] [--seeds 5] [--methods bp …] [--rates 0.002 …]

Functions of Python's standard library, labelled by package (`stdlib`), a network of word vectors and three layers, cut
into four blocks; the same data, budget and optimizer for all, beside the majority class and a logistic regression on
bags of words. Each method has its own learning rate: the one of `--rates` with the best last exit on validation, by the
mean over the first three seeds; the other seeds run at that rate alone. A row a run goes into the CSV as soon as it is
there, so the benchmark can be stopped, and started again to go on.
"""

from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from itertools import product

import pandas as pd
from _harness import ROOT, add, arguments, begin, trained

SETTINGS = {
    "dataset": "stdlib", "max_tokens": 32, "width": 0.34, "num_blocks": 4, "epochs": 12, "batch_size": 64,
    "optimizer": "adam", "precision": "fp32", "output": None,
}  # fmt: skip
COLUMNS = ["backbone", "method", "lr", "seed"]
"""Of a cell: settings of its run, too."""
CHOOSING = 3
"""Seeds on which a rate is chosen."""


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
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0006, 0.002, 0.006, 0.015], help="learning rates")
    args = parser.parse_args()
    settings = SETTINGS | ({"epochs": 1, "limit": 240} if args.quick else {})
    args.out = ROOT / "runs/benchmarks/text_accuracy.csv" if args.quick else args.out
    done = begin(args.out, {"settings": settings}, COLUMNS)
    nets = [*product(TEXT_BACKBONES, args.methods)]
    with ProcessPoolExecutor(args.jobs) as pool:

        def run(planned: list[tuple]) -> pd.DataFrame:
            for future in as_completed([pool.submit(measure, settings, cell) for cell in planned if cell not in done]):
                add(args.out, future.result(), COLUMNS)
            return pd.read_csv(args.out)

        first = range(min(CHOOSING, args.seeds))
        table = run([(*net, lr, seed) for seed in first for lr in args.rates for net in nets])
        rates = chosen_rates(table)
        table = run([(*net, rates[net], seed) for seed in range(len(first), args.seeds) for net in nets])
    print({name: round(100 * share, 1) for name, share in references(read(settings["max_tokens"], None)).items()})
    print(summary(table, rates).to_string())


def measure(settings: dict, cell: tuple) -> dict:
    """Train one net and return its row."""
    import torch

    import kit
    from kit.train import build

    torch.set_num_threads(1)
    own = dict(zip(COLUMNS, cell, strict=True))
    config = kit.RunConfig(**settings, **own)
    loaded = read(config.max_tokens, config.limit)
    val, test = trained(build(config, loaded), loaded, config)
    best = val.index(max(val))
    return own | {"val": val[-1], "last": test[-1], "best": test[best], "best_exit": best + 1}


@cache
def read(max_tokens: int, limit: int | None):
    """Return the data, which a process parses once."""
    import kit

    return kit.load_data("stdlib", max_tokens=max_tokens, limit=limit)


def chosen_rates(table: pd.DataFrame) -> dict[tuple, float]:
    """Return the rate of each network and method whose last exit is best on validation, over the first seeds."""
    val = table[table["seed"] < CHOOSING].groupby(COLUMNS[:-1])["val"].mean()
    return {net: float(by_rate.idxmax()[-1]) for net, by_rate in val.groupby(COLUMNS[:2])}


def summary(table: pd.DataFrame, rates: dict[tuple, float]) -> pd.DataFrame:
    """Return, by network and method at its rate, mean and half the 95 % interval (Student's t) of both accuracies in %,
    and of the last exit's lead over backprop's, seed by seed."""
    from scipy.stats import t

    own = pd.concat(rows[rows["lr"] == rates[net]] for net, rows in table.groupby(COLUMNS[:2]))
    own = own.assign(last=100 * own["last"], best=100 * own["best"])
    bp = own[own["method"] == "bp"].set_index(["backbone", "seed"])["last"].rename("bp")
    own = own.join(bp, on=["backbone", "seed"]).assign(lead=lambda rows: rows["last"] - rows["bp"])
    groups = own.groupby(COLUMNS[:-1])[["last", "best", "lead"]]
    mean, count = groups.mean(), groups.count()
    half = groups.std() / count**0.5 * t.ppf(0.975, (count - 1).clip(lower=1))
    return mean.join(half.add_suffix(" ±")).join(groups.size().rename("n")).round(1)


if __name__ == "__main__":
    main()
