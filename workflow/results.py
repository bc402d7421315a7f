"""From the cells' tables to one tidy table, statistics over seeds, verdicts and the paper's figures beside ours."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from kit.errors import check_name
from kit.files import atomic, sweep
from workflow.schema import ROOT, Experiment, Measure, Rows, fill, listed, plain, published_figures

CONFIDENCE = 0.95
VERDICTS = ("holds", "does not hold", "not decided at this n")


def join(experiment: Experiment, batch: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return one tidy table of all results, with columns case, seed and the grid's parameters, and the cells missing.

    A result that cannot be read counts as missing; nothing is made up for it.
    """
    parts, missing = [], []
    for name, cell in experiment.cells().items():
        path = batch / "cells" / name / "result.parquet"
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError):
            missing.append(name)
            continue
        about = {"case": cell["case"], **cell["point"], "seed": cell["seed"]}
        parts.append(table.assign(**{key: plain(value) for key, value in about.items()}))
    if not parts:
        return pd.DataFrame(), missing
    table = pd.concat(parts, ignore_index=True)
    return table[[*_keys(experiment), "seed", *[c for c in table if c not in {*_keys(experiment), "seed"}]]], missing


def _keys(experiment: Experiment) -> list[str]:
    """Return the columns that tell cells of one seed apart."""
    return ["case", *dict.fromkeys(key for entry in experiment.grid for key in entry if key != "cases")]


def measured(experiment: Experiment, table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return one number per cell, column `value`, read from the joined `table` as the measure `name` says.

    A cell whose table has no such row gives none. Raises ValueError for a column that is not there, and where a cell
    has several numbers.
    """
    measure, keys = experiment.measures[name], [*_keys(experiment), "seed"]
    for column in measure.where:
        check_name(f"column in the measure {name!r}:", column, table)
    rows = _rows(table[table["metric"] == measure.metric], measure.where)
    picked = []
    for _, cell in rows.groupby(keys, sort=False, dropna=False):
        own, val = (cell[cell["split"] == split] if "split" in cell else cell for split in (measure.split, "val"))
        picked.append(_pick(own, val, measure))
        if len(picked[-1]) > 1:
            differ = [column for column in cell if column != "value" and picked[-1][column].nunique(dropna=False) > 1]
            raise ValueError(
                f"the measure {name!r} finds {len(picked[-1])} numbers in one cell, which differ in "
                f"{', '.join(differ)}: say which is meant with where"
            )
    found = pd.concat(picked, ignore_index=True) if picked else rows
    found = found[[*keys, "value"]]
    if measure.less:
        found = _less(found, measure.less)
    value = 100 * (1 - found["value"]) if measure.error else found["value"]
    return found.assign(value=value * measure.scale)


def _rows(table: pd.DataFrame, where: Rows) -> pd.DataFrame:
    for column, value in where.items():
        table = table[table[column].isin(listed(value))]
    return table


def _pick(own: pd.DataFrame, val: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Return the row of one cell that is read: exit and epoch, chosen on validation where so said."""
    if measure.exit not in ("chosen", "all"):
        number = own["block"].max() if measure.exit == "last" else measure.exit
        own, val = own[own["block"] == number], val[val["block"] == number]
    if measure.epoch == "last":
        own, val = own[own["epoch"] == own["epoch"].max()], val[val["epoch"] == val["epoch"].max()]
    if measure.epoch == "best":
        return own.nlargest(1, "value")
    if "chosen" in (measure.exit, measure.epoch):
        best = val.nlargest(1, "value")[["block", "epoch"]]
        own = own.merge(best)
    return own


def _less(found: pd.DataFrame, where: Rows) -> pd.DataFrame:
    there = _rows(found, where)
    reference = there.set_index(["case", "seed"])["value"]
    rest = found.drop(there.index)
    pairs = pd.MultiIndex.from_frame(rest[["case", "seed"]])
    return rest.assign(value=reference.reindex(pairs).to_numpy() - rest["value"].to_numpy()).dropna(subset="value")


def measures(experiment: Experiment, table: pd.DataFrame) -> pd.DataFrame:
    """Return every measure of every cell: `measured`, with a column measure in front."""
    found = {name: measured(experiment, table, name) for name in experiment.measures}
    return pd.concat(found, names=["measure", None]).reset_index("measure").reset_index(drop=True)


def summary(experiment: Experiment, values: pd.DataFrame) -> pd.DataFrame:
    """Return mean, standard deviation, n and 95 % confidence interval over seeds of every measure at every point.

    `values` are the `measures`; `of` is the number of seeds asked for: where n is smaller, cells are missing and the
    numbers are of those there. The interval is Student's t; with one seed there is none.
    """
    rows = []
    keys = ["measure", *_keys(experiment)]
    for key, seeds in values.groupby(keys, sort=False, dropna=False)["value"]:
        low, high = _interval(seeds)
        numbers = {"mean": seeds.mean(), "std": seeds.std(), "median": seeds.median(), "n": len(seeds)}
        numbers |= {"low": low, "high": high}
        rows.append({**dict(zip(keys, key, strict=True)), **numbers, "of": len(experiment.seeds)})
    return pd.DataFrame(rows)


def _interval(values: pd.Series) -> tuple[float, float]:
    """Return the ends of Student's confidence interval of the mean; NaN for a single value."""
    from scipy import stats

    mean, error = values.mean(), stats.sem(values) if len(values) > 1 else np.nan
    if error == 0:  # which scipy takes for no distribution at all
        return mean, mean
    return stats.t.interval(CONFIDENCE, len(values) - 1, mean, error)


def tests(experiment: Experiment, values: pd.DataFrame) -> pd.DataFrame:
    """Return, for every claim at every grid point, the paired difference over seeds and its verdict.

    `values` are the `measures`. Ours less theirs, paired by seed; Student's paired t-test (scipy), p-values corrected
    by Holm's method over all rows (statsmodels). `holds` and `does not hold` (significantly the other way round): p <
    0.05 after correction.
    """
    from scipy import stats
    from statsmodels.stats.multitest import multipletests

    keys, rows = [key for key in _keys(experiment) if key != "case"], []
    for claim in experiment.claims:
        found = _rows(values[values["measure"] == claim.measure], claim.where)
        wide = found.pivot_table(index=[*keys, "seed"], columns="case", values="value")
        if not {claim.ours, claim.theirs} <= set(wide):
            continue
        difference = (wide[claim.ours] - wide[claim.theirs]).dropna()
        for key, seeds in difference.groupby(level=keys, sort=False) if keys else [((), difference)]:
            point = dict(zip(keys, key if isinstance(key, tuple) else (key,), strict=True))
            p = stats.ttest_1samp(seeds, 0).pvalue if len(seeds) > 1 and seeds.std() > 0 else np.nan
            numbers = {"difference": seeds.mean(), "std": seeds.std(), "n": len(seeds), "p": p}
            sign = -1 if claim.better == "lower" else 1
            rows.append({"claim": claim.text, "measure": claim.measure, **point, **numbers, "sign": sign})
    if not rows:
        return pd.DataFrame()
    result = pd.DataFrame(rows)
    decided = result["p"].notna()
    result["p_holm"] = np.nan
    if decided.any():
        result.loc[decided, "p_holm"] = multipletests(result.loc[decided, "p"], method="holm")[1]
    result["verdict"] = [_verdict(row.difference * row.sign, row.p_holm) for row in result.itertuples()]
    return result.drop(columns="sign")


def _verdict(difference: float, p: float) -> str:
    if not p < 0.05:
        return VERDICTS[2]
    return VERDICTS[0] if difference > 0 else VERDICTS[1]


def published(experiment: Experiment, numbers: pd.DataFrame) -> pd.DataFrame:
    """Return every published figure that the experiment names: paper says, we measured, differs in.

    `numbers` is the `summary`, empty where nothing was run. A row of `paper_results.csv` belongs to the case whose
    `paper` columns it has; braces there stand for the cell's parameters, as in `setting: "K={num_blocks}"`. A figure
    without a cell says so.
    """
    paper, rows = published_figures(), []
    answered = answers(experiment)
    for entry in experiment.published:
        wanted = _rows(paper, {"source": entry.source, "metric": entry.metric, **entry.where})
        for figure in wanted.itertuples():
            point = answered.get((figure.dataset, figure.backbone, figure.method, figure.setting))
            ours = _ours(numbers, entry.measure, point["point"]) if point else None
            where = (figure.paper, figure.source, figure.dataset, figure.backbone, figure.method, figure.setting)
            says = f"{figure.value:g}" + (f" ± {figure.std:g}" if figure.std == figure.std else "")
            we = "not in the grid" if point is None else ours or "not run yet"
            rows.append((*where, figure.metric, says, we, entry.differs))
    head = ["paper", "source", "dataset", "backbone", "method", "setting", "metric", "paper says", "we measured"]
    return pd.DataFrame(rows, columns=[*head, "differs in"])


ANSWER = ("dataset", "backbone", "method", "setting")


def answers(experiment: Experiment) -> dict[tuple, dict]:
    """Return (dataset, backbone, method, setting) of the paper → the cell that answers it.

    Of the cell its `name`, without the seed, and the `point`: the columns that its rows have in the joined table.
    """
    found = {}
    for name, cell in experiment.cells().items():
        if paper := experiment.cases[cell["case"]].get("paper"):
            filled = {key: fill(value, cell["parameters"]) for key, value in paper.items()}
            point = {"case": cell["case"], **{key: plain(value) for key, value in cell["point"].items()}}
            key = tuple(filled.get(part, "") for part in ANSWER)
            found[key] = {"name": name.rpartition("__")[0], "point": point}
    return found


def _ours(numbers: pd.DataFrame, measure: str, point: Mapping) -> str | None:
    if numbers.empty:
        return None
    rows = numbers[numbers["measure"] == measure]
    for key, value in point.items():
        rows = rows[rows[key] == value]
    if rows.empty:
        return None
    row = rows.iloc[0]
    return f"{row['mean']:.4g} ± {row['std']:.2g}, median {row['median']:.4g} (n={row['n']} of {row['of']})"


def report(experiment: Experiment, begun: Experiment, batch: Path) -> None:
    """Join what is there and write table.parquet, report.ipynb and report.html into the batch folder.

    `begun` says which cells there are; measures, claims and figures are those of `experiment`.
    """
    from kit.notebook import run_notebook

    table, missing = join(begun, batch)
    if table.empty:
        print("no cell has a result yet: no report")
        return
    with FileLock(batch / ".report-lock"):
        sweep(batch)
        with atomic(batch / "table.parquet") as draft:
            table.to_parquet(draft, index=False)
        with atomic(batch / "missing.json") as draft:
            draft.write_text(json.dumps(missing, indent=2) + "\n")
        given = {"experiment": str(Path(experiment.home, f"{experiment.name}.yaml")), "output": str(batch)}
        with contextlib.chdir(ROOT):  # where the report finds `workflow`
            run_notebook(ROOT / "workflow" / "report.ipynb", batch / "report.ipynb", given, html=True)
    gap = f", {len(missing)} of {len(begun.cells())} cells missing" if missing else ""
    print(f"table {batch / 'table.parquet'}{gap}\nreport {batch / 'report.html'}")


def in_words(rows: pd.DataFrame) -> str:
    """Return a claim's verdicts in a sentence: at how many points it holds, does not, and is not decided."""
    counts = rows["verdict"].value_counts()
    said = ", ".join(
        f"{verdict} at {counts[verdict]} of {len(rows)} points" for verdict in VERDICTS if verdict in counts
    )
    smallest = rows["n"].min()
    return f"{said} (n={smallest}{' or more' if rows['n'].max() > smallest else ''} seeds)."
