"""`kit.notebook` on small notebooks with real kernels."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest

from kit import cpu_allocator
from kit.notebook import NotebookFailed, main, run_notebook
from tests import kills

ROOT = Path(__file__).parent.parent
PARAMETERS = """epochs: int = 1  # passes over the training set
quick: bool = True
output: str = "results"  # where figures and tables go"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Return a function that writes a notebook of these cells, with the parameters cell first."""
    monkeypatch.chdir(tmp_path)

    def write(*sources: str, parameters: str = PARAMETERS) -> Path:
        cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
        cells += [nbformat.v4.new_code_cell(source) for source in sources]
        for cell in cells:
            cell.pop("id")  # as old notebooks are
        nbformat.write(nbformat.v4.new_notebook(cells=cells, nbformat_minor=4), "lesson.ipynb")
        return Path("lesson.ipynb")

    return write


def start(*arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "kit.notebook", *arguments]
    return subprocess.Popen(command, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, **options)


def printed(path: str) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def test_puts_notebook_and_page_in_place_and_says_where_the_rest_is(notebook, capfd):
    source = notebook(
        "import os, pathlib",
        "pathlib.Path(output).mkdir(); [open(f'{output}/{n}', 'w') for n in ('a.png', 'b.parquet', 'c.txt')]",
        "print(f'{epochs=} {quick=} {os.getcwd()}')",
    )
    before = source.read_bytes()
    arguments = f"{source} new/{{}}.ipynb --html -p epochs 3 -p quick False".split()
    assert main(arguments) == 0
    out, err = capfd.readouterr()
    assert out.splitlines() == [
        f"epochs=3 quick=False {os.getcwd()}",
        "notebook  new/{}.ipynb",
        "page      new/{}.html",
        "figure    results/a.png",
        "table     results/b.parquet",
    ]
    assert err == ""
    assert source.read_bytes() == before
    assert sorted(os.listdir("new")) == ["{}.html", "{}.ipynb"]
    assert "epochs=3" in printed("new/{}.ipynb")
    assert "epochs=3" in Path("new/{}.html").read_text()


def test_the_kernel_is_this_python_with_an_ipython_folder_of_its_own(notebook, monkeypatch):
    foreign = Path("jupyter/kernels/python3")
    source = notebook(
        "import os, sys, json, pathlib",
        "names = ('IPYTHONDIR', 'KIT_HEADLESS', 'MPLBACKEND', 'GLIBC_TUNABLES')",
        "pathlib.Path('it.json').write_text(json.dumps([sys.executable, *map(os.environ.get, names)]))",
    )
    foreign.mkdir(parents=True)
    kernel = {"argv": ["/nowhere/python", "{connection_file}"], "display_name": "x", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(Path("jupyter").resolve()))
    monkeypatch.setenv("IPYTHONDIR", "mine")
    assert run_notebook(source, "out.ipynb") == Path("out.ipynb")
    executable, folder, headless, backend, tunables = json.loads(Path("it.json").read_text())
    assert executable == sys.executable
    assert folder not in ("mine", None)
    assert not Path(folder).exists()
    assert not Path("mine").exists()
    assert (headless, backend) == ("1", "module://matplotlib_inline.backend_inline")
    assert tunables == cpu_allocator.environment().get("GLIBC_TUNABLES")
    assert os.environ["IPYTHONDIR"] == "mine"


def test_a_failing_cell_keeps_the_last_good_notebook(notebook, capfd):
    Path("out.ipynb").write_text("the last good one")
    source = notebook("print('so far')", "if epochs > 1:\n    raise ValueError('no such thing')", "print('not here')")
    assert main(f"{source} out.ipynb -p epochs 2".split()) == 1
    assert capfd.readouterr().err.splitlines() == [
        "error: In [4] raised ValueError: no such thing",
        "the notebook as far as it got: out.failed.ipynb",
    ]
    assert Path("out.ipynb").read_text() == "the last good one"
    assert printed("out.failed.ipynb") == "so far\n"
    assert sorted(os.listdir()) == ["lesson.ipynb", "out.failed.ipynb", "out.ipynb"]

    run_notebook(source, "out.ipynb")
    assert printed("out.ipynb") == "so far\nnot here\n"
    assert sorted(os.listdir()) == ["lesson.ipynb", "out.ipynb"]


def test_a_dead_kernel_and_a_slow_cell_are_failures(notebook):
    source = notebook("import os, time\nos._exit(9) if quick else time.sleep(60)")
    with pytest.raises(NotebookFailed, match="the kernel died"):
        run_notebook(source, "out.ipynb")
    with pytest.raises(NotebookFailed, match=r"In \[3\] ran for more than 1 s"):
        run_notebook(source, "out.ipynb", {"quick": False}, timeout=1)
    assert sorted(os.listdir()) == ["lesson.ipynb", "out.failed.ipynb"]


def test_lines_arrive_while_the_cell_runs(notebook):
    source = notebook(
        "import pathlib, sys, time",
        "for epoch in range(2):\n"
        "    print('epoch', epoch)\n"
        "    while not pathlib.Path(f'seen{epoch}').exists(): time.sleep(0.05)",
        "print('done', file=sys.stderr)",
    )
    run = start(str(source), "out.ipynb", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    overdue = threading.Timer(50, run.kill)
    overdue.start()
    for epoch in range(2):
        assert run.stdout.readline() == f"epoch {epoch}\n"
        Path(f"seen{epoch}").touch()
    out, err = run.communicate()
    overdue.cancel()
    err = err.removesuffix("[IPKernelApp] ERROR | KeyboardInterrupt caught in kernel.\n")  # told to end as it fell idle
    assert (run.returncode, out, err) == (0, "notebook  out.ipynb\n", "done\n")


def test_what_a_killed_run_left_is_swept_and_what_a_running_one_needs_is_not(notebook):
    source = notebook("import os, time", "print(os.getpid())\ntime.sleep(0 if quick else 60)")
    runs = [start(str(source), f"{name}.ipynb", "-p", "quick", "False", stdout=subprocess.PIPE) for name in "ab"]
    kernels = [int(run.stdout.readline()) for run in runs]
    drafts = [next(Path().glob(f".kit-notebook.*/{name}.ipynb")) for name in "ab"]
    left = {run: draft.parent for run, draft in zip(runs, drafts, strict=True)}
    assert "kernel.json" in os.listdir(left[runs[0]])
    runs[0].kill()
    runs[0].wait()
    assert left[runs[0]].exists()
    run_notebook(source, "c.ipynb")
    assert not left[runs[0]].exists() and left[runs[1]].exists()
    runs[1].send_signal(signal.SIGTERM)
    assert runs[1].wait(30) == 130
    for run in runs:
        run.stdout.close()
    assert sorted(os.listdir()) == ["b.failed.ipynb", "c.ipynb", "lesson.ipynb"]
    assert not any(map(_alive, kernels))


def test_what_is_put_in_place_has_the_users_mode_and_the_kernels_key_its_owners_alone(notebook):
    source = notebook("import os", "print(oct(os.stat(os.environ['IPYTHONDIR'] + '/kernel.json').st_mode))")
    before = os.umask(0o027)
    try:
        run_notebook(source, "new/o.ipynb", html=True)
        run_notebook(source, "o.ipynb", html=True)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in map(Path, ("o.ipynb", "o.html", "new/o.ipynb"))] == [0o640] * 3
    assert Path("new").stat().st_mode & 0o777 == 0o750
    assert printed("o.ipynb") == "0o100600\n"


def test_a_page_is_named_after_its_file_and_not_by_it(notebook):
    run_notebook(notebook(), "<img src=x onerror=alert(1)>.ipynb", html=True)
    assert "<img src=x" not in Path("<img src=x onerror=alert(1)>.html").read_text()


@pytest.mark.parametrize(("end", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130), (signal.SIGINT, 130)])
def test_an_ended_run_leaves_no_notebook_and_no_kernel(notebook, end, code):
    source = notebook("import os, time", "print(os.getpid())\ntime.sleep(60)")
    run = start(str(source), "out.ipynb", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    kernel = int(run.stdout.readline())
    run.send_signal(end)
    assert run.wait(30) == code
    run.stdout.close()
    assert not Path("out.ipynb").exists()
    assert Path("out.failed.ipynb").exists() == (end != signal.SIGKILL)
    for _ in range(100):
        if not _alive(kernel):
            return
        time.sleep(0.1)
    raise AssertionError(f"the kernel {kernel} still runs")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not (state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z")
    except ProcessLookupError:
        return False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("lesson.ipynb out.ipynb -p epoch 3", "unknown parameter 'epoch': did you mean 'epochs'? Choose one of epochs"),
        ("lesson.ipynb out.ipynb -p epochs three", "epochs='three', but it must be int, such as 1 (passes over"),
        ("leson.ipynb out.ipynb", "did you mean 'lesson.ipynb'?"),
        ("lesson.ipynb lesson.ipynb", "lesson.ipynb is the notebook itself"),
        ("lesson.ipynb out", "its name must end in .ipynb"),
        ("lesson.ipynb out.ipynb --timeout 0", "timeout=0, but it has to be a whole number of at least 1, or None"),
        ("lesson.ipynb lesson.ipynb/out.ipynb", "lesson.ipynb"),
    ],
)
def test_refuses_at_once(notebook, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: pytest.fail("a kernel was started"))
    notebook()
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert os.listdir() == ["lesson.ipynb"]


WRONG = {
    "epochs": ["True", "2.5", "None", "[1]", "1" + "0" * 30, "nan", "{}"],
    "lr": ["True", "None", "[0.1]", "nan", "inf", "Infinity", "1e400"],
    "noisy_val": ["0", "1", "None", "no"],
    "nesterov": ["no", "0"],
    "seed": ["None", "True", "[1]", "0.0", "1" + "0" * 30],
    "data_seed": ["[1]", "None"],
    "num_blocks": ["None", "2.0", "four"],
    "limit": ["0.5", "[1]", "all"],
    "weight_decay": ["True", "nan"],
}


@pytest.mark.parametrize("name", WRONG)
def test_refuses_what_an_experiment_file_refuses(tmp_path, monkeypatch, capsys, name):
    """Before a kernel starts: all that the type of a parameter tells; a text may be a number here."""
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: pytest.fail("a kernel was started"))
    for text in WRONG[name]:
        given = [str(ROOT / "notebooks/one_run.ipynb"), str(tmp_path / "out.ipynb"), "-p", name, text]
        assert main(given) == 2, text
        assert f"error: {name}=" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_values_from_python_are_no_texts(notebook):
    with pytest.raises(ValueError, match="quick='False', but it must be bool, such as True"):
        run_notebook(notebook(), "out.ipynb", {"quick": "False"})


def test_lists_the_parameters(notebook, capsys):
    assert main([str(notebook()), "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "epochs: int = 1                          passes over the training set",
        "quick: bool = True                       ",
        "output: str = 'results'                  where figures and tables go",
    ]


@pytest.mark.slow
@pytest.mark.faults
def test_killed_wherever_it_renames_or_removes_a_file_a_run_ends_as_if_undisturbed(notebook, tmp_path):
    """Runner and kernel each end at every such call, one a start, with a page and over an earlier failure."""
    source = notebook(
        "import pathlib\nseen = pathlib.Path('seen')\nseen.touch()",
        "seen.replace('done')\nprint('the same bits')",
    )
    places = {name: tmp_path / name for name in ("whole", "killed")}
    for place in places.values():
        place.mkdir()
    command = [sys.executable, "-m", "kit.notebook", str(source.resolve()), "new/out.ipynb", "--html"]
    subprocess.run(command, cwd=places["whole"], env=kills.environment(tmp_path), check=True)
    codes = [run.returncode for run in kills.starts(command, tmp_path, "/killed/", cwd=places["killed"])]
    assert codes[-1] == 0 and len(codes) > 6 and set(codes[:-1]) <= {-9, 1}, codes
    assert (
        kills.tree(places["killed"]) == kills.tree(places["whole"]) == {"done", "new", "new/out.ipynb", "new/out.html"}
    )
    assert not list((tmp_path / "temporary").iterdir())
    assert printed(places["killed"] / "new/out.ipynb") == printed(places["whole"] / "new/out.ipynb")
