"""From tables to verdicts: numbers by hand, and nothing made up for what is missing."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from workflow import results
from workflow.experiment import read
from workflow.schema import ROOT, Claim, Experiment, Figure, Measure

EXPERIMENT = Experiment(
    name="e",
    title="t",
    notebook="n",
    table="t",
    seeds=[0, 1, 2],
    cases={"ours": {}, "theirs": {}},
    grid=[{"rate": [0.0, 0.4]}],
    measures={"last": Measure(), "chosen": Measure(exit="chosen"), "early": Measure(exit="chosen", epoch="chosen"),
              "peak": Measure(epoch="best"), "lost": Measure(less={"rate": 0.0}), "error": Measure(error=True)},
    claims=[Claim(text="ours is better", measure="last", ours="ours", theirs="theirs")],
)  # fmt: skip


def cell(case, rate, seed, test, val=((0.5, 0.4), (0.3, 0.6))):
    """Return rows of two epochs and two exits; `test` and `val` are epoch by epoch, exit by exit."""
    rows = [
        (epoch, split, block, "accuracy", value)
        for split, table in (("test", test), ("val", val))
        for epoch, values in enumerate(table, 1)
        for block, value in enumerate(values, 1)
    ]
    table = pd.DataFrame(rows, columns=["epoch", "split", "block", "metric", "value"])
    return table.assign(case=case, rate=rate, seed=seed)


def whole(ours=(0.8, 0.9, 0.85), theirs=(0.5, 0.5, 0.6)):
    parts = [
        cell(case, rate, seed, ((0.1, 0.2), (0.3, value - rate / 2)))
        for case, values in (("ours", ours), ("theirs", theirs))
        for rate in (0.0, 0.4)
        for seed, value in enumerate(values)
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("last", 0.7), ("chosen", 0.7), ("early", 0.7), ("peak", 0.9), ("error", 30.0)],
)
def test_a_measure_reads_one_number_per_cell(name, expected):
    table = cell("ours", 0.4, 0, ((0.2, 0.9), (0.3, 0.7)))
    assert results.measured(EXPERIMENT, table, name)["value"].tolist() == pytest.approx([expected])


def test_choices_are_made_on_validation_and_never_on_test():
    table = cell("ours", 0.4, 0, ((0.2, 0.9), (0.3, 0.7)), val=((0.9, 0.1), (0.6, 0.5)))
    assert results.measured(EXPERIMENT, table, "chosen")["value"].tolist() == [0.3]
    assert results.measured(EXPERIMENT, table, "early")["value"].tolist() == [0.2]


def test_lost_to_noise_is_paired_with_the_same_case_and_seed():
    lost = results.measured(EXPERIMENT, whole(), "lost")
    assert lost["value"].tolist() == pytest.approx([0.2] * 6) and set(lost["rate"]) == {0.4}


def test_a_column_that_is_not_there_is_refused():
    experiment = replace(EXPERIMENT, measures={"last": Measure(where={"methd": "bp"})})
    with pytest.raises(ValueError, match="unknown column in the measure 'last': 'methd': did you mean 'method'"):
        results.measured(experiment, whole().assign(method="bp"), "last")


def test_two_numbers_of_one_cell_are_refused_and_not_counted_as_two_seeds():
    table = pd.concat([whole().assign(method="bp"), whole().assign(method="dgl")])
    with pytest.raises(ValueError, match="'last' finds 2 numbers in one cell, which differ in method: say which"):
        results.measured(EXPERIMENT, table, "last")


def test_what_no_cell_has_gives_no_number():
    for measure in (Measure(metric="acuracy"), Measure(exit=9), Measure(exit=9, epoch="best"), Measure(split="train")):
        experiment = replace(EXPERIMENT, measures={"last": measure})
        assert results.measured(experiment, whole(), "last").empty
    only_test = whole().query("split == 'test'")
    assert results.measured(EXPERIMENT, only_test, "early").empty


def test_mean_deviation_and_interval_by_hand():
    row = results.summary(EXPERIMENT, results.measures(EXPERIMENT, whole())).iloc[0]
    values = np.array([0.8, 0.9, 0.85])
    half = 4.302652729911275 * values.std(ddof=1) / np.sqrt(3)  # Student's t at 97.5 %, 2 degrees of freedom
    assert (row["measure"], row["case"], row["rate"], row["n"], row["of"]) == ("last", "ours", 0.0, 3, 3)
    assert [row["mean"], row["std"], row["low"], row["high"]] == pytest.approx([0.85, 0.05, 0.85 - half, 0.85 + half])


def test_paired_test_with_holms_correction_by_hand():
    table = whole()
    table.loc[(table["case"] == "ours") & (table["rate"] == 0.4) & (table["split"] == "test"), "value"] *= 1.01
    found = results.tests(EXPERIMENT, results.measures(EXPERIMENT, table))
    assert found["rate"].tolist() == [0.0, 0.4] and found["n"].tolist() == [3, 3]
    p = [stats.ttest_rel([0.8, 0.9, 0.85], [0.5, 0.5, 0.6]).pvalue]
    p += [stats.ttest_rel(np.array([0.6, 0.7, 0.65]) * 1.01, [0.3, 0.3, 0.4]).pvalue]
    assert found["p"].tolist() == pytest.approx(p)
    smaller, larger = sorted(p)
    assert sorted(found["p_holm"]) == pytest.approx([2 * smaller, max(2 * smaller, larger)])
    assert found["difference"].tolist() == pytest.approx([0.95 / 3, (1.95 * 1.01 - 1.0) / 3])


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ((0.80, 0.81, 0.82), (0.50, 0.52, 0.51), "holds"),
        ((0.50, 0.52, 0.51), (0.80, 0.81, 0.82), "does not hold"),
        ((0.50, 0.60, 0.70), (0.62, 0.51, 0.60), "not decided at this n"),
    ],
)
def test_verdicts(ours, theirs, verdict):
    found = results.tests(EXPERIMENT, results.measures(EXPERIMENT, whole(ours, theirs)))
    assert set(found["verdict"]) == {verdict}
    assert results.in_words(found) == f"{verdict} at 2 of 2 points (n=3 seeds)."


def test_where_lower_is_better_the_verdict_turns():
    claim = replace(EXPERIMENT.claims[0], better="lower")
    values = results.measures(EXPERIMENT, whole((0.80, 0.81, 0.82), (0.50, 0.52, 0.51)))
    found = results.tests(replace(EXPERIMENT, claims=[claim]), values)
    assert set(found["verdict"]) == {"does not hold"}


def test_one_seed_decides_nothing_and_has_no_interval():
    values = results.measures(EXPERIMENT, whole()[lambda t: t["seed"] == 0])
    found, row = results.tests(EXPERIMENT, values), results.summary(EXPERIMENT, values).iloc[0]
    assert set(found["verdict"]) == {"not decided at this n"} and found["p_holm"].isna().all()
    assert row["n"] == 1 and row["of"] == 3 and np.isnan(row["low"])


def test_missing_and_damaged_results_are_named_and_not_made_up(tmp_path):
    for name, about in EXPERIMENT.cells().items():
        folder = tmp_path / "cells" / name
        folder.mkdir(parents=True)
        table = cell(about["case"], 0, 0, ((0.1, 0.2), (0.3, 0.4))).drop(columns=["case", "rate", "seed"])
        table.to_parquet(folder / "result.parquet")
    gone, damaged = list(EXPERIMENT.cells())[1:3]
    (tmp_path / "cells" / gone / "result.parquet").unlink()
    path = tmp_path / "cells" / damaged / "result.parquet"
    path.write_bytes(path.read_bytes()[:100])
    table, missing = results.join(EXPERIMENT, tmp_path)
    assert missing == [gone, damaged]
    numbers = results.summary(EXPERIMENT, results.measures(EXPERIMENT, table))
    numbers = numbers.query("measure == 'last' and case == 'ours'")
    assert numbers["n"].tolist() == [1, 3] and numbers["of"].tolist() == [3, 3]


def test_published_figures_stand_beside_ours(tmp_path, monkeypatch):
    experiment = Experiment(
        name="e", title="t", notebook="n", table="t", seeds=[0, 1],
        cases={"dgl": {"method": "dgl", "paper": {"dataset": "cifar10", "backbone": "resnet32", "method": "dgl",
                                                  "setting": "K={num_blocks}"}}},
        grid=[{"num_blocks": [2, 4]}], measures={"error": Measure(error=True)},
        published=[Figure(source="ICLR 2021 Table 2", metric="test_error_percent", measure="error", differs="all",
                          where={"backbone": "resnet32", "method": ["dgl", "bp"]})],
    )  # fmt: skip
    parts = [cell("dgl", 0, s, ((0, 0), (0, 0.9 + s / 50))).drop(columns="rate").assign(num_blocks=2) for s in (0, 1)]
    numbers = results.summary(experiment, results.measures(experiment, pd.concat(parts)))
    beside = results.published(experiment, numbers).set_index("setting")
    assert beside.at["K=2", "paper says"] == "8.69 ± 0.12"
    assert beside.at["K=2", "we measured"] == "9 ± 1.4, median 9 (n=2 of 2)"
    assert beside.at["K=4", "we measured"] == "not run yet" and beside.at["K=1", "we measured"] == "not in the grid"
    assert set(beside["differs in"]) == {"all"}


def test_the_committed_verdicts_follow_from_the_committed_measures():
    folder = ROOT / "workflow/measured/label_noise"
    found = results.tests(read("label_noise"), pd.read_csv(folder / "measures.csv"))
    there = pd.read_csv(folder / "claims.csv")
    assert found["n"].eq(5).all() and found["verdict"].tolist() == there["verdict"].tolist()
    assert found["difference"].tolist() == pytest.approx(there["difference"].tolist(), abs=1e-4)
