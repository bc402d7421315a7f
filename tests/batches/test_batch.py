"""A batch: cells run once, what fails is kept, what is damaged runs again; and it survives being killed."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from filelock import FileLock

from kit.notebook import NotebookFailed
from tests import kills
from workflow import batch, progress, results
from workflow.experiment import read
from workflow.schema import ROOT

TOY = {
    "title": "toy",
    "notebook": "toy.ipynb",
    "table": "table.parquet",
    "seeds": [0, 1],
    "grid": {"rate": [0.0, 0.5]},
    "measures": {"last": {}},
}
PARAMETERS = """rate: float = 0.0  # a rate
seed: int = 0  # a seed
name: str = "x"  # a text
poison: int = -1  # the seed that fails
output: str = "x"  # folder"""
CODE = """import pandas as pd
if seed == poison:
    raise RuntimeError("this seed is poisoned")
row = {"epoch": 1, "split": "test", "block": 1, "metric": "accuracy", "value": rate + seed}
pd.DataFrame([row]).to_parquet(f"{output}/table.parquet")"""


@pytest.fixture
def toy(tmp_path):
    """Return a function that writes an experiment of four cells, whose notebook only writes a number."""

    def written(**changes):
        cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
        nbformat.write(
            nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell(CODE)]), tmp_path / "toy.ipynb"
        )
        (tmp_path / "toy.yaml").write_text(yaml.safe_dump(TOY | changes, sort_keys=False))
        return tmp_path / "toy.yaml"

    return written


@pytest.fixture
def runs(monkeypatch):
    """Replace the notebook runner by one that writes the table, or fails; return the list of what it ran."""
    done = []

    def run_notebook(source, out, parameters, **_):
        done.append((parameters["rate"], parameters["seed"]))
        if parameters["seed"] == parameters.get("poison"):
            Path(out).with_suffix(".failed.ipynb").write_text("so far")
            raise NotebookFailed("In [2] raised RuntimeError: this seed is poisoned")
        rows = {"epoch": [1], "split": ["test"], "block": [1], "metric": ["accuracy"]}
        pd.DataFrame(rows | {"value": [parameters["rate"] + parameters["seed"]]}).to_parquet(
            Path(parameters["output"], "table.parquet")
        )
        Path(out).write_text("executed")

    monkeypatch.setattr("kit.notebook.run_notebook", run_notebook)
    return done


def test_a_cell_runs_once_and_is_published_again_if_its_outputs_are_gone(toy, runs, tmp_path):
    experiment, folder = read(toy()), tmp_path / "batch"
    name = list(experiment.cells())[0]
    with pytest.raises(ValueError, match="unknown cell of toy 'run__rate-0.0__seed-': did you mean"):
        batch.run_cell(experiment, name[:-1], folder, 0)
    batch.run_cell(experiment, name, folder, 0)
    shutil.rmtree(folder / "cells")
    batch.run_cell(experiment, name, folder, 0)
    assert len(runs) == 1 and (folder / "cells" / name / "notebook.ipynb").read_text() == "executed"
    events = [json.loads(line)["event"] for line in (folder / "diary.jsonl").read_text().splitlines()]
    assert events == ["start", "done"]


def test_a_failing_cell_publishes_nothing_and_a_later_success_does(toy, runs, tmp_path):
    folder = tmp_path / "batch"
    experiment = read(toy(fixed={"poison": 1}))
    for name in experiment.cells():
        if name.endswith("seed-1"):
            with pytest.raises(NotebookFailed):
                batch.run_cell(experiment, name, folder, 0)
        else:
            batch.run_cell(experiment, name, folder, 0)
    found = progress.status(experiment, folder)
    assert [len(found[kind]) for kind in ("done", "running", "failed", "left")] == [2, 0, 2, 0]
    table, missing = results.join(experiment, folder)
    numbers = results.summary(experiment, results.measures(experiment, table))
    assert missing == found["failed"] and set(numbers["n"]) == {1}


def test_status_counts_and_expects(toy, runs, tmp_path, capsys):
    experiment, folder = read(toy(minutes=2)), tmp_path / "batch"
    progress.print_status(experiment, folder)
    assert "0 done, 0 running, 0 failed, 4 left\nexpected: 8 more minutes, 1 at a time (120 s a cell" in (
        capsys.readouterr().out
    )
    first, second, *_ = experiment.cells()
    batch.run_cell(experiment, first, folder, 0)
    (folder / "work" / first / "done.json").write_text('{"seconds": 60}')
    (folder / "work" / second).mkdir()
    with FileLock(folder / "work" / second / ".cell-lock"):
        progress.print_status(experiment, folder)
    printed = capsys.readouterr().out
    assert "1 done, 1 running, 0 failed, 2 left\nexpected: 2 more minutes, 1 at a time" in printed
    assert "(60 s a cell, measured on 1)" in printed


def test_damaged_results_are_set_aside_and_their_cells_run_again(toy, runs, tmp_path, capsys):
    experiment, folder = read(toy()), tmp_path / "batch"
    names = list(experiment.cells())
    for name in names:
        batch.run_cell(experiment, name, folder, 0)
    path = folder / "cells" / names[2] / "result.parquet"
    path.write_bytes(path.read_bytes()[:50])
    (folder / "work" / names[2] / "table.parquet").write_bytes(b"PAR1")
    batch.set_damaged_aside(experiment, folder)
    assert f"cell {names[2]} runs again" in capsys.readouterr().out
    assert progress.status(experiment, folder)["left"] == [names[2]]
    batch.run_cell(experiment, names[2], folder, 0)
    assert len(runs) == 5 and results.join(experiment, folder)[1] == []


def _share(barrier):
    _hold_gpu.both = barrier


def _hold_gpu(_):
    with batch._gpu(2):
        _hold_gpu.both.wait(60)  # until each has one
        return os.environ["CUDA_VISIBLE_DEVICES"]


def test_two_cells_at_a_time_see_different_gpus(monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    processes = multiprocessing.get_context("forkserver")  # forks of this one, with its threads, may stand still
    with processes.Pool(2, _share, (processes.Barrier(2),)) as pool:
        assert sorted(pool.map(_hold_gpu, range(2), chunksize=1)) == ["0", "1"]
    with batch._gpu(0):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_the_frozen_copy_stays_and_a_changed_experiment_is_told(toy, tmp_path, capsys):
    path, folder = toy(), tmp_path / "batch"
    folder.mkdir()
    frozen = batch.freeze(path, folder)
    before = frozen.read_text()
    assert read(frozen).source == frozen.parent / "toy.ipynb"
    assert not list((folder / "code").rglob("__pycache__")) and all(
        (folder / "code" / name).exists() for name in ("kit/train/run.py", "lessons/style.py")
    )
    toy(seeds=[0, 1, 2])
    (folder / "work").mkdir()
    assert batch.freeze(path, folder) == frozen and frozen.read_text() == before
    assert "toy.yaml has changed since this batch began" in capsys.readouterr().out
    other = tmp_path / "other.yaml"
    other.write_text(path.read_text())
    with pytest.raises(ValueError, match="holds a batch of 'toy', not of 'other': give another --batch folder"):
        batch.freeze(other, folder)


def test_before_a_cell_has_begun_a_batch_takes_what_has_changed(toy, tmp_path, capsys):
    """After a dry run one mends the grid, or the code, and means the batch to run that."""
    path, folder = toy(), tmp_path / "batch"
    folder.mkdir()
    batch.freeze(path, folder)
    (folder / "code" / "kit" / "old.py").touch()
    toy(seeds=[0, 1, 2])
    frozen = batch.freeze(path, folder)
    assert read(frozen).seeds == read(path).seeds and not (folder / "code" / "kit" / "old.py").exists()
    (folder / "code" / "kit" / "old.py").touch()
    with FileLock(folder / ".lock"):  # a scheduler is about to start cells
        batch.freeze(path, folder)
    assert (folder / "code" / "kit" / "old.py").exists() and not capsys.readouterr().out


def command(path, folder, *more, command="run"):
    return [sys.executable, "-m", "workflow.batch", command, str(path), "--batch", str(folder), *more]


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_a_whole_batch_with_a_failing_cell(toy, tmp_path):
    """Real kernels under Snakemake: three cells of four succeed, the report says what is missing.

    One of them had ended, and was killed before its results were in place: they are, and it does not run again.
    """
    folder = tmp_path / "batch"
    path = toy(seeds=[0, 1], grid=[{"rate": [0.0]}, {"rate": [0.5], "poison": [1]}])
    ended = next(iter(read(path).cells()))
    batch.run_cell(read(path), ended, folder, 0)
    shutil.rmtree(folder / "cells")
    both = command(path, folder, "--jobs", "2")
    done = subprocess.run(both, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    failed = "run__rate-0.5__poison-1__seed-1"
    assert done.returncode == 1
    assert "3 done, 0 running, 1 failed, 0 left" in done.stdout and f"failed: {failed}" in done.stdout
    assert "this seed is poisoned" in (folder / "work" / failed / "notebook.failed.ipynb").read_text()
    page = (folder / "report.html").read_text()
    assert "1 cells are missing" in page and failed in page and "fewer seeds than asked for" in page
    starts = [json.loads(line) for line in (folder / "diary.jsonl").read_text().splitlines()]
    starts = [line["cell"] for line in starts if line["event"] == "start"]
    assert (starts.count(failed), starts.count(ended)) == (3, 1), "two retries of the one, none of the other"
    assert nbformat.read(folder / "cells" / ended / "notebook.ipynb", 4).cells
    with FileLock(folder / ".lock"):
        again = subprocess.run(command(path, folder), env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 2 and "another process is running the batch" in again.stderr


GRID = {
    "title": "killed",
    "notebook": "notebooks/one_run.ipynb",
    "table": "result.parquet",
    "seeds": [0, 1, 2],
    "fixed": {
        "dataset": "digits", "limit": 300, "backbone": "mlp", "cuts": ["layers"], "num_blocks": 2, "epochs": 12,
        "backbone_options": ["depth=2", "hidden=32"], "noise": "symmetric", "precision": "fp32", "figure": False,
    },
    "cases": {"backprop": {"method": "bp"}, "greedy": {"method": "greedy"}},
    "grid": {"noise_rate": [0.0, 0.4]},
    "measures": {"last exit": {}},
}  # fmt: skip


def descendants(pid):
    import psutil

    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def wait_for_news(diary, run):
    """Wait until a cell has begun or ended since now, so that slow machines get somewhere between two kills."""
    before = diary.stat().st_size if diary.exists() else 0
    while run.poll() is None and not (diary.exists() and diary.stat().st_size > before):
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.faults
def test_killed_five_times_a_batch_of_twelve_ends_as_if_undisturbed(tmp_path):
    """The scheduler alone, then everything, in turn, at random moments; no finished cell runs twice."""
    import psutil

    path = tmp_path / "killed.yaml"
    path.write_text(yaml.safe_dump(GRID))
    rng, kills, folder = random.Random(0), 0, tmp_path / "killed"
    while kills < 5:
        run = subprocess.Popen(command(path, folder), env=ENVIRONMENT, cwd=ROOT, start_new_session=True)
        wait_for_news(folder / "diary.jsonl", run)
        time.sleep(rng.uniform(0, 10))
        if run.poll() is not None:
            break
        scheduler = [child for child in descendants(run.pid) if "schedule" in child.cmdline()]
        victims = scheduler if kills % 2 == 0 else [*descendants(run.pid), psutil.Process(run.pid)]
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
        kills += bool(victims)
        run.wait()
    assert subprocess.run(command(path, folder), env=ENVIRONMENT, cwd=ROOT).returncode == 0
    assert kills == 5, f"only {kills} kills before the batch was through: make it longer"
    whole = tmp_path / "whole"
    assert subprocess.run(command(path, whole, "--jobs", "2"), env=ENVIRONMENT, cwd=ROOT).returncode == 0
    tables = [pd.read_parquet(place / "table.parquet") for place in (folder, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    events = [json.loads(line) for line in (folder / "diary.jsonl").read_text().splitlines()]
    finished = set()
    for line in events:
        assert not (line["event"] == "start" and line["cell"] in finished), f"{line['cell']} ran again"
        finished |= {line["cell"]} if line["event"] == "done" else set()
    assert len(finished) == 12


class Page(HTMLParser):
    """What a browser would run of a page, and what it would show."""

    def __init__(self):
        super().__init__()
        self.handlers, self.scripts, self.text = [], [], []
        self.inside = ""

    def handle_starttag(self, tag, attrs):
        self.inside = tag
        self.handlers += [f"{tag} {name}={value}" for name, value in attrs if name == "onerror"]

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        (self.scripts if self.inside == "script" else self.text).append(data)


@pytest.mark.slow
def test_a_report_shows_the_words_of_a_file_and_runs_none(toy, tmp_path):
    """Title, about, cases, measures, claims, grid values, missing cells and metrics, as text."""
    script, image = "<script>alert('{}')</script>", "<img src=x onerror=alert('{}')>"
    bad = {name: text.format(name) for name in ("title", "about", "case", "measure", "claim", "value", "metric")
           for text in [script if name in ("title", "measure", "value") else image]}  # fmt: skip
    path = toy(
        title=bad["title"],
        about=bad["about"],
        cases={bad["case"]: {}, "other": {}},
        grid=[{"name": [bad["value"]]}],
        measures={bad["measure"]: {}, "none": {"metric": "recall"}},
        claims=[{"text": bad["claim"], "measure": bad["measure"], "ours": bad["case"], "theirs": "other"}],
        seeds=[0, 1, 2],
    )
    folder, experiment = tmp_path / "batch", read(path)
    for name, cell in list(experiment.cells().items())[:-1]:
        (folder / "cells" / name).mkdir(parents=True)
        row = {"epoch": 1, "split": "test", "block": 1, "value": cell["seed"] / 3 + len(cell["case"]) % 2}
        rows = pd.DataFrame([row | {"metric": metric} for metric in ("accuracy", bad["metric"])])
        rows.to_parquet(folder / "cells" / name / "result.parquet")
    results.report(experiment, experiment, folder)
    page = Page()
    page.feed((folder / "report.html").read_text())
    assert page.handlers == [] and not [part for part in page.scripts if "alert('" in part]
    shown = "".join(page.text)
    assert [name for name, text in bad.items() if text not in shown] == []


@pytest.mark.slow
@pytest.mark.faults
def test_killed_wherever_it_renames_or_removes_a_file_a_batch_ends_as_if_undisturbed(toy, tmp_path):
    """Scheduler, cell, report and their kernels end at every such call, one a start; nobody stays behind."""
    path = toy(seeds=[0], grid=[{}])
    folders = {name: tmp_path / name / "batch" for name in ("whole", "killed")}
    for folder in folders.values():
        folder.mkdir(parents=True)
        frozen = batch.freeze(path, folder)
    shutil.copyfile(kills.HOOK, folder / "code" / kills.HOOK.name)
    cell = [*command(frozen, folder, command="cell"), *read(path).cells()]
    assert ends(cell, tmp_path, "/killed/") > 8
    (folder / "work/run__seed-0/done.json").unlink()
    shutil.rmtree(folder / "cells")
    assert (
        ends(command(path, folder), tmp_path, "/killed/batch/([.]scheduler$|[.]snakemake/|cells/[^.]*$|work/.*txt)") > 4
    )
    assert ends(command(path, folder, command="report"), tmp_path, "/killed/") > 8
    subprocess.run(command(path, folders["whole"]), env=kills.environment(tmp_path), cwd=ROOT, check=True)
    trees = [{path for path in kills.tree(folder) if not OWN.search(path)} for folder in folders.values()]
    assert trees[0] == trees[1]
    assert not list((tmp_path / "temporary").iterdir())
    tables = [pd.read_parquet(folder / "table.parquet") for folder in folders.values()]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


OWN = re.compile(r"^code/|^[.]snakemake/(log|metadata)/|__pycache__")
"""What differs between two batches: caches, and Snakemake's journal."""


def ends(command, folder, pattern):
    """Start the command until no call ends it any more; return how many starts that took."""
    codes = [run.returncode for run in kills.starts(command, folder, pattern, cwd=ROOT)]
    assert codes[-1] == 0, codes
    return len(codes)


@pytest.mark.slow
def test_whoever_ends_a_batch_ends_its_scheduler_cells_and_kernels(toy, tmp_path):
    """After 5 s nothing is alive; what was begun is finished by the next start, and nothing is left over."""
    code = "import pathlib, time\nwhile not pathlib.Path(output, '../../go').exists(): time.sleep(0.1)"
    folder, path = tmp_path / "batch", toy(seeds=[0, 1], grid=[{}])
    notebook = nbformat.read(tmp_path / "toy.ipynb", 4)
    notebook.cells.insert(1, nbformat.v4.new_code_cell(f"open(f'{{output}}/begun', 'w').close()\n{code}"))
    nbformat.write(notebook, tmp_path / "toy.ipynb")
    for end in (signal.SIGTERM, signal.SIGKILL):
        run = subprocess.Popen(command(path, folder, "--jobs", "2"), env=kills.environment(tmp_path), cwd=ROOT)
        while run.poll() is None and len(list(folder.glob("work/*/begun"))) < 2:
            time.sleep(0.1)
        assert len(kills.alive(tmp_path)) == 6, "runner, scheduler, two cells and two kernels"
        run.send_signal(end)
        assert run.wait() == -end
        kills.none_alive(tmp_path)
        for begun in folder.glob("work/*/begun"):
            begun.unlink()
    (folder / "go").touch()
    done = subprocess.run(command(path, folder, "--jobs", "2"), env=kills.environment(tmp_path), cwd=ROOT)
    assert done.returncode == 0 and not list((tmp_path / "temporary").iterdir())
    work = {".cell-lock", "begun", "done.json", "log.txt", "notebook.ipynb", "table.parquet"}
    assert {frozenset(os.listdir(work)) for work in folder.glob("work/*")} == {frozenset(work)}
    assert {path.name for path in folder.glob(".*")} == {".freeze-lock", ".lock", ".report-lock", ".snakemake"}
