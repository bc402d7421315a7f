"""The settings that say which data to load, checked when they are made."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated

from pydantic import AfterValidator

from kit.data.augment import AUGMENTATIONS
from kit.data.noise import check_noise
from kit.data.own import known_dataset
from kit.data.views import VIEWS
from kit.errors import unknown
from kit.settings import Count, Folder, Share, check, one_of


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """A named dataset: what is taken of it and how it is seen. Raises ValueError for a setting that cannot be."""

    dataset: Annotated[str, AfterValidator(known_dataset)] = "digits"
    """Name of a dataset of `kit.data.DATASETS`, or one's own: `folder:PATH` or `table:FILE` (see `kit.data.own`)."""
    root: Folder = "data"
    """Folder of the datasets."""
    image_size: Count | None = None
    """Side in pixels to which images are resized; None leaves them."""
    limit: Count | None = None
    """Number of training and validation images to keep, balanced over classes; None keeps all."""
    val_fraction: Share = 0.1
    """Share of the training images kept aside for validation, between 0 and 1."""
    data_seed: int = 0
    """Seed of the subset, the validation split and the label noise: the same for every training `seed`."""
    augment: one_of("augmentation", AUGMENTATIONS.keys) | None = None
    """Augmentation recipe; None is the dataset's own."""
    noise: str = "none"
    """Model of the label noise put on training labels."""
    noise_rate: float = 0.0
    """Probability, in [0, 1], that the noise touches a label."""
    noisy_val: bool = False
    """Whether validation labels get the noise too, as for a user who has no clean ones; test labels never do."""
    views: Sequence[str] | None = None
    """What of an image the network's input shows, and the further views that are carried along for blocks that ask for
    them, such as `("top", "bottom")`: see `kit.data.VIEWS`. None is the image. Of tables, prefixes of columns."""

    def __post_init__(self) -> None:
        check(self)
        check_noise(self.noise, self.noise_rate)
        for view in self.views or ():
            if view not in VIEWS and not self.dataset.startswith("table:"):
                raise unknown("view", view, VIEWS)
        if self.views and len(set(self.views)) < len(self.views):
            raise ValueError(f"views={list(self.views)!r}, but every view is named once")

    def data_identity(self) -> dict:
        """Return all that decides which data are loaded, as plain JSON values: not from where, nor how augmented."""
        own = {f.name: getattr(self, f.name) for f in fields(DataSettings) if f.name not in ("root", "augment")}
        return json.loads(json.dumps(own))
