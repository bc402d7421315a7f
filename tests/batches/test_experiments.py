"""Experiment files: what they mean, what is refused, and a dry run of every one."""

import os
import subprocess
import sys

import pytest
import yaml

from workflow.experiment import FOLDER, ROOT, read

NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SMALL = {
    "title": "small",
    "notebook": "notebooks/one_run.ipynb",
    "table": "result.parquet",
    "seeds": [0, 1],
    "fixed": {"dataset": "digits"},
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fixed": {"dataset": "digit"}}, "unknown dataset 'digit': did you mean 'digits'?"),
        ({"cases": {"local": {"method": "gredy"}}, "grid": [{}]}, "unknown method 'gredy': did you mean 'greedy'?"),
        ({"grid": [{"optimizer": ["sdg"]}]}, "unknown optimizer 'sdg': did you mean 'sgd'?"),
        ({"seed": [0]}, "unknown key 'seed': did you mean 'seeds'?"),
        ({"seeds": None}, "the key 'seeds' is missing"),
        ({"seeds": []}, "seeds has no entry, so the grid is empty"),
        ({"grid": []}, "grid has no entry, so the grid is empty"),
        ({"grid": [{"noise_rate": []}]}, "grid: noise_rate has no value, so the grid is empty"),
        ({"grid": [{"noise_rate": 0.2}]}, r"noise_rate=0.2, but it has to be a list of values, such as \[0.2\]"),
        ({"grid": [{"cases": ["hole"]}]}, "unknown case 'hole': did you mean 'whole'?"),
        ({"seeds": [0, 0]}, "two cells would write the same files, whole__noise_rate-0.0__seed-0"),
        ({"grid": [{"noise_rate": [0.4]}, {"noise_rate": [0.4]}]}, "two cells would write the same files"),
        ({"fixed": {"datasett": "digits"}}, "cell whole__.*: unknown parameter 'datasett': did you mean 'dataset'?"),
        ({"fixed": {"epochs": "ten"}}, "epochs='ten', but it must be int"),
        ({"fixed": {"output": "x"}}, "'output' is the batch's: every cell gets a folder of its own"),
        ({"notebook": "notebooks/no_run.ipynb"}, "did you mean 'one_run.ipynb'"),
        ({"minutes": "long"}, "minutes='long', but it has to be of type float"),
        ({"claims": [{"text": "x", "measure": "last", "ours": "local"}]}, "lacks the key 'theirs'"),
        (
            {"claims": [{"text": "x", "measure": "first", "ours": "local", "theirs": "whole"}]},
            "unknown measure 'first'",
        ),
        ({"cases": {"whole": "bp"}, "grid": [{}]}, "'bp' is not a mapping of parameters to values"),
    ],
)
def test_refusals(write, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(write(**changes))
    assert "small.yaml: " in str(caught.value)


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
