"""Words per second of a backprop epoch on texts, beside the same model in a plain PyTorch loop; and what is padding.

    python benchmarks/text.py [--quick] [--out FILE] [--windows 5]

The loops go over one epoch of the same batches with the same model and optimizer, in turn; none evaluates. The kit once
computes in fp32, as the plain loop does, and once in what it takes by default, `precision="auto"`. All run with the
allocator settings that the kit starts processes with: without them, page faults decide (`kit.cpu_allocator`).
"""

import os
import sys
import time

import torch
from _harness import arguments, row, write

import kit
from kit import cpu_allocator
from kit.backbones import TEXT_BACKBONES
from kit.train import build

SETTINGS = {
    "dataset": "stdlib", "max_tokens": 60, "width": 1.0, "method": "bp", "num_blocks": 1, "batch_size": 32,
    "optimizer": "adam", "lr": 1e-3, "output": None,
}  # fmt: skip


def main() -> None:
    parser = arguments(__doc__, "text")
    parser.add_argument("--windows", type=int, default=5, help="epochs of each, measured in turn")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings, rows = SETTINGS | ({"limit": 240, "width": 0.2} if args.quick else {}), []
    for backbone in TEXT_BACKBONES:
        config, default = (kit.RunConfig(**settings, backbone=backbone, precision=p) for p in ("fp32", "auto"))
        data = kit.load_data(config)
        batches = list(data.batches("train", config.batch_size, epoch=0))
        words = sum(int((x != 0).sum()) for x, _ in batches)
        plain = Plain(build(config, data), config.lr)
        cases = {"plain PyTorch": plain.step, "kit": build(config, data).step, "kit, auto": build(default, data).step}
        seconds = {name: [] for name in cases}
        for window in range(args.windows + 1):  # the first warms up
            for name, step in cases.items():
                begin = time.perf_counter()
                for x, y in batches:
                    step(x, y)
                seconds[name] += [time.perf_counter() - begin] if window else []
        for name, taken in seconds.items():
            rows.append(row(f"{backbone}, {name}", "words", [words / s for s in taken], "1/s"))
            if name != "plain PyTorch":
                ratios = [a / b for a, b in zip(seconds["plain PyTorch"], taken, strict=True)]
                rows.append(row(f"{backbone}, {name} over plain PyTorch", "ratio", ratios, ""))
    for name, given in (("by length", batches), ("in order", data.batches("train", config.batch_size))):
        shares = [float((x == 0).float().mean()) for x, _ in given]
        rows.append(row(f"batches {name}", "padding", shares, "share"))
    for r in rows:
        print(f"{r['case']:<36} {r['metric']:<8} {r['value']:12.4f} {r['min']:12.4f} {r['max']:12.4f}  {r['unit']}")
    write(args.out, "text", settings, rows)


class Plain:
    """The model of a net of one block, trained as PyTorch's tutorials do."""

    def __init__(self, net: kit.Net, lr: float):
        (block,) = net
        self.body, self.head = block.body[0], block.objective.head
        self.optimizer = torch.optim.Adam([*self.body.parameters(), *self.head.parameters()], lr)

    def step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        loss = torch.nn.functional.cross_entropy(self.head(self.body(x, x != 0)), y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


if __name__ == "__main__":
    if cpu_allocator.environment().items() <= os.environ.items():
        main()
    else:
        cpu_allocator.main([sys.executable, *sys.argv])
