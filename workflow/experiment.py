"""Experiment files: what a batch runs, checked before anything runs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import yaml

from kit.errors import unknown
from kit.methods import lookup
from kit.parameters import check_values, read_parameters
from kit.train.config import RunConfig

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "workflow" / "experiments"
NAMES = ("dataset", "backbone", "method", "augment", "noise", "optimizer", "schedule", "precision")
"""Parameters that mean in every notebook what they mean in `RunConfig`: the names they may be are known beforehand."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A grid of notebook runs: cases × grid × seeds, and how their results are read."""

    name: str
    title: str
    notebook: str
    """The notebook that runs a cell: its path from the project's folder, or from the experiment file's."""
    table: str
    """The tidy Parquet file that it writes into its output folder."""
    seeds: list
    about: str = ""
    """What is asked, and of what size: for the report's head."""
    fixed: dict = field(default_factory=dict)
    """Parameters that are the same in every cell."""
    cases: dict = field(default_factory=lambda: {"run": {}})
    """What is compared: name → parameters, and under `paper` the columns of `paper_results.csv` that it answers."""
    grid: list = field(default_factory=lambda: [{}])
    """A list of {parameter: [values]}; `cases` in an entry names the cases that it holds for, by default all."""
    seed_parameters: list = field(default_factory=lambda: ["seed"])
    """The parameters that take a cell's seed."""
    minutes: float = 10.0
    """Expected time of one cell: for schedulers, and until one is finished."""
    threads: int = 1
    gpu: int = 0
    """GPUs that a cell takes."""
    memory_mb: int = 2000
    measures: dict = field(default_factory=dict)
    """Name → how one number is read from a cell's table: see `results.measured`."""
    claims: list = field(default_factory=list)
    home: str = ""
    """The experiment file's folder; set by `read`."""
    published: list = field(default_factory=list)
    """{source, measure, differs}: rows of `paper_results.csv` to set beside what was measured."""

    @property
    def source(self) -> Path:
        """The notebook's file."""
        inside = ROOT / self.notebook
        return inside if inside.exists() else Path(self.home) / self.notebook

    def cells(self) -> dict[str, dict]:
        """Return every cell: its name, which is its folder's, → {case, seed, point, parameters}."""
        cells: dict[str, dict] = {}
        for case, point, seed in self._points():
            given = {key: value for key, value in self.cases[case].items() if key != "paper"}
            parameters = self.fixed | given | point | {name: seed for name in self.seed_parameters}
            name = _slug([case, *(f"{key}-{value}" for key, value in point.items()), f"seed-{seed}"])
            if name in cells:
                raise ValueError(f"two cells would write the same files, {name}: a case, grid value or seed is twice")
            cells[name] = {"case": case, "seed": seed, "point": point, "parameters": parameters}
        return cells

    def _points(self) -> Iterator[tuple[str, dict, int]]:
        for entry in self.grid:
            values = {key: value for key, value in entry.items() if key != "cases"}
            for case in entry.get("cases", self.cases):
                for combination in itertools.product(*values.values()):
                    for seed in self.seeds:
                        yield case, dict(zip(values, combination, strict=True)), seed


def locate(experiment: str | Path) -> Path:
    """Return the YAML file of an experiment, given by its path or by its name in workflow/experiments."""
    path = Path(experiment)
    return path if path.suffix == ".yaml" else FOLDER / f"{path}.yaml"


def read(path: str | Path) -> Experiment:
    """Return the experiment of a YAML file, or of a name in workflow/experiments.

    Raises ValueError, naming file and key, for what is unknown, missing, empty, of another type, or would write one
    file twice; every cell's parameters are checked against the notebook's.
    """
    path = locate(path)
    if not path.is_file():
        raise unknown(f"experiment in {path.parent}", path.stem, sorted(p.stem for p in path.parent.glob("*.yaml")))
    try:
        given = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    try:
        experiment = replace(_build(path.stem, given), home=str(path.resolve().parent))
        _check_cells(experiment)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return experiment


def _build(name: str, given: object) -> Experiment:
    if not isinstance(given, Mapping):
        raise ValueError("expected a mapping of keys to values, such as title: …, notebook: …, seeds: […]")
    kinds = {f.name: f.type for f in fields(Experiment) if f.name not in ("name", "home")}
    for key in given:
        if key not in kinds:
            raise unknown("key", key, kinds)
    missing = [key for key in ("title", "notebook", "table", "seeds") if key not in given]
    if missing:
        raise ValueError(f"the key {missing[0]!r} is missing")
    given = dict(given)
    if isinstance(given.get("grid"), Mapping):
        given["grid"] = [given["grid"]]
    types = {"str": str, "list": list, "dict": Mapping, "int": int, "float": int | float}
    for key, value in given.items():
        if not isinstance(value, types[kinds[key]]) or isinstance(value, bool):
            raise ValueError(f"{key}={value!r}, but it has to be of type {kinds[key]}")
    experiment = Experiment(name=name, **given)
    _check_grid(experiment)
    return experiment


def _check_grid(experiment: Experiment) -> None:
    empty = "so the grid is empty: there is nothing to run"
    for key in ("seeds", "grid", "cases", "seed_parameters"):
        if not getattr(experiment, key):
            raise ValueError(f"{key} has no entry, {empty}")
    for entry in experiment.grid:
        if not isinstance(entry, Mapping):
            raise ValueError(f"grid: {entry!r} is not a mapping of parameters to lists of values")
        for key, values in entry.items():
            if not isinstance(values, list):
                raise ValueError(f"grid: {key}={values!r}, but it has to be a list of values, such as [{values!r}]")
            if not values:
                raise ValueError(f"grid: {key} has no value, {empty}")
        for case in entry.get("cases", ()):
            if case not in experiment.cases:
                raise unknown("case", case, experiment.cases)
    for case, parameters in experiment.cases.items():
        if not isinstance(parameters, Mapping):
            raise ValueError(f"cases: {case}: {parameters!r} is not a mapping of parameters to values")
    for claim in experiment.claims:
        for key in ("text", "measure", "ours", "theirs"):
            if key not in claim:
                raise ValueError(f"claims: {claim!r} lacks the key {key!r}")
        for key in claim:
            if key not in ("text", "measure", "ours", "theirs", "where", "better"):
                raise unknown("key of a claim", key, ("text", "measure", "ours", "theirs", "where", "better"))
        for key in ("ours", "theirs"):
            if claim[key] not in experiment.cases:
                raise unknown("case", claim[key], experiment.cases)
    for used in [*experiment.claims, *experiment.published]:
        if used.get("measure") not in experiment.measures:
            raise unknown("measure", used.get("measure"), experiment.measures)


def _check_cells(experiment: Experiment) -> None:
    """Check every cell's parameters against what the notebook declares."""
    declared = read_parameters(experiment.source if experiment.source.exists() else ROOT / experiment.notebook)
    if "output" not in declared:
        raise ValueError(f"{experiment.notebook} has no parameter 'output': cells would write into one folder")
    for name, cell in experiment.cells().items():
        if "output" in cell["parameters"]:
            raise ValueError("the parameter 'output' is the batch's: every cell gets a folder of its own")
        try:
            values = check_values(cell["parameters"], declared)
            RunConfig(output=None, **{key: values[key] for key in NAMES if values.get(key) is not None})
            for method in values.get("methods", ()):
                lookup(method)
        except ValueError as error:
            raise ValueError(f"cell {name}: {error}") from error


def _slug(parts: list[str]) -> str:
    return "__".join(re.sub(r"[^\w.+-]+", "-", part).strip("-") for part in parts)
