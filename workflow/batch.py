"""`python -m workflow.batch run EXPERIMENT`: run what is missing of a batch, join and report. `status`: how far.

A batch folder holds `code/` (the frozen copy that all its cells run), `cells/` (finished results), `work/` (checkpoints
and logs), and the joined table and report. Locks are the operating system's: they end with the process that holds them.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from kit import notebook
from kit.errors import check_name
from kit.files import atomic, sweep
from kit.processes import leave_with
from workflow import progress
from workflow.experiment import locate, read
from workflow.schema import ROOT, Experiment

COPIED = ("kit", "lessons", "notebooks", "workflow")
PARENT = "KIT_BATCH_PARENT"
"""The variable that tells schedulers and cells which process to end with."""


def default_folder(experiment: str) -> Path:
    return ROOT / "runs" / "batches" / Path(experiment).stem


def freeze(experiment: Path, batch: Path) -> Path:
    """Copy the code into the batch, unless cells run on what is there; return the copy of the experiment file."""
    from kit.train.record import versions

    code = batch / "code"
    for left in batch.glob(".code-*"):
        shutil.rmtree(left)
    begun = any((batch / name).exists() for name in ("work", "cells")) or progress.held(batch / ".lock")
    if code.exists() and not begun:  # as after a dry run: what has changed since is meant to run
        shutil.rmtree(code)
    if not code.exists():
        draft = Path(tempfile.mkdtemp(prefix=".code-", dir=batch))
        unwanted = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".snakemake", "*.failed.ipynb")
        for name in COPIED:
            shutil.copytree(ROOT / name, draft / name, ignore=unwanted)
        place = draft / "workflow" / "experiments"
        shutil.copyfile(experiment, place / experiment.name)
        given = read(experiment, checked=True)
        if not given.source.is_relative_to(ROOT):
            (place / given.notebook).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(given.source, place / given.notebook)
        about = {"experiment": experiment.stem, "date": f"{datetime.now():%Y-%m-%d %H:%M}", "versions": versions()}
        (draft / "frozen.json").write_text(json.dumps(about, indent=2) + "\n")
        draft.chmod(0o755)
        draft.rename(code)
    frozen = code / "workflow" / "experiments" / experiment.name
    if not frozen.exists():
        other = json.loads((code / "frozen.json").read_text())["experiment"]
        raise ValueError(f"{batch} holds a batch of {other!r}, not of {experiment.stem!r}: give another --batch folder")
    if frozen.read_bytes() != experiment.read_bytes():
        print(f"note: {experiment.name} has changed since this batch began; its cells stay those of {frozen}.")
        print("      Measures and claims are read from the new file; for a new grid give another --batch folder.")
    return frozen


def schedule(experiment: Path, batch: Path, arguments: argparse.Namespace) -> int:
    """Run Snakemake in this process, under the batch's lock; return its exit code.

    The lock is ours, and Snakemake's is off: a file that says "locked" outlives `kill -9`, and the next start would ask
    for `--unlock`. A lock of the operating system's ends with its process.
    """
    from snakemake.cli import main

    scratch = batch / ".scheduler"
    command = ["--snakefile", str(batch / "code" / "workflow" / "Snakefile"), "--directory", str(batch)]
    command += ["--rerun-triggers", "mtime", "--rerun-incomplete", "--keep-going", "--nolock"]
    command += ["--scheduler", "greedy", "--quiet", "rules", "host", "--runtime-source-cache-path", str(scratch)]
    command += ["--resources", f"gpu={arguments.gpus}"] if arguments.gpus else []
    command += ["--config", f"experiment={experiment}", f"root={arguments.root}"]
    if arguments.profile:
        command += ["--workflow-profile", arguments.profile, "--jobs", str(arguments.jobs)]
    else:  # cells are processes of this one, and end with it
        command += [f"parent={os.getpid()}", f"temporary={tempfile.gettempdir()}"]
        command += ["--workflow-profile", "none", "--cores", str(arguments.jobs)]
    try:
        with FileLock(batch / ".lock", timeout=5), _temporary(scratch):  # a killed run's scheduler may take 5 s to end
            main(command + (["--dry-run"] if arguments.dry_run else []))
    except Timeout:
        raise ValueError(
            f"another process is running the batch in {batch}: wait for it, or give another --batch folder"
        ) from None
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[None]:
    """Have this process's temporary files in `folder`, where the next one finds what a killed one left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = None
        shutil.rmtree(folder)


def run_cell(experiment: Experiment, name: str, batch: Path, gpus: int) -> None:
    """Run one cell's notebook and publish its result; one that is finished already is only published."""
    cells, work = experiment.cells(), batch / "work" / name
    check_name(f"cell of {experiment.name}", name, cells)
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / ".cell-lock"):  # an orphan of a killed scheduler may be at work: wait for it
        sweep(work)
        if not (work / "done.json").exists() or not readable(work / experiment.table):
            _note(batch, name, "start")
            begin = time.time()
            try:
                with _gpu(gpus):
                    given = cells[name]["parameters"] | {"output": str(work)}
                    notebook.run_notebook(experiment.source, work / "notebook.ipynb", given)
                if not readable(work / experiment.table):
                    raise ValueError(f"{experiment.notebook} wrote no readable {experiment.table} into {work}")
            except BaseException as error:
                _note(batch, name, "failed", error=f"{error}"[:500])
                raise
            spent = {"seconds": round(time.time() - begin, 1)}
            _note(batch, name, "done", **spent)
            with atomic(work / "done.json") as draft:
                draft.write_text(json.dumps(spent))
        published = batch / "cells" / name
        sweep(published)
        for source, target in (("notebook.ipynb", "notebook.ipynb"), (experiment.table, "result.parquet")):
            with atomic(published / target) as draft:
                shutil.copyfile(work / source, draft)


def readable(path: Path) -> bool:
    """Say whether `path` is a whole Parquet file."""
    import pyarrow.parquet as pq

    try:
        pq.read_table(path)
    except (OSError, ValueError):
        return False
    return True


def _note(batch: Path, cell: str, event: str, **more: object) -> None:
    """Append a line to the batch's diary; short lines appended by several processes do not mix."""
    line = json.dumps({"time": round(time.time(), 1), "cell": cell, "event": event} | more) + "\n"
    handle = os.open(batch / "diary.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    with os.fdopen(handle, "w") as diary:
        diary.write(line)


@contextlib.contextmanager
def _gpu(count: int) -> Iterator[None]:
    """Hold one of this machine's `count` GPUs and show only it to the notebook; 0 leaves the environment alone."""
    if not count or "SLURM_JOB_ID" in os.environ:  # Slurm has chosen already
        yield
        return
    shown = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    locks = {
        name: FileLock(Path(tempfile.gettempdir(), f"kit-gpu-{os.getuid()}-{name}.lock")) for name in shown.split(",")
    }
    while True:
        for name, lock in locks.items():
            with contextlib.suppress(Timeout), lock.acquire(timeout=0):
                os.environ["CUDA_VISIBLE_DEVICES"] = name
                yield
                return
        time.sleep(1)


def set_damaged_aside(experiment: Experiment, batch: Path) -> None:
    """Rename results that cannot be read, so that their cells run again."""
    for name in experiment.cells():
        path = batch / "cells" / name / "result.parquet"
        if path.exists() and not readable(path):
            path.rename(path.with_suffix(".parquet.damaged"))
            print(f"{path} cannot be read: it was set aside, and cell {name} runs again")


def run(arguments: argparse.Namespace) -> int:
    """Freeze the code, run the missing cells, join and report; return 0 if every cell is there."""
    from workflow import results

    experiment = read(arguments.experiment, here=not arguments.profile)
    path = locate(arguments.experiment)
    batch = arguments.batch
    batch.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(batch / ".freeze-lock", timeout=60):
            frozen = freeze(path, batch)
    except Timeout:
        raise ValueError(f"another process is preparing {batch}: wait for it") from None
    begun = read(frozen, checked=True)
    if not progress.held(batch / ".lock"):  # no scheduler is at work
        set_damaged_aside(begun, batch)
    options = ["--batch", str(batch), "--root", str(ROOT), "--jobs", str(arguments.jobs), "--gpus", str(arguments.gpus)]
    options += ["--profile", str(Path(arguments.profile).resolve())] if arguments.profile else []
    options += ["--dry-run"] if arguments.dry_run else []
    # Git must not take the frozen copy for the checkout around it; the copy's revision is in frozen.json.
    environment = {"PYTHONPATH": str(batch / "code"), "GIT_CEILING_DIRECTORIES": str(batch), PARENT: str(os.getpid())}
    command = [sys.executable, "-m", "workflow.batch", "schedule", str(frozen), *options]
    code = subprocess.call(command, env=os.environ | environment, cwd=batch / "code")
    if arguments.dry_run or code == 2:
        return code
    progress.print_status(begun, batch)
    results.report(experiment, begun, batch)
    return 0 if len(progress.status(begun, batch)["done"]) == len(begun.cells()) else 1


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m workflow.batch", description="Run a batch of notebooks.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "schedule", "status", "report", "paper", "cell"):
        command = commands.add_parser(name)
        command.add_argument("experiment", help="a name in workflow/experiments, or a .yaml file")
        command.add_argument("--batch", type=Path, help="folder of the batch; default runs/batches/EXPERIMENT")
        command.add_argument("--root", type=Path, default=ROOT, help="folder that notebooks run in")
        command.add_argument("--gpus", type=int, default=0, help="GPUs of this machine to use")
        if name == "cell":
            command.add_argument("cell")
        command.add_argument("--jobs", type=int, default=1, help="cells at a time")
        command.add_argument("--profile", default="", help="a Snakemake profile, such as workflow/profiles/slurm")
        command.add_argument("--dry-run", action="store_true", help="only say what would run")
    given = parser.parse_args(arguments)
    if parent := os.environ.pop(PARENT, ""):
        leave_with(int(parent))
    given.batch = (given.batch or default_folder(given.experiment)).resolve()
    try:
        return _do(given)
    except notebook.NotebookFailed as error:
        print(f"error: {error}", *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _do(given: argparse.Namespace) -> int:
    if given.command == "run":
        return run(given)
    if given.command == "schedule":
        return schedule(Path(given.experiment), given.batch, given)
    if given.command == "cell":
        os.chdir(given.root)
        run_cell(read(given.experiment, checked=True), given.cell, given.batch, given.gpus)
        return 0
    experiment = read(given.experiment, checked=given.command == "status")
    frozen = given.batch / "code" / "workflow" / "experiments" / locate(given.experiment).name
    begun = read(frozen, checked=True) if frozen.exists() else experiment
    if given.command == "status":
        progress.print_status(begun, given.batch)
    elif given.command == "paper":
        from workflow import published

        published.print_paper(begun, given.batch)
    else:
        from workflow import results

        results.report(experiment, begun, given.batch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
