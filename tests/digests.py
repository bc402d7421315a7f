"""Print a digest of weights and record after 20 steps, for each method, network and context: `python tests/digests.py`.

Run it at two commits on one machine: a change of the code that is no change of the numbers prints the same lines.
"""

from __future__ import annotations

import hashlib
import warnings

import torch

import kit

NETWORKS = {
    "resnet20": {"backbone": "resnet20", "width": 0.25, "num_blocks": 3},
    "mlp": {"backbone": "mlp", "width": 0.25, "backbone_options": {"depth": 4, "norm": "batch"}, "num_blocks": 4},
}
OLD = {  # the forms that were the defaults when the lines were first printed
    "predsim": {"similarity": "flat", "classifier": "pooled"},
    "scpl": {"contrast": "supcon", "projector": "mlp-bn"},
    "infopro": {"contrast": "supcon", "init": "pytorch"},
}
OLD_CONTEXT = {"reads": "received", "repeated": "encode", "encoders": "plain"}
OPTIONS = {"deinforeg": {"widths": (64, 64, 64)}, "al": {"hidden": 64, "code": 32}}
OPTIONS |= {"scpl": {"widths": (64, 32)} | OLD["scpl"], "predsim": OLD["predsim"], "infopro": OLD["infopro"]}
TASKS = {"infopro contrast": {"method": "infopro", "options": {"task": "contrast"} | OLD["infopro"]}}
CASES = {
    "stagewise": {"method": "greedy", "stagewise": True, "augment": "none"},
    "stagewise al": {"method": "al", "stagewise": True, "augment": "none", "options": OPTIONS["al"]},
    "grown": {"method": "dgl", "epochs": 3, "grow": {"at": [1], "freeze": "earlier", "side": "bottom"},
              "views": ("top", "bottom")},
    "by need": {"method": "greedy", "epochs": 3, "grow": {"when": "plateau", "patience": 1, "start": 1, "min_gain": 1}},
    "lars": {"method": "deinforeg", "optimizer": "lars", "lr": 0.2, "options": OPTIONS["deinforeg"]},
    "sgd": {"method": "predsim", "options": OLD["predsim"], "optimizer": "sgd", "nesterov": True, "schedule": "step",
            "warmup_epochs": 0.2},
    "scaled": {"method": "deinforeg", "options": {"widths": (64, 32), "variant": "scaled", "classifier": "unmerge",
                                                    "hidden": (512,)}},
    "noise": {"method": "greedy", "noise": "instance", "noise_rate": 0.4, "noisy_val": True},
    "bf16": {"method": "greedy", "precision": "bf16"},
}  # fmt: skip


def digest(**settings: object) -> str:
    """Return 16 hexadecimal digits of all tensors of the net trained so, whatever their names, and of the record."""
    nets = []
    config = kit.RunConfig(
        **{"limit": 711, "batch_size": 32, "epochs": 1, "precision": "fp32", "device": "cpu", "lr": 2e-3}
        | {"augment": "shift", "output": None}
        | settings
    )
    history = kit.run(config, on_epoch=lambda epoch, net: nets.append(net))
    tensors = sorted(hashlib.sha256(t.contiguous().numpy().tobytes()).digest() for t in nets[-1].state_dict().values())
    record = "\n".join(repr(row) for row in history.rows)
    return hashlib.sha256(b"".join(tensors) + record.encode()).hexdigest()[:16]


def cases():
    for network, shared in NETWORKS.items():
        methods = {name: {"method": name, "options": OPTIONS.get(name, {})} for name in kit.METHODS} | TASKS
        for name, method in methods.items():
            for context in ("none", "E", "R1E"):
                yield (
                    f"{network} {name} {context}",
                    shared | method | {"context": context, "context_options": OLD_CONTEXT},
                )
    for name, settings in CASES.items():
        yield f"resnet20 {name}", NETWORKS["resnet20"] | settings


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name, settings in cases():
        try:
            print(f"{digest(**settings)}  {name}", flush=True)
        except ValueError as error:
            print(f"{'refused':<16}  {name}: {error}", flush=True)
