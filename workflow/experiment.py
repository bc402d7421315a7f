"""Experiment files, read and checked: every word that cannot be meant is refused before anything runs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import check_name, unknown
from kit.parameters import check_values, read_parameters
from workflow.schema import NO_PARAMETERS, ROOT, Cell, Experiment, Paper, Rows, fill, listed, plain, published_figures
from workflow.structure import Place, at, load, make

if TYPE_CHECKING:
    from pandas import DataFrame  # a second's import, for every cell, of which most experiments need nothing

FOLDER = ROOT / "workflow" / "experiments"


def locate(experiment: str | Path) -> Path:
    """Return the YAML file of an experiment, given by its path or by its name in workflow/experiments."""
    path = Path(experiment)
    return path if path.suffix == ".yaml" else FOLDER / f"{path}.yaml"


def read(path: str | Path, *, checked: bool = False, here: bool = False) -> Experiment:
    """Return the experiment of a YAML file, or of a name in workflow/experiments.

    Raises ValueError, naming file, line and key, for what is unknown, missing, there twice, empty, of another type, or
    would write one file twice; for parameters that the notebook does not have; for settings that no cell could run
    with, of devices only if the cells run `here`. A file that was `checked` before is only read.
    """
    path = locate(path)
    if not path.is_file():
        raise unknown(f"experiment in {path.parent}", path.stem, sorted(p.stem for p in path.parent.glob("*.yaml")))
    document = load(path)
    with document.errors_placed():
        given = document.given
        if isinstance(given, dict) and isinstance(given.get("grid"), dict):
            given["grid"] = [given["grid"]]
        experiment = make(Experiment, given, "experiment", name=path.stem, home=str(path.resolve().parent))
        if not checked:
            check(experiment, here)
    return experiment


def check(experiment: Experiment, here: bool = False) -> None:
    """Raise ValueError, placed, for the first thing that cannot be meant."""
    _check_grid(experiment)
    _check_parameters(experiment)
    cells = {name: cell for name, cell in experiment.cells().items() if cell["seed"] == experiment.seeds[0]}
    _check_measures(experiment, cells)
    _check_claims(experiment, cells)
    if experiment.published or any("paper" in parameters for parameters in experiment.cases.values()):
        figures = published_figures()
        _check_papers(experiment, cells, figures)
        _check_figures(experiment, figures)
    if experiment.source.resolve() == ROOT / "notebooks" / "one_run.ipynb":
        _check_runs(experiment, cells, here)


def _check_grid(experiment: Experiment) -> None:
    empty = "so the grid is empty: there is nothing to run"
    for key in ("seeds", "grid", "cases", "seed_parameters", "measures"):
        with at(key):
            if not getattr(experiment, key):
                raise ValueError(f"{key} has no entry, {'so nothing is read' if key == 'measures' else empty}")
    for index, entry in enumerate(experiment.grid):
        for key, values in entry.items():
            with at("grid", index, key):
                if not isinstance(values, list):
                    raise ValueError(f"{key}={values!r}, but it has to be a list of values, such as [{values!r}]")
                if not values:
                    raise ValueError(f"{key} has no value, {empty}")
        for case in entry.get("cases", experiment.cases):
            with at("grid", index, "cases"):
                check_name("case", case, experiment.cases)
            for key in entry.keys() & experiment.cases[case].keys():
                with at("cases", case, key):
                    raise ValueError(f"{key!r} is in grid[{index}], which has this case, too: which of the two counts?")


def _check_parameters(experiment: Experiment) -> None:
    """Check every parameter against what the notebook declares."""
    with at("notebook"):
        declared = read_parameters(experiment.source if experiment.source.exists() else ROOT / experiment.notebook)
        if "output" not in declared:
            raise ValueError(f"{experiment.notebook} has no parameter 'output': cells would write into one folder")
    with at("table"):
        if Path(experiment.table).name != experiment.table or not experiment.table.endswith(".parquet"):
            raise ValueError(f"table={experiment.table!r}, but it has to be the name of a file, NAME.parquet")
    for place, name, value in _parameters(experiment):
        with at(*place):
            if name == "output":
                raise ValueError("the parameter 'output' is the batch's: every cell gets a folder of its own")
            if name in experiment.seed_parameters and place[0] != "seed_parameters":
                raise ValueError(f"{name!r} takes the cell's seed, as seed_parameters says: which of the two counts?")
            check_values({name: value}, declared)


def _parameters(experiment: Experiment) -> Iterator[tuple[Place, str, object]]:
    """Give every parameter of the file: where it stands, its name, its value."""
    for name, value in experiment.fixed.items():
        yield ("fixed", name), name, value
    for case, parameters in experiment.cases.items():
        for name, value in parameters.items():
            if name not in NO_PARAMETERS:
                yield ("cases", case, name), name, value
        for index, entry in enumerate(parameters.get("tables", ())):
            for name, value in entry.items() if "when" in entry else [("tables", entry)]:
                if name != "when":
                    yield ("cases", case, "tables", index, name), name, value
    for index, entry in enumerate(experiment.grid):
        for name, values in entry.items():
            for value in values if name != "cases" else ():
                yield ("grid", index, name), name, value
    for index, name in enumerate(experiment.seed_parameters):
        for seed in experiment.seeds:
            yield ("seed_parameters", index), name, seed


def _check_rows(where: Rows, known: Mapping[str, Sequence], kind: str = "parameter of the grid:") -> None:
    """Check the columns that a `where` names, and their values; if they have no `kind`, there may be others."""
    for name, value in where.items():
        with at(name):
            if kind:
                check_name(kind, name, known)
            for item in listed(value) if name in known else ():
                check_name(f"value of {name}:", item, [plain(one) for one in known[name]])


def _check_measures(experiment: Experiment, cells: Mapping[str, Cell]) -> None:
    known = experiment.grid_values | {"case": list(experiment.cases), "seed": experiment.seeds}
    for name, measure in experiment.measures.items():
        with at("measures", name, "where"):
            _check_rows(measure.where, known, "")
        with at("measures", name, "less"):
            _check_rows(measure.less, experiment.grid_values)
            found = [len(_points(cells, case, measure.less)) for case in experiment.cases] if measure.less else [1]
            if max(found) != 1:
                many = "no cell has" if max(found) == 0 else "several points of the grid have"
                raise ValueError(f"less={measure.less!r}, but {many} these values: name one point")


def _points(cells: Mapping[str, Cell], case: str, where: Rows) -> list[dict]:
    """Return the grid's points that a case has, of those that `where` names."""
    points = [cell["point"] for cell in cells.values() if cell["case"] == case]
    return [p for p in points if all(plain(p.get(name)) in listed(value) for name, value in where.items())]


def _check_claims(experiment: Experiment, cells: Mapping[str, Cell]) -> None:
    texts: dict[str, int] = {}
    for index, claim in enumerate(experiment.claims):
        with at("claims", index):
            with at("measure"):
                check_name("measure", claim.measure, experiment.measures)
            for key, case in (("ours", claim.ours), ("theirs", claim.theirs)):
                with at(key):
                    check_name("case", case, experiment.cases)
            with at("where"):
                _check_rows(claim.where, experiment.grid_values)
            points = [_points(cells, case, claim.where) for case in (claim.ours, claim.theirs)]
            if claim.ours == claim.theirs or not any(point in points[1] for point in points[0]):
                raise ValueError(f"ours={claim.ours!r} and theirs={claim.theirs!r} have no two cells to compare")
            with at("text"):
                if texts.setdefault(claim.text, index) != index:
                    raise ValueError(f"{claim.text!r} is the text of claims[{texts[claim.text]}] too: tell them apart")


def _check_papers(experiment: Experiment, cells: Mapping[str, Cell], figures: "DataFrame") -> None:
    """Check the columns of `paper_results.csv` that cells answer, filled with their parameters."""
    for cell in cells.values():
        with at("cases", cell["case"], "paper"):
            paper = experiment.cases[cell["case"]].get("paper")
            for column, text in asdict(make(Paper, paper, "paper")).items() if paper is not None else ():
                with at(column):
                    _published(figures, column, fill(text, cell["parameters"]))


def _check_figures(experiment: Experiment, figures: "DataFrame") -> None:
    for index, entry in enumerate(experiment.published):
        with at("published", index):
            with at("measure"):
                check_name("measure", entry.measure, experiment.measures)
            with at("source"):
                rows = _published(figures, "source", entry.source)
            with at("metric"):
                rows = _published(rows, "metric", entry.metric)
            with at("where"):
                _check_rows(entry.where, {column: sorted(set(rows[column])) for column in rows}, "column")


def _published(figures: "DataFrame", column: str, value: str) -> "DataFrame":
    """Return the published figures that have the value in that column, of which there has to be one."""
    check_name(f"{column} of paper_results.csv:", value, sorted(set(figures[column])))
    return figures[figures[column] == value]


def _check_runs(experiment: Experiment, cells: Mapping[str, Cell], here: bool) -> None:
    """Check that the settings of every cell make a run, and that its table has what is read."""
    from lessons import one_run

    with at("table"):
        check_name("table of one_run.ipynb:", experiment.table, [one_run.TABLE])
    columns = [*experiment.grid_values, "case", "seed", *one_run.COLUMNS]
    for name, measure in experiment.measures.items():
        with at("measures", name, "metric"):
            check_name("metric", measure.metric, one_run.METRICS)
        for column in measure.where:
            with at("measures", name, "where", column):
                check_name("column", column, columns)
    declared = read_parameters(experiment.source)
    defaults = {name: parameter.default for name, parameter in declared.items()}
    for name, cell in cells.items():
        given = check_values(cell["parameters"], declared)
        if not here and re.fullmatch(r"cuda(:\d+)?", given.get("device", "")):
            given["device"] = "cpu"  # which GPUs there are is for the cells to see
        with at("cases", cell["case"]):
            try:
                one_run.run_config(**defaults | given)
            except ValueError as error:
                raise ValueError(f"cell {name}: {error}") from error
