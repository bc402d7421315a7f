"""Named datasets and one's own: `load_data` gives three splits in memory, `Data.batches` gives batches of them."""

from kit.data.augment import AUGMENTATIONS
from kit.data.dataset import Data
from kit.data.loading import load_data
from kit.data.noise import NOISE, corrupt
from kit.data.readers import DATASETS
from kit.data.splits import DataSettings, Split
from kit.data.views import VIEWS

__all__ = ["AUGMENTATIONS", "DATASETS", "NOISE", "VIEWS",
           "Data", "DataSettings", "Split", "corrupt", "load_data"]  # fmt: skip
