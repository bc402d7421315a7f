"""What an experiment file may say, and what it means: the cells of a batch."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypedDict

from pydantic import Field

from kit.errors import check_name
from kit.settings import Count, Positive, Whole

ROOT = Path(__file__).resolve().parent.parent

MAX_NAME = 200
"""Bytes of a cell's name: file systems take 255, of which locks and drafts need some."""

NO_PARAMETERS = ("paper", "tables")
"""The keys of a case that are no parameters of its cells."""

Name = Annotated[str, Field(min_length=1, description="a text")]
Rows = Mapping[str, object]
"""Which rows of a table are meant: column → its value, or a list of its values."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How one number is read from a cell's table."""

    metric: Name = "accuracy"
    split: Literal["train", "val", "test"] = "test"
    exit: Whole | Literal["last", "chosen", "all"] = "last"
    """The block: a number, the last, the best on validation at that epoch, or, for the best epoch, any."""
    epoch: Literal["last", "chosen", "best"] = "last"
    """`chosen` is the best on validation, with its exit if that is chosen too; `best` the highest on the split itself:
    to describe a curve, not to choose by."""
    where: Rows = field(default_factory=dict)
    """The rows that are read."""
    less: Mapping[str, str | bool | int | float] = field(default_factory=dict)
    """{parameter: value}: the value of the same case and seed there, less this one."""
    error: bool = False
    """Gives 100 · (1 − value)."""
    scale: float = 1
    """Multiplies what is read."""

    def __post_init__(self) -> None:
        if self.exit == "all" and self.epoch != "best":
            raise ValueError(f"exit='all' with epoch={self.epoch!r} is as many numbers as exits: ask for epoch: best")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """That one case is better than another, to be tested over seeds."""

    text: Name
    measure: Name
    ours: Name
    theirs: Name
    better: Literal["higher", "lower"] = "higher"
    where: Rows = field(default_factory=dict)
    """The grid points it is made for; by default all."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """The columns of `paper_results.csv` that a case answers; `{name}` stands for the cell's parameter."""

    dataset: Name
    backbone: Name
    method: Name
    setting: Name


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Rows of `paper_results.csv` to set beside what was measured."""

    source: Name
    metric: Name
    measure: Name
    differs: str = "nothing known"
    where: Rows = field(default_factory=dict)


class Cell(TypedDict):
    """One run of the notebook: what it is of, and the parameters that it is given."""

    case: str
    seed: int
    point: dict[str, object]
    parameters: dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A grid of notebook runs: cases × grid × seeds, and how their results are read."""

    name: str
    home: str = ""
    """The experiment file's folder."""
    title: Name
    notebook: Name
    """The notebook that runs a cell: its path from the project's folder, or from the experiment file's."""
    table: Name
    """The tidy Parquet file that it writes into its output folder."""
    seeds: Sequence[Whole]
    about: str = ""
    """What is asked, and of what size: for the report's head."""
    fixed: Mapping[str, object] = field(default_factory=dict)
    """Parameters that are the same in every cell, unless a case or the grid says otherwise."""
    cases: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: {"run": {}})
    """What is compared: name → parameters, under `paper` what `Paper` has, and under `tables` a list of what goes with
    some values: `{when: {num_blocks: 4}, options: [...]}`. Options are joined to the case's own."""
    grid: Sequence[Mapping[str, object]] = field(default_factory=lambda: [{}])
    """A list of {parameter: [values]}; `cases` in an entry names the cases that it holds for, by default all."""
    seed_parameters: Sequence[Name] = field(default_factory=lambda: ["seed"])
    """The parameters that take a cell's seed."""
    minutes: Positive = 10.0
    """Expected time of one cell: for schedulers, and until one is finished."""
    threads: Count = 1
    gpu: Whole = 0
    """GPUs that a cell takes."""
    memory_mb: Count = 2000
    measures: Mapping[str, Measure]
    claims: Sequence[Claim] = ()
    published: Sequence[Figure] = ()

    @property
    def source(self) -> Path:
        """The notebook's file."""
        inside = ROOT / self.notebook
        return inside if inside.exists() else Path(self.home) / self.notebook

    @property
    def grid_values(self) -> dict[str, list]:
        """The parameters of the grid, each with all its values."""
        found: dict[str, list] = {}
        for entry in self.grid:
            for name, values in entry.items():
                if name != "cases":
                    found.setdefault(name, []).extend(values)
        return found

    def cells(self) -> dict[str, Cell]:
        """Return every cell by its name, which is its folder's."""
        cells: dict[str, Cell] = {}
        for case, point, seed in self._points():
            given = {key: value for key, value in self.cases[case].items() if key not in NO_PARAMETERS}
            parameters = {**self.fixed, **given, **point, **{name: seed for name in self.seed_parameters}}
            parameters = _with_tables(parameters, self.cases[case].get("tables", ()))
            name = _slug([case, *(f"{key}-{value}" for key, value in point.items()), f"seed-{seed}"])
            if name in cells:
                raise ValueError(f"two cells would write the same files, {name}: a case, grid value or seed is twice")
            if len(name.encode()) > MAX_NAME:
                raise ValueError(f"the name of a cell, {name}, is too long for a folder: shorten cases or values")
            cells[name] = {"case": case, "seed": seed, "point": point, "parameters": parameters}
        return cells

    def _points(self) -> Iterator[tuple[str, dict, int]]:
        for entry in self.grid:
            values = {key: value for key, value in entry.items() if key != "cases"}
            for case in entry.get("cases", self.cases):
                for combination in itertools.product(*values.values()):
                    for seed in self.seeds:
                        yield case, dict(zip(values, combination, strict=True)), seed


def _with_tables(parameters: dict[str, object], tables: Sequence[Mapping]) -> dict[str, object]:
    """Return the parameters with what tables say of cells that have their values; no two may say something of one."""
    found: dict[str, object] = {}
    for entry in tables:
        if all(parameters.get(name) == value for name, value in entry["when"].items()):
            for name, value in entry.items():
                if name == "when":
                    continue
                if name in found:
                    raise ValueError(f"tables: two entries say {name} of {entry['when']}: which of the two counts?")
                found[name] = [*parameters.get(name, []), *value] if name.endswith("options") else value
    return parameters | found


def _slug(parts: list[str]) -> str:
    return "__".join(re.sub(r"[^\w.+-]+", "-", part).strip("-") for part in parts)


def plain(value: object) -> object:
    """Return a parameter's value as it stands in a table's column."""
    return value if isinstance(value, str | int | float) else str(value)


def listed(value: object) -> list:
    """Return the values of a column that a `where` names: one, or a list of them."""
    return [plain(item) for item in (value if isinstance(value, list) else [value])]


def fill(text: str, parameters: Mapping[str, object]) -> str:
    """Return the text with each `{name}` replaced by that parameter. ValueError for one that is not there."""

    def value(found: re.Match) -> str:
        check_name(f"parameter in {text!r}:", found[1], parameters)
        return str(parameters[found[1]])

    return re.sub(r"\{(.*?)\}", value, text)


def published_figures():
    """Return the table of published figures, `paper_results.csv`."""
    import pandas as pd

    figures = pd.read_csv(ROOT / "workflow" / "paper_results.csv")
    return figures.fillna({"experiment": "", "cell": "", "why_not": ""})
