"""Wrong values by the type that a setting, an option or a parameter has: refused alike wherever one is given."""

from math import inf, nan

WRONG = {
    int: ["three", "", 1.5, None, [3], {"n": 3}, True, nan],
    float: ["fast", "", None, [0.1], {"lr": 0.1}, True, nan, inf],
    bool: ["no", "", 1, 0, None, [True], 0.0],
    str: [1, 1.5, None, ["a"], {"a": 1}, True],
}
"""Type → values that are none of it."""

SETTINGS = {int: ("epochs", 1), float: ("momentum", 0.5), bool: ("nesterov", False), str: ("method", "greedy")}
"""Type → a setting of `RunConfig` of that type, with a value that is right."""

OPTIONS = {int: "num_replicas", float: "timeout", str: "statistics"}
"""Type → an option of the pipeline."""

RANGES = {
    "epochs": ["3", 0, -1, 10**30, 2**31],
    "batch_size": ["128", 0, -4, 128.0],
    "num_blocks": ["4", 0, -1, 2.0, 10**12],
    "lr": ["0.1", 0, 0.0, -1e-3, 1e10, -inf],
    "momentum": [1.0, -0.1, 2, "0.9"],
    "weight_decay": [-1e-4, "0.01", nan, True],
    "warmup_epochs": [-1, 2, "1", nan],
    "width": [0, -1.0, "1", nan, [1]],
    "seed": [-1, None, "0", 0.5, [1], 2**63],
    "data_seed": [[1], None, "0", 1.5, True],
    "limit": [0, -5, 10.0, "100", True],
    "val_fraction": [0, 1, 0.0, 1.0, -0.1, 1.5, "0.1", nan],
    "noise_rate": [0.5, -0.1, 1.5, 40, "0.4", nan, None],
    "noise": ["symetric", "", None, 1],
    "image_size": [0, -32, "32", 32.0, (32, 32)],
    "checkpoint_steps": [0, -1, "10", 1.5, True],
    "stagewise": ["False", "True", 1, None],
    "noisy_val": ["False", 0, None],
    "nesterov": ["no", "False", 1],
    "optimizer": ["adamm", "SGD", None, 1],
    "schedule": ["cosin", "", None],
    "precision": ["fp23", "half", 32, None],
    "device": ["gpu", "cuda", "cuda:7", "mps", "meta", "", None, 0],
    "backbone": ["vgg-papr", "", None, 18],
    "backbone_options": [None, "depth=3", [3], 5],
    "method": ["gredy", "", None, ["greedy"]],
    "options": [None, "beta", 3, ["aux"]],
    "cuts": [3, "autoo", "", None, [1, 2], ["layer1", 2], []],
    "context": ["E1", "R", "R9", "r1", "", None, 1, ["E"]],
    "dataset": ["cifar-10", "", None, 10],
    "root": [None, 1, "", ["data"]],
    "output": [1, True, ["runs"]],
    "augment": ["crop", "", 1, ["shift"]],
    "views": ["top", ["topp"], ["image", "image"], [1], 3],
    "grow": ["plateau", 3, [2], {}, {"at": 2}],
}
"""Setting of `RunConfig` → values that it cannot have, beside those of `WRONG`."""

OPTION_RANGES = {
    "num_replicas": ["2", 0, -1, 2**31],
    "depth": ["2", 0, -1, None, 1.5, True],
    "timeout": ["60", 0, -1, 1e10],
    "threads": ["1", 0, -2, 1.5, True],
    "statistics": ["globl", ""],
}
"""Option of the pipeline → values that it cannot have, beside those of `WRONG`."""
