"""Named image datasets: `load_data` gives three splits in memory, `Data.batches` gives augmented batches of them."""

from kit.data.augment import AUGMENTATIONS
from kit.data.dataset import Data, Split
from kit.data.images import DATASETS, load_data
from kit.data.noise import NOISE, corrupt
from kit.data.views import VIEWS

__all__ = ["AUGMENTATIONS", "DATASETS", "NOISE", "VIEWS", "Data", "Split", "corrupt", "load_data"]


def load(s):  # stand-in
    from dataclasses import replace

    d = load_data(
        s.dataset,
        s.root,
        val_fraction=s.val_fraction,
        limit=s.limit,
        seed=s.data_seed,
        noise=s.noise,
        noise_rate=s.noise_rate,
        noisy_val=s.noisy_val,
        image_size=s.image_size,
    ).seen_as(*s.views or ())
    return replace(d, origin=s.data_content() | {"fingerprint": d.fingerprint()})
