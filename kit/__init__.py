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
    from kit.blocks.backbones import backbone as backbone
    from kit.blocks.block import Block as Block
    from kit.blocks.net import Net as Net
    from kit.blocks.signal import Signal as Signal
    from kit.blocks.split import split as split
    from kit.config import RunConfig as RunConfig
    from kit.data import Data as Data
    from kit.data import load_data as load_data
    from kit.methods import METHODS as METHODS
    from kit.methods import decouple as decouple
    from kit.records import History as History
    from kit.train import fit as fit
    from kit.train import run as run

_HOMES = {
    "Block": "kit.blocks.block",
    "Data": "kit.data",
    "History": "kit.records",
    "METHODS": "kit.methods",
    "Net": "kit.blocks.net",
    "RunConfig": "kit.config",
    "Signal": "kit.blocks.signal",
    "backbone": "kit.blocks.backbones",
    "decouple": "kit.methods",
    "fit": "kit.train",
    "load_data": "kit.data",
    "run": "kit.train",
    "split": "kit.blocks.split",
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
