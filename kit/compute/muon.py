"""Muon for what is multiplied by, AdamW for the vectors beside it: PyTorch's own Muon takes matrices only."""

import pytorch_optimizer

from kit.compute.lars import CopiesWhole


class Muon(CopiesWhole, pytorch_optimizer.Muon):
    """pytorch-optimizer's Muon, with one learning rate for both (Moonlight's, Liu et al. 2025)."""

    def __init__(self, parameters, lr: float, weight_decay: float, momentum: float):
        both = [p for part in parameters for p in (part["params"] if isinstance(part, dict) else [part])]
        groups = [{"params": [p for p in both if (p.ndim > 1) == wide], "use_muon": wide} for wide in (True, False)]
        rates = {"lr": lr, "adamw_lr": lr, "weight_decay": weight_decay, "adamw_wd": weight_decay}
        super().__init__(groups, momentum=momentum, use_adjusted_lr=True, **rates)
