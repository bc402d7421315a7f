"""Test error of methods in their published form and in the form that was the default before, seeds paired.

    python benchmarks/published_forms.py [--quick] [--out FILE] [--seeds 4]

A narrow ResNet-20 in 4 blocks on 3,600 images of Fashion-MNIST shrunk to 14×14, 5 epochs: a small budget, enough to see
whether a form matters, not to rank methods. `error` is that of the last exit after the last epoch, on all test images:
nothing is chosen. `difference` is published less before, of the same seed, with Student's 95 % interval of its mean.
About eight minutes of one core.
"""

import statistics

from _harness import arguments, row, write

SETTINGS = {"dataset": "fashion-mnist", "image_size": 14, "limit": 4_000, "augment": "none", "backbone": "resnet20"}
SETTINGS |= {"width": 0.25, "num_blocks": 4, "epochs": 5, "batch_size": 64, "lr": 3e-3, "precision": "fp32"}
PLAIN = {"reads": "received", "repeated": "encode", "encoders": "plain"}
CASES = {
    "predsim": (
        {"method": "predsim", "options": {"similarity": "flat", "classifier": "pooled"}},
        {"method": "predsim", "options": {"similarity": "std", "classifier": "places"}},
    ),
    "greedy, R1E": (
        {"method": "greedy", "context": "R1E", "context_options": PLAIN},
        {"method": "greedy", "context": "R1E"},
    ),
}
"""What is compared: name → settings before, settings of the published form."""


def main() -> None:
    parser = arguments(__doc__, "published_forms")
    parser.add_argument("--seeds", type=int, default=4)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    settings = SETTINGS | ({"dataset": "digits", "image_size": None, "limit": 300, "epochs": 1} if args.quick else {})
    rows = []
    for name, forms in CASES.items():
        errors = [[], []]
        for seed in range(args.seeds):  # before, published, before, published …
            for form, found in zip(forms, errors, strict=True):
                found.append(error(**settings, **form, seed=seed, data_seed=seed))
        for form, found in zip(("before", "published"), errors, strict=True):
            rows.append(row(f"{name}, {form}", "error", found, "%") | {"mean": statistics.mean(found)})
        rows.append(difference(name, *errors))
        print(rows[-1], flush=True)
        write(args.out, "published_forms", settings, rows)


def error(**settings) -> float:
    """Return the test error of the last exit, in per cent, after the last epoch."""
    import kit

    history = kit.run(kit.RunConfig(**settings, output=None))
    return 100 * (1 - float(history.accuracy("test").iloc[-1].iloc[-1]))


def difference(name: str, before: list[float], published: list[float]) -> dict:
    """Return the row of the paired difference, with the interval of its mean."""
    from scipy import stats

    found = [b - a for a, b in zip(before, published, strict=True)]
    mean, half = statistics.mean(found), 0.0
    if len(found) > 1:
        half = stats.t.ppf(0.975, len(found) - 1) * statistics.stdev(found) / len(found) ** 0.5
    return row(name, "difference", found, "points") | {"mean": mean, "low": mean - half, "high": mean + half}


if __name__ == "__main__":
    main()
