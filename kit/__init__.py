"""Decoupled learning: networks whose blocks learn by themselves.

    for block in net:
        signal = block.step(signal)

The names below are all of the public face. Each is imported when first used, so `import kit` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kit import losses as losses
    from kit import pipeline as pipeline
    from kit.backbones import backbone as backbone
    from kit.block import Block as Block
    from kit.data import Data as Data
    from kit.data import load_data as load_data
    from kit.methods import METHODS as METHODS
    from kit.methods import decouple as decouple
    from kit.net import Net as Net
    from kit.signal import Signal as Signal
    from kit.splitting.split import split as split
    from kit.train import fit as fit
    from kit.train import run as run
    from kit.train.config import RunConfig as RunConfig
    from kit.train.record import History as History

_HOMES = {
    "Block": "kit.block",
    "Data": "kit.data",
    "History": "kit.train.record",
    "METHODS": "kit.methods",
    "Net": "kit.net",
    "RunConfig": "kit.train.config",
    "Signal": "kit.signal",
    "backbone": "kit.backbones",
    "decouple": "kit.methods",
    "fit": "kit.train",
    "load_data": "kit.data",
    "run": "kit.train",
    "split": "kit.splitting.split",
}

__all__ = [*_HOMES, "losses", "pipeline"]


def __getattr__(name: str) -> Any:
    if name in ("losses", "pipeline"):
        return import_module(f"kit.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'kit' has no attribute {name!r}: it offers {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
