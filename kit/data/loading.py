"""`load_data`: a dataset by its name, or the one that settings describe, read and cut into splits."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from kit.data.dataset import Data
from kit.data.own import SOURCES
from kit.data.readers import DATASETS
from kit.data.splits import DataSettings, prepared
from kit.settings import Folder, Whole, accept, confirm


def load_data(
    name: str | DataSettings, root: Folder = "data", *, download: bool = False, num_workers: Whole | None = None,
    seed: int = 0, **others: object,
) -> Data:  # fmt: skip
    """Load a dataset by name, one of DATASETS, from the folder `root`; or the one that settings, as a config, describe.

    One's own data are named `folder:PATH` or `table:FILE`: see `kit.data.own`.

    `others` are the further settings of `DataSettings`, such as `limit` or `noise`. `seed` is its `data_seed`: the seed
    of a training run is another one, so runs may share one dataset.

    The test split is the published one ("digits", which has none: a fixed fifth) and is never cut, limited or noisy. Of
    the training images that `limit` leaves, the share `val_fraction`, stratified by class, becomes the validation split
    and the rest the training split. Images are resized bilinearly with antialiasing; imagenet's `image_size` is that of
    its crops, 224 unless given. `download=True` fetches what is missing. `num_workers` processes decode imagenet
    (None: one per CPU, at most 8).

    Raises FileNotFoundError naming a file or folder that is missing and how to get it; ValueError for settings that
    cannot be, a damaged file, labels out of range, or a limit, fraction or noise that these data cannot meet.
    """
    confirm("download", download, bool)
    confirm("num_workers", num_workers, Whole | None)
    settings = name
    if not isinstance(name, DataSettings):
        given = {"dataset": name, "root": root, "data_seed": seed}
        settings = DataSettings(**given | accept("setting", others, DataSettings))
    kind, _, path = settings.dataset.partition(":")
    read, augmentation = DATASETS.get(settings.dataset) or (partial(SOURCES[kind], path, settings.image_size), "none")
    train, test, classes, *views = read(Path(settings.root).expanduser().absolute(), download)
    workers = min(8, os.cpu_count() or 1) if num_workers is None else num_workers
    known = prepared(settings.dataset, train, test, None, classes, settings, augmentation, *views)
    data = Data(**known, num_workers=workers).with_views(*settings.views or ())
    return replace(data, origin=settings.data_identity() | {"fingerprint": data.fingerprint()})
