"""Test error of every method against the number of blocks, without context and with it.

    python benchmarks/accuracy.py [--quick] [--out FILE] [--jobs 2] [--seeds 3] [--plot FILE]

A narrow ResNet-32 on 4,000 images of Fashion-MNIST, shrunk to 14×14, cut as InfoPro cuts it; every method with K = 2,
4, 8 and 16 blocks, and with 16 blocks also with context E and R1E; the same data, budget and optimizer for all, several
seeds. One row a run goes into the CSV as soon as it is there, so the benchmark can be stopped, and started again to go
on. The settings stand in a JSON file beside it. `error` is that of the last exit after the last epoch, on all test
images: nothing is chosen; `best_exit_error` is that of the exit with the best validation accuracy then.
"""

from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import pandas as pd
from _harness import ROOT, add, arguments, begin, trained

SETTINGS = {
    "dataset": "fashion-mnist",
    "image_size": 14,
    "limit": 4_000,
    "backbone": "resnet32",
    "width": 0.25,
    "cuts": "infopro",
    "epochs": 8,
    "batch_size": 128,
    "optimizer": "adamw",
    "lr": 3e-3,
    "precision": "bf16",
}
OPTIONS = {
    "deinforeg": {"widths": [256, 256, 256], "pool": 4},
    "scpl": {"pool": 4, "contrast": "supcon", "projector": "mlp-bn"},
    "al": {"pool": 4},
    "predsim": {"similarity": "flat", "classifier": "pooled"},
    "infopro": {"init": "pytorch", "contrast": "supcon"},
}
"""Smaller heads for a narrow net, and the forms that were the methods' defaults when this was measured."""

CONTEXT = {"reads": "received", "repeated": "encode", "encoders": "plain"}  # likewise

COLUMNS = ["method", "num_blocks", "context", "seed"]


def main() -> None:
    parser = arguments(__doc__, "accuracy")
    parser.set_defaults(out=ROOT / "benchmarks/results/accuracy.csv")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time, a thread each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path, default=ROOT / "notebooks/figures/error_by_blocks.png")
    args = parser.parse_args()
    settings = SETTINGS | ({"dataset": "digits", "limit": 300, "epochs": 1} if args.quick else {})
    if args.quick:
        args.out, args.plot = (Path("runs/benchmarks", path.name) for path in (args.out, args.plot))
    done = begin(args.out, {"settings": settings, "options": OPTIONS}, COLUMNS)
    planned = [cell for cell in cells(range(args.seeds)) if tuple(cell) not in done]
    print(f"{len(done)} runs done, {len(planned)} to do", flush=True)
    with ProcessPoolExecutor(args.jobs) as pool:
        for future in as_completed([pool.submit(measure, settings, *cell) for cell in planned]):
            add(args.out, future.result(), COLUMNS)
    from lessons import local_losses_and_context as lesson

    table = lesson.read_accuracy(args.out)
    print(lesson.error_summary(table, with_n=True).to_string())
    draw(table, args.plot)


def cells(seeds) -> list[tuple[str, int, str, int]]:
    """Return (method, number of blocks, context, seed) of every run, all methods before the next seed."""
    from kit.methods import REGISTRY

    local = [name for name, method in REGISTRY.items() if not method.one_loss]
    plan = [("bp", 16, "none")]
    plan += [(method, k, "none") for k in (16, 2, 4, 8) for method in local]
    plan += [(method, 16, context) for context in ("E", "R1E") for method in local]
    return [(*case, seed) for seed in seeds for case in plan]


def measure(settings: dict, method: str, num_blocks: int, context: str, seed: int) -> dict:
    """Train one net and return its row."""
    import torch

    import kit
    from kit.train import build, load_data

    torch.set_num_threads(1)
    config = kit.RunConfig(
        **settings,
        method=method,
        num_blocks=num_blocks,
        context=context,
        context_options=CONTEXT,
        seed=seed,
        options=OPTIONS.get(method, {}),
        output=None,
    )
    loaded = load_data(config)
    net = build(config, loaded)
    val, test = trained(net, loaded, config)
    best = val.index(max(val))
    measured = {"error": 1 - test[-1], "best_exit": best + 1, "best_exit_error": 1 - test[best]}
    return dict(zip(COLUMNS, (method, num_blocks, context, seed), strict=True)) | measured


def draw(table: pd.DataFrame, path: Path) -> None:
    from lessons.local_losses_and_context import error_by_blocks

    path.parent.mkdir(parents=True, exist_ok=True)
    error_by_blocks(table).savefig(path, bbox_inches="tight")
    print(f"drawn to {path}")


if __name__ == "__main__":
    main()
