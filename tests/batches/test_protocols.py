"""Experiment files state their protocols in full, and every published figure knows its cell, or why it has none."""

import re

import pandas as pd
import pytest

from kit.methods import REGISTRY
from kit.train.config import RunConfig
from lessons.one_run import run_config
from workflow import conformance, published
from workflow.experiment import ROOT, read
from workflow.schema import published_figures

PAPERS = ("infopro_table2", "infopro_table3", "contsup_table1", "fdg_table")
PAPERS += ("deinforeg_cifar10", "deinforeg_cifar100", "deinforeg_tiny_imagenet")
PAPERS += ("deinforeg_imdb", "deinforeg_agnews", "deinforeg_dbpedia")
OPEN = {  # what a protocol need not say: where things are, what it does not use, and what only costs time
    *("root", "device", "output", "checkpoint_steps", "data_seed", "noisy_val", "views", "limit", "image_size", "grow"),
    *(
        "width",
        "max_tokens",
        "vocabulary",
        "vectors",
        "classes_per_batch",
        "stagewise",
        "noise",
        "noise_rate",
        "seed",
        "options",
        "context",
        "backbone_options",
    ),
}


@pytest.mark.parametrize("name", PAPERS)
def test_nothing_hangs_on_a_default(name):
    """Every setting is named in the file, and of the method every option."""
    experiment = read(name, checked=True)
    for title, cell in experiment.cells().items():
        given = cell["parameters"]
        assert RunConfig.__dataclass_fields__.keys() - given.keys() <= OPEN, title
        method = REGISTRY[given["method"]]
        named = {item.partition("=")[0] for item in given.get("options", [])}
        assert method.options.keys() - named == set(), title


@pytest.mark.parametrize("name", PAPERS)
def test_every_file_says_what_is_otherwise(name):
    assert "Otherwise than there:" in read(name, checked=True).about


@pytest.mark.parametrize(
    ("when", "weights"),
    [
        ({"dataset": "cifar10", "backbone": "resnet32", "num_blocks": 4}, (6, 0, 1, 2)),
        ({"dataset": "cifar10", "backbone": "resnet110", "num_blocks": 16}, (5, 0, 0.5, 1)),
        ({"dataset": "svhn", "num_blocks": 8}, (5, 0, 0.5, 2)),
    ],
)
def test_infopros_weights_are_those_of_the_network_and_the_data(when, weights):
    cells = read("infopro_table2", checked=True).cells().values()
    found = [
        c["parameters"] for c in cells if c["case"] == "InfoPro, contrast" and when.items() <= c["parameters"].items()
    ]
    assert {tuple(settings(p).options["weights"]) for p in found} == {weights}


def settings(parameters):
    """Return the run's settings, as the notebook makes them of a cell's parameters."""
    from kit.parameters import read_parameters

    declared = read_parameters(ROOT / "notebooks/one_run.ipynb")
    return run_config(**{name: p.default for name, p in declared.items()} | parameters)


def test_svhn_has_its_own_augmentation_and_stl_its_own_cuts():
    cells = read("infopro_table2", checked=True).cells().values()
    recipes = {(c["parameters"]["dataset"], c["parameters"]["augment"]) for c in cells}
    assert recipes == {("cifar10", "reflect"), ("svhn", "shift"), ("stl10", "crop-flip")}
    cells = read("infopro_table3", checked=True).cells().values()
    cuts = {tuple(c["parameters"]["cuts"]) for c in cells if c["parameters"].get("num_blocks") == 3}
    assert cuts == {("infopro-balanced",), ("layer1.8", "layer2.1")}


def test_two_tables_do_not_say_one_thing_twice(tmp_path):
    text = (ROOT / "workflow/experiments/infopro_table3.yaml").read_text()
    last = "\n      - {when: {dataset: stl10, num_blocks: 4}"
    twice = "\n      - {when: {dataset: stl10, num_blocks: 3}, cuts: [memory]}" + last
    (tmp_path / "infopro_table3.yaml").write_text(text.replace(last, twice))
    with pytest.raises(ValueError, match="two entries say cuts of"):
        read(tmp_path / "infopro_table3.yaml")


# Published figures


def test_every_figure_names_its_cell_or_says_why_none():
    answers, cells = published.answers(), {}
    for figure in published_figures().itertuples():
        place = figure.source, figure.dataset, figure.backbone, figure.method, figure.setting
        assert bool(figure.cell) != bool(figure.why_not) and bool(figure.cell) == bool(figure.experiment), place
        if figure.cell:
            assert answers[place] == (figure.experiment, figure.cell)
            names = cells.setdefault(figure.experiment, read(figure.experiment, checked=True).cells())
            assert f"{figure.cell}__seed-0" in names


def test_fdgs_table_is_whole():
    """All networks, numbers of modules and β of the public table, all methods, on both datasets."""
    figures = published_figures().query("source == 'public results table'")
    assert len(figures) == 57
    assert set(figures.query("dataset == 'cifar100'")["backbone"]) == {"resnet56", "resnet110", "resnet18", "wrn28"}
    k4 = figures.query("setting.str.startswith('K=4')").set_index("method")["value"]
    assert dict(k4.drop("fdg")) == {"bp": 6.19, "ddg": 6.61, "dgl": 9.65, "fr": 6.48}
    assert sorted(k4["fdg"]) == [6.14, 6.83]


def test_paper_prints_both_sides(tmp_path, capsys):
    experiment = read("fdg_table", checked=True)
    published.print_paper(experiment, tmp_path)
    said = capsys.readouterr().out
    assert "not run yet" in said and "not in the grid" not in said and "differs in: a tenth of the training" in said
    name = "FDG-β-0.5__dataset-cifar10__backbone-resnet56__num_blocks-4"
    for seed, accuracy in enumerate((0.93, 0.94, 0.98)):
        folder = tmp_path / "cells" / f"{name}__seed-{seed}"
        folder.mkdir(parents=True)
        row = {"epoch": 300, "split": "test", "block": 4, "metric": "accuracy", "value": accuracy}
        pd.DataFrame([row]).to_parquet(folder / "result.parquet")
    published.print_paper(experiment, tmp_path)
    line = next(line for line in capsys.readouterr().out.splitlines() if "resnet56" in line and "K=4 beta=0.5" in line)
    assert "6.14" in line and "median 6 (n=3 of 3)" in line


# The conformance page


def test_the_conformance_page_is_up_to_date():
    assert conformance.PAGE.read_text() == conformance.page(), "python -m workflow.conformance writes it anew"


def test_the_tests_that_it_names_are_there():
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    for paper in conformance.PAPERS.values():
        for point in paper["points"]:
            test = point["test"]
            file, _, function = test.partition("::")
            assert file in files, test
            assert not function or re.search(rf"^def {function}\(", files[file], re.MULTILINE), test
