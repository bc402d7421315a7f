"""From the parameters of `notebooks/one_run.ipynb` to the settings of a run; experiment files are checked by it too."""

from ast import literal_eval
from collections.abc import Sequence
from dataclasses import replace

from kit.backbones import TAKE_WIDTH
from kit.errors import unknown
from kit.train.config import CUTS, RunConfig

TABLE = "result.parquet"
COLUMNS = ("epoch", "split", "block", "metric", "value")
METRICS = (
    "accuracy",
    *("fitted", "memorised", "recovered", "loss_untouched", "loss_corrupted", "noise_realised"),
    *("peak_bytes", "step_seconds"),
)


def run_config(
    *, quick: bool, cuts: Sequence[str], options: Sequence[str], backbone_options: Sequence[str],
    context_options: Sequence[str], **settings: object,
) -> RunConfig:  # fmt: skip
    """Return the settings of a run. Raises ValueError for what cannot be.

    `options`, `backbone_options` and `context_options` are texts such as `pool=4`; `cuts` is what the cuts balance, or
    the names of all of them; `quick` makes the run one of seconds. Parameters that are no settings of a run are left
    aside.
    """
    own = {name: value for name, value in settings.items() if name in RunConfig.__dataclass_fields__}
    config = RunConfig(
        cuts=_cuts(cuts, own["num_blocks"]),
        options=_read("options", options),
        backbone_options=_read("backbone_options", backbone_options),
        context_options=_read("context_options", context_options),
        **own,
    )
    return _small(config) if quick else config


def _cuts(cuts: Sequence[str], num_blocks: int) -> str | tuple[str, ...]:
    if len(cuts) == 1 and cuts[0] in CUTS:
        return cuts[0]
    if len(cuts) == 1 and num_blocks != 2:
        raise unknown("cuts", cuts[0], CUTS)
    if len(cuts) != num_blocks - 1:
        raise ValueError(
            f"cuts={cuts!r}, but num_blocks={num_blocks} has {num_blocks - 1} places to cut at: name as many"
        )
    return tuple(cuts)


def _read(name: str, items: Sequence[str]) -> dict[str, object]:
    """Return options by name: each is `name=literal`."""
    found = {}
    for item in items:
        key, _, text = item.partition("=")
        try:
            value = literal_eval(text)
        except (ValueError, SyntaxError):
            raise ValueError(f"{name}: {item!r} has to be of the form name=value, such as pool=4 or task='x'") from None
        if key in found:
            raise ValueError(f"{name}: {key!r} stands twice: which of the two counts?")
        found[key] = value
    return found


def _small(config: RunConfig) -> RunConfig:
    """Return a run of one epoch on at most 400 images, with networks and heads a few channels wide."""
    small = {"epochs": 1, "warmup_epochs": 0.0, "limit": min(config.limit or 400, 400)}
    small["batch_size"] = min(config.batch_size, 50)
    small["width"] = config.width / 16 if config.backbone in TAKE_WIDTH else config.width
    if config.method in ("deinforeg", "scpl"):
        small["options"] = {**config.options, "widths": (32, 32), "pool": 2}
    return replace(config, **small)
