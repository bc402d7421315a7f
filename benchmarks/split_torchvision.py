"""Cut every torchvision classifier into four blocks and check that the blocks are the model.

    python benchmarks/split_torchvision.py [NAME …] [--quick] [--out FILE]

For each model: every parameter and buffer stands in exactly one stage, as the model's very tensor; the composed
stages give the model's own output bit for bit, in evaluation mode and, up to --limit million parameters, in training
mode with the same random numbers; `train()` and `eval()` reach every layer. Ends with exit code 1 if one fails.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
import torchvision
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from kit.backbones import backbone  # noqa: E402
from kit.measure.costs import parameters  # noqa: E402
from kit.splitting.split import cut_points, split  # noqa: E402

QUICK = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "vgg11_bn",
    "vit_b_32",
]
NUM_BLOCKS = 4


def main() -> int:
    args = arguments()
    torch.set_num_threads(1)
    rows = []
    print(f"{'model':<20} {'params':>12} {'places':>6} {'seconds':>8} {'largest':>8} {'exact':>6} {'train':>6}  result")
    for name in args.names or (QUICK if args.quick else classifiers()):
        row = check(name, args.limit * 10**6)
        rows.append(row)
        print(
            f"{name:<20} {row['params']:>12,} {row['places']:>6} {row['seconds']:>8.2f} {row['largest']:>8.0%} "
            f"{row['exact']:>6} {row['train']:>6}  {row['error'] or 'ok'}",
            flush=True,
        )
    failed = [row["case"] for row in rows if row["error"]]
    print(f"{len(rows) - len(failed)} of {len(rows)} models ok" + (f"; failed: {', '.join(failed)}" if failed else ""))
    write(rows, args)
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="torchvision classifiers; all of them by default")
    parser.add_argument("--quick", action="store_true", help="one model of each family")
    parser.add_argument(
        "--limit", type=int, default=100, help="millions of parameters up to which training is compared"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/split_torchvision.json")
    return parser.parse_args()


def classifiers() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def check(name: str, limit: int) -> dict:
    """Cut one model and compare; `seconds` is the cutting alone. A failure is put down in `error`."""
    row = {
        "case": name,
        "params": 0,
        "places": 0,
        "seconds": 0.0,
        "largest": 0.0,
        "exact": "-",
        "train": "-",
        "error": "",
    }
    size = 299 if name == "inception_v3" else 224
    try:
        torch.manual_seed(0)
        model, x = backbone(name, num_classes=1000, image_size=size), torch.rand(2, 3, size, size)
        row["params"], row["places"] = parameters(model), len(cut_points(model, x))
        start = time.perf_counter()
        stages = split(model, NUM_BLOCKS, x)
        row["seconds"] = time.perf_counter() - start
        row["largest"] = max(map(parameters, stages)) / row["params"]
        same_tensors(model, stages)
        switches(model, stages)
        row["exact"] = same_output(model.eval(), stages, x)
        if row["params"] <= limit:
            row["train"] = same_output(model.train(), [stage.train() for stage in stages], x)
        row["error"] = ", ".join(key for key in ("exact", "train") if row[key] == "no")
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}"
    return row


def same_tensors(model: nn.Module, stages: list[nn.Module]) -> None:
    """Every parameter and buffer of the model is in one stage and in no other."""
    own = [id(tensor) for tensor in [*model.parameters(), *model.buffers()]]
    cut = [id(tensor) for stage in stages for tensor in [*stage.parameters(), *stage.buffers()]]
    assert sorted(own) == sorted(cut), f"{len(own)} tensors in the model, {len(cut)} in its stages"


def switches(model: nn.Module, stages: list[nn.Module]) -> None:
    """Switching the stages switches every layer of the model that has something to switch."""
    for mode in (False, True):
        model.train(not mode)
        for stage in stages:
            stage.train(mode)
        stale = [m for m in model.modules() if not list(m.children()) and list(m.buffers()) and m.training != mode]
        assert not stale, f"{len(stale)} layers stayed in the other mode"
    model.eval()
    for stage in stages:
        stage.eval()


@torch.no_grad()
def same_output(model: nn.Module, stages: list[nn.Module], x: torch.Tensor) -> str:
    """Compare the composed stages with the model, bit for bit, with the same random numbers."""
    torch.manual_seed(1)
    expected = model(x)
    torch.manual_seed(1)
    for stage in stages:
        x = stage(x)
    return "yes" if torch.equal(x, expected) else "no"


def write(rows: list[dict], args: argparse.Namespace) -> None:
    """Write the table as the JSON that all benchmarks share."""
    units = {"params": "", "places": "", "seconds": "s", "largest": "share", "ok": ""}
    measured = [
        {"case": row["case"], "metric": metric, "value": row[metric], "unit": unit, "n": 1}
        | {"min": row[metric], "max": row[metric]}
        for row in (row | {"ok": int(not row["error"])} for row in rows)
        for metric, unit in units.items()
    ]
    versions = {"python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__}
    settings = {"num_blocks": NUM_BLOCKS, "balance": "params", "batch": 2, "num_classes": 1000, "limit": args.limit}
    result = {"name": "split_torchvision", "revision": revision(), "versions": versions, "machine": platform.platform()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result | {"settings": settings, "rows": measured}, indent=1) + "\n")


def revision() -> str:
    """Return the commit the code stands at, or "unknown" outside a repository."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


if __name__ == "__main__":
    sys.exit(main())
