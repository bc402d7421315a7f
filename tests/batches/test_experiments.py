"""Experiment files: what they mean, what is refused, and a dry run of every one."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from workflow import batch
from workflow.experiment import FOLDER, read
from workflow.schema import ROOT

NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SMALL = {
    "title": "small",
    "notebook": "notebooks/one_run.ipynb",
    "table": "result.parquet",
    "seeds": [0, 1],
    "fixed": {"dataset": "digits", "noise": "symmetric"},
    "cases": {"whole": {"method": "bp"}, "local": {"method": "greedy"}},
    "grid": [{"noise_rate": [0.0, 0.4]}, {"cases": ["whole"], "noise_rate": [0.8], "noise": ["asymmetric"]}],
    "measures": {"last": {"exit": "last"}},
}


@pytest.fixture
def write(tmp_path):
    def written(**changes):
        path = tmp_path / "a/b/small.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        given = {key: value for key, value in (SMALL | changes).items() if value is not None}
        path.write_text(yaml.safe_dump(given, sort_keys=False))
        return path

    return written


def test_cells_are_cases_times_grid_times_seeds(write):
    cells = read(write(seed_parameters=["seed", "data_seed"])).cells()
    assert len(cells) == 2 * 2 * 2 + 2
    assert cells["whole__noise_rate-0.8__noise-asymmetric__seed-1"] == {
        "case": "whole",
        "seed": 1,
        "point": {"noise_rate": 0.8, "noise": "asymmetric"},
        "parameters": {
            "dataset": "digits", "method": "bp", "noise_rate": 0.8, "noise": "asymmetric", "seed": 1, "data_seed": 1,
        },
    }  # fmt: skip


CLAIM = {"text": "x", "measure": "last", "ours": "local", "theirs": "whole"}
FIGURE = {"source": "ICLR 2021 Table 2", "metric": "test_error_percent", "measure": "last"}
PAPER = {"method": "bp", "backbone": "resnet32", "dataset": "cifar10", "setting": "K={num_blocks}"}


def answering(**changes):
    return {"whole": {"method": "bp", "num_blocks": 1, "paper": {**PAPER, **changes}}, "local": {"method": "greedy"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # keys
        ({"seed": [0]}, "seed: unknown key 'seed': did you mean 'seeds'?"),
        ({"name": "x"}, "unknown key 'name'"),
        ({"home": "/"}, "unknown key 'home'"),
        ({"seeds": None}, "the key 'seeds' is missing"),
        ({"measures": None}, "the key 'measures' is missing"),
        ({"claims": [{"text": "x", "measure": "last", "ours": "local"}]}, r"claims\[0\]: the key 'theirs' is missing"),
        ({"claims": [{**CLAIM, "beter": "lower"}]}, r"claims\[0\].beter: unknown key 'beter': did you mean 'better'"),
        ({"measures": {"last": {"exits": 1}}}, "measures.last.exits: unknown key 'exits': did you mean 'exit'"),
        ({"published": [{**FIGURE, "differ": "x"}]}, "unknown key 'differ': did you mean 'differs'"),
        # types
        ({"title": 3}, "title=3, but it has to be a text"),
        ({"title": ""}, "title='', but it has to be a text"),
        ({"minutes": "long"}, "minutes='long', but it has to be a positive number"),
        ({"minutes": float("nan")}, "minutes=nan, but it has to be a positive number"),
        ({"minutes": True}, "minutes=True, but it has to be a positive number"),
        ({"threads": 0}, "threads=0, but it has to be a whole number of at least 1"),
        ({"threads": 1.5}, "threads=1.5, but it has to be a whole number of at least 1"),
        ({"gpu": -1}, "gpu=-1, but it has to be a whole number of at least 0"),
        ({"memory_mb": 10**30}, "memory_mb=1000"),
        ({"seeds": 3}, "seeds=3, but it has to be a list, each item a whole number of at least 0"),
        ({"seeds": [0, "1"]}, r"seeds\[1\]='1', but it has to be a whole number of at least 0"),
        ({"seeds": [None]}, r"seeds\[0\]=None, but it has to be a whole number"),
        ({"fixed": ["dataset"]}, r"fixed=\['dataset'\], but it has to be a mapping"),
        ({"cases": {"whole": "bp"}, "grid": [{}]}, "whole='bp', but it has to be a mapping"),
        ({"cases": {True: {"method": "bp"}}, "grid": [{}]}, "cases: the key True is no text: put it into quotes"),
        ({"measures": {"last": None}}, "last=None, but it has to be a mapping"),
        ({"measures": ["last"]}, r"measures=\['last'\], but it has to be a mapping"),
        ({"table": "../result.parquet"}, "table='../result.parquet', but it has to be the name of a file"),
        ({"table": "result.csv"}, "has to be the name of a file, NAME.parquet"),
        ({"table": "results.parquet"}, "did you mean 'result.parquet'"),
        # nothing to run, and the same thing twice
        ({"seeds": []}, "seeds has no entry, so the grid is empty"),
        ({"grid": []}, "grid has no entry, so the grid is empty"),
        ({"cases": {}}, "cases has no entry, so the grid is empty"),
        ({"measures": {}}, "measures has no entry, so nothing is read"),
        ({"grid": [{"noise_rate": []}]}, "noise_rate has no value, so the grid is empty"),
        ({"grid": [{"noise_rate": 0.2}]}, r"noise_rate=0.2, but it has to be a list of values, such as \[0.2\]"),
        ({"grid": [{"cases": []}]}, "cases has no value, so the grid is empty"),
        ({"grid": [{"cases": ["hole"]}]}, r"grid\[0\].cases: unknown case 'hole': did you mean 'whole'?"),
        ({"seeds": [0, 0]}, "two cells would write the same files, whole__noise_rate-0.0__seed-0"),
        ({"grid": [{"noise_rate": [0.4]}, {"noise_rate": [0.4]}]}, "two cells would write the same files"),
        ({"cases": {"w" * 300: {"method": "bp"}}, "grid": [{}]}, "too long for a folder"),
        ({"grid": {"method": ["bp", "greedy"]}}, r"cases.whole.method: 'method' is in grid\[0\].* which of the two"),
        ({"fixed": {"seed": 1}}, "fixed.seed: 'seed' takes the cell's seed, as seed_parameters says"),
        ({"grid": {"seed": [1]}}, "'seed' takes the cell's seed"),
        # the notebook and its parameters
        ({"notebook": "notebooks/no_run.ipynb"}, "did you mean 'one_run.ipynb'"),
        ({"fixed": {"datasett": "digits"}}, "fixed.datasett: unknown parameter 'datasett': did you mean 'dataset'?"),
        ({"cases": {"whole": {"metod": "bp"}}}, "cases.whole.metod: unknown parameter 'metod': did you mean 'method'"),
        ({"grid": {"noise_rat": [0.1]}}, r"grid\[0\].noise_rat: unknown parameter 'noise_rat': did you mean 'noise_r"),
        ({"seed_parameters": ["sed"]}, r"seed_parameters\[0\]: unknown parameter 'sed': did you mean 'seed'"),
        ({"fixed": {"epochs": "ten"}}, "fixed.epochs: epochs='ten', but it must be int"),
        ({"fixed": {"output": "x"}}, "'output' is the batch's: every cell gets a folder of its own"),
        # what no run can be made of
        ({"cases": {"whole": {"method": "gredy"}}}, "cases.whole: cell whole__.*: unknown method 'gredy': did"),
        ({"fixed": {"dataset": "digitz"}}, "unknown dataset 'digitz': did you mean 'digits'"),
        ({"fixed": {"backbone": "resnet33"}}, "unknown backbone 'resnet33': did you mean"),
        ({"fixed": {"epochs": 0}}, "epochs=0, but it has to be a whole number of at least 1"),
        ({"fixed": {"lr": -1}}, "lr=-1"),
        ({"fixed": {"optimizer": "sdg"}}, "unknown optimizer 'sdg': did you mean 'sgd'"),
        ({"fixed": {"context": "R9Q"}}, "context"),
        ({"fixed": {"options": ["pool"]}}, "'pool' has to be of the form name=value"),
        ({"fixed": {"options": ["task=contrast"]}}, "'task=contrast' has to be of the form name=value"),
        ({"fixed": {"options": ["pol=4"]}}, "unknown option of method 'bp'"),
        ({"fixed": {"cuts": ["lyaers"]}}, "unknown cuts 'lyaers': did you mean 'layers'"),
        ({"fixed": {"cuts": ["layer1", "layer2"]}}, "num_blocks=4 has 3 places to cut at"),
        ({"fixed": {"cuts": []}}, "num_blocks=4 has 3 places to cut at"),
        ({"fixed": {"device": "cudda"}}, "device='cudda'"),
        # measures
        ({"measures": {"last": {"exit": "lsat"}}}, "measures.last.exit: unknown exit 'lsat': did you mean 'last'"),
        ({"measures": {"last": {"exit": -1}}}, "exit=-1, but it has to be a whole number of at least 0"),
        ({"measures": {"last": {"exit": True}}}, "exit=True, but it has to be"),
        ({"measures": {"last": {"exit": "all"}}}, "exit='all' with epoch='last' is as many numbers as exits"),
        ({"measures": {"last": {"epoch": "frist"}}}, "measures.last.epoch: unknown epoch 'frist'"),
        ({"measures": {"last": {"epoch": 3}}}, "epoch=3, but it has to be 'last' or 'chosen' or 'best'"),
        ({"measures": {"last": {"split": "tset"}}}, "unknown split 'tset': did you mean 'test'"),
        ({"measures": {"last": {"metric": "acuracy"}}}, "unknown metric 'acuracy': did you mean 'accuracy'"),
        ({"measures": {"last": {"error": "yes"}}}, "error='yes', but it has to be True or False"),
        ({"measures": {"last": {"scale": "2"}}}, "scale='2', but it has to be a number"),
        ({"measures": {"last": {"scale": float("inf")}}}, "scale=inf, but it has to be a number"),
        ({"measures": {"last": {"where": {"noise_rate": 0.3}}}}, "where.noise_rate: unknown value of noise_rate: 0.3"),
        ({"measures": {"last": {"where": {"blok": 1}}}}, "unknown column 'blok': did you mean 'block'"),
        ({"measures": {"last": {"where": {"case": "hole"}}}}, "unknown value of case: 'hole': did you mean 'whole'"),
        ({"measures": {"last": {"less": {"noise_rat": 0.0}}}}, "unknown parameter of the grid: 'noise_rat': did you"),
        ({"measures": {"last": {"less": {"noise_rate": 0.1}}}}, "unknown value of noise_rate: 0.1"),
        ({"measures": {"last": {"less": {"noise_rate": 0.4, "noise": "asymmetric"}}}}, "no cell has these values"),
        ({"grid": {"noise_rate": [0.2], "width": [0.5, 1.0]}, "measures": {"x": {"less": {"noise_rate": 0.2}}}},
         "several points of the grid have these values"),
        # claims
        ({"claims": [{**CLAIM, "better": "lowr"}]}, r"claims\[0\].better: unknown better 'lowr': did you mean 'lower'"),
        ({"claims": [{**CLAIM, "measure": "first"}]}, r"claims\[0\].measure: unknown measure 'first'"),
        ({"claims": [{**CLAIM, "ours": "locl"}]}, r"claims\[0\].ours: unknown case 'locl': did you mean 'local'"),
        ({"claims": [{**CLAIM, "theirs": "local"}]}, "have no two cells to compare"),
        ({"claims": [{**CLAIM, "where": {"noise_rate": 0.8}}]}, "ours='local' and theirs='whole' have no two cells"),
        ({"claims": [{**CLAIM, "where": {"nois": "x"}}]}, "where.nois: unknown parameter of the grid: 'nois': did you"),
        ({"claims": [{**CLAIM, "where": {"noise_rate": [0.0, 0.9]}}]}, "unknown value of noise_rate: 0.9"),
        ({"claims": [CLAIM, CLAIM]}, r"claims\[1\].text: 'x' is the text of claims\[0\] too"),
        ({"claims": CLAIM}, "claims={.*, but it has to be a list"),
        # published figures
        ({"published": [{**FIGURE, "source": "ICLR 2021 Table 9"}]}, "unknown source .*: did you mean 'ICLR 2021 Ta"),
        ({"published": [{**FIGURE, "metric": "test_eror"}]}, r"published\[0\].metric: unknown metric .*did you mean"),
        ({"published": [{**FIGURE, "metric": "memory_gb"}]}, "unknown metric .* 'memory_gb'"),
        ({"published": [{**FIGURE, "measure": "lst"}]}, "unknown measure 'lst': did you mean 'last'"),
        ({"published": [{**FIGURE, "where": {"backbon": "x"}}]}, "unknown column 'backbon': did you mean 'backbone'"),
        ({"published": [{**FIGURE, "where": {"backbone": "resnt"}}]}, "unknown value of backbone: 'resnt': did you"),
        ({"cases": answering(backbone="resnet3")}, "cases.whole.paper.backbone: unknown backbone of paper_results.csv"),
        ({"cases": answering(setting="K={num_block}")}, "unknown parameter in 'K={num_block}': 'num_block': did you"),
        ({"cases": answering(setting="K={num_blocks.real}")}, "unknown parameter in .* 'num_blocks.real'"),
        ({"cases": answering(settin="x")}, "unknown key 'settin': did you mean 'setting'"),
        ({"cases": {"whole": {"method": "bp", "paper": {"method": "bp"}}}}, "paper: the key 'dataset' is missing"),
        ({"cases": {"whole": {"method": "bp", "paper": "x"}}}, "paper='x', but it has to be a mapping with the keys d"),
    ],
)  # fmt: skip
def test_refusals(write, changes, message):
    if "local" not in changes.get("cases", {"local": {}}):
        changes = {"grid": {"noise_rate": [0.2]}, **changes}
    with pytest.raises(ValueError, match=message) as caught:
        read(write(**changes))
    assert re.search(r"small\.yaml(:\d+)?: ", str(caught.value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: [0]\n", r"small.yaml:4: seeds: the key 'seeds' stands in line \d+ again: which of the two counts?"),
        ("fixed: {lr: 0.1, lr: 0.2}\n", "the key 'fixed' stands in line"),
        ("claims:\n- {text: a, text: b}\n", "text: the key 'text' stands in line .* again: which of the two counts?"),
        ("about: [\n", "small.yaml is not YAML: "),
        ("about: !!python/object/apply:os.system ['false']\n", "small.yaml is not YAML: "),
        ("about: 2024-13-45\n", "small.yaml: month must be in"),
        ("about: &a [*a]\n", "small.yaml is not YAML"),
        ("---\nabout: x\n", "small.yaml is not YAML: "),
    ],
)
def test_refusals_of_what_yaml_lets_pass(write, text, message):
    path = write()
    path.write_text(path.read_text() + text)
    with pytest.raises(ValueError, match=message):
        read(path)


def test_a_fault_is_placed_by_line(write):
    path = write()
    path.write_text(
        path.read_text() + "claims:\n- text: x\n  measure: last\n  ours: local\n  theirs: whole\n  better: lowr\n"
    )
    line = len(path.read_text().splitlines())
    with pytest.raises(ValueError, match=f"small.yaml:{line}: claims.0..better: unknown better 'lowr'"):
        read(path)


def test_a_number_in_scientific_notation_is_a_number(write):
    """To YAML 1.1, which PyYAML reads, 1e-3 is a text."""
    path = write()
    path.write_text(path.read_text().replace("dataset: digits", "dataset: digits\n  lr: 1e-3"))
    assert read(path).fixed["lr"] == 0.001
    path.write_text(path.read_text().replace("1e-3", "'1e-3'"))
    with pytest.raises(ValueError, match="lr='1e-3', but it must be float, such as 0.001"):
        read(path)


NONE_OF_ITS_TYPE = {
    "epochs": [True, "3", 2.5, None, [1], 10**30, float("nan"), {}],
    "lr": ["0.1", True, None, [0.1], float("nan"), float("inf"), float("-inf"), 10**400],
    "noisy_val": ["False", 0, 1, None, [False]],
    "nesterov": ["no", 0],
    "seed": [None, True, "0", [1], 0.0, 10**30],
    "data_seed": [[1], None],
    "cuts": [3, "auto", [3], None],
    "num_blocks": ["4", None, 2.0],
    "limit": ["100", 0.5, [1]],
    "weight_decay": ["0", True],
    "dataset": [3, None, ["digits"]],
    "options": [{"pool": 4}, "pool=4", [4]],
}


@pytest.mark.parametrize("place", ["fixed", "cases", "grid"])
@pytest.mark.parametrize("name", NONE_OF_ITS_TYPE)
def test_the_types_of_parameters_are_those_of_the_notebook(write, name, place):
    for value in NONE_OF_ITS_TYPE[name]:
        changes = {"cases": {"whole": {"method": "bp"}}, "grid": [{}], "seed_parameters": ["data_seed"]}
        changes["seed_parameters"] = ["seed" if name == "data_seed" else "data_seed"]
        given = {"fixed": {name: value}, "cases": {"whole": {name: value}}, "grid": [{name: [value]}]}[place]
        with pytest.raises(ValueError, match=f"{place}.*{name}: {name}=.*, but it must be "):
            read(write(**changes | {place: given}))


def test_devices_are_looked_for_only_where_the_cells_run(write):
    path = write(fixed={"dataset": "digits", "noise": "symmetric", "device": "cuda:7"})
    assert read(path).fixed["device"] == "cuda:7"
    with pytest.raises(ValueError, match="device='cuda:7', but PyTorch sees"):
        read(path, here=True)


def test_nothing_is_run_or_written_for_a_wrong_file(write, tmp_path, capsys):
    path = write(cases={"whole": {"method": "gredy"}}, grid=[{}])
    assert batch.main(["run", str(path), "--batch", str(tmp_path / "batch")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}:") and "unknown method 'gredy': did you mean 'greedy'?" in error
    assert not (tmp_path / "batch").exists()


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'label_noise'"):
        read("label_nose")
    (tmp_path / "x.yaml").write_text("title: [")
    with pytest.raises(ValueError, match="x.yaml is not YAML"):
        read(tmp_path / "x.yaml")


def test_every_experiment_of_the_issue_is_there():
    paper = {"deinforeg_cifar10", "deinforeg_cifar100", "deinforeg_tiny_imagenet", "infopro_table2", "infopro_table3"}
    assert paper | {"contsup_table1", "fdg_table", "label_noise", "per_block_accuracy", "gradient_flow"} <= set(NAMES)


@pytest.mark.slow
def test_snakemake_would_run_every_cell_of_every_experiment(tmp_path):
    """One process for all: starting Snakemake takes longer than its dry runs."""
    code = (
        "import os, sys\n"
        "from snakemake.cli import main\n"
        f"for name in {NAMES!r}:\n"
        f"    os.makedirs(f'{tmp_path}/{{name}}')\n"
        "    arguments = ['--dry-run', '--quiet', 'reason', '--cores', '2', '--workflow-profile', 'none']\n"
        f"    arguments += ['--snakefile', '{ROOT}/workflow/Snakefile', '--directory', f'{tmp_path}/{{name}}']\n"
        f"    arguments += ['--config', f'experiment={FOLDER}/{{name}}.yaml']\n"
        "    print('EXPERIMENT', name, file=sys.stderr)\n"
        "    try: main(arguments)\n"
        "    except SystemExit as end: assert not end.code, (name, end.code)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    parts = (done.stdout + done.stderr).split("EXPERIMENT ")
    totals = [int(line.split()[1]) for line in (done.stdout + done.stderr).splitlines() if line.startswith("total ")]
    assert len(parts) == len(NAMES) + 1
    assert {len(read(name).cells()) + 1 for name in NAMES} <= set(totals)


def test_the_slurm_profile_asks_for_the_plugin():
    profile = yaml.safe_load((ROOT / "workflow/profiles/slurm/config.yaml").read_text())
    assert profile["executor"] == "slurm"
    pytest.importorskip("snakemake_executor_plugin_slurm")


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_is_sound(name):
    experiment = read(name)
    assert experiment == read(name, checked=True) and experiment.cells()


def test_published_figures_are_those_of_the_list():
    """Every source and metric that an experiment names has rows, and cells answer some of them."""
    import pandas as pd

    from workflow import results

    for name in NAMES:
        experiment = read(name)
        if experiment.published:
            beside = results.published(experiment, pd.DataFrame())
            counts = beside["we measured"].value_counts()
            assert counts["not run yet"] > 0 and set(counts.index) <= {"not run yet", "not in the grid"}, name
