"""(stand-in until the data room lands)"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields

from kit.data.augment import AUGMENTATIONS
from kit.data.images import DATASETS
from kit.data.noise import NOISE, check_noise
from kit.data.views import VIEWS
from kit.errors import unknown
from kit.settings import Count, Share, Whole, check, one_of


Dataset = one_of("dataset", lambda: DATASETS)
Augmentation = one_of("augmentation", lambda: AUGMENTATIONS)
Noise = one_of("noise", lambda: NOISE)


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    dataset: Dataset = "digits"
    root: str | os.PathLike = "data"
    image_size: Count | None = None
    limit: Count | None = None
    val_fraction: Share = 0.1
    data_seed: Whole = 0
    augment: Augmentation | None = None
    noise: Noise = "none"
    noise_rate: float = 0.0
    noisy_val: bool = False
    views: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check(self)
        check_noise(self.noise, self.noise_rate)
        for view in self.views or ():
            if view not in VIEWS:
                raise unknown("view", view, VIEWS)
        if self.views and len(set(self.views)) < len(self.views):
            raise ValueError(f"views={list(self.views)!r}, but every view is named once")

    def data_content(self) -> dict:
        return json.loads(
            json.dumps(
                {f.name: getattr(self, f.name) for f in fields(DataSettings) if f.name not in ("root", "augment")}
            )
        )
