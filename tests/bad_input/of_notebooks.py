"""Parameters of notebooks, given as values and as texts, and what an experiment file gives them."""

import nbformat
import yaml

from kit.notebook import run_notebook
from kit.parameters import check_values, read_parameters
from tests.bad_input.cases import Case
from tests.bad_input.things import FOLDER
from tests.bad_input.values import SETTINGS, WRONG
from workflow import experiment

CELL = """\
epochs: int = 3  # passes
momentum: float = 0.9  # of sgd
nesterov: bool = False  # its kind
method: str = "greedy"  # a name
limit: int | None = None  # images
kinds: Literal["a", "b"] = "a"  # one of two
rates: list[float] = [0.1]  # some
output: str = "runs/x"  # a folder
"""


def notebook(source: str = CELL, name: str = "lesson", tags: tuple[str, ...] = ("parameters",)) -> str:
    """Write a notebook with that cell of parameters and return its path."""
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})
    path = FOLDER / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return str(path)


DECLARED = read_parameters(notebook())


def given(**values: object) -> dict:
    return check_values(values, DECLARED)


def batch(**fixed: object) -> experiment.Experiment:
    """Read an experiment file that fixes these parameters."""
    path = FOLDER / "batch.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "title": "t",
                "notebook": notebook(),
                "table": "t.parquet",
                "seeds": [1],
                "seed_parameters": ["epochs"],
                "measures": {"accuracy": {}},
                "fixed": fixed,
            }
        )
    )
    return experiment.read(path)


def text(content: str) -> str:
    path = FOLDER / "text.ipynb"
    path.write_text(content)
    return str(path)


VALUES = {SETTINGS[kind][0]: values for kind, values in WRONG.items()}
TEXTS = {
    "epochs": ["3.5", "three", "None", "1e3", "True", ""],
    "momentum": ["fast", "None", "nan", "inf", "", "1,5"],
    "nesterov": ["no", "1", "yes", "", "None"],
    "limit": ["all", "1.5", "", "false"],
    "kinds": ["c", "", "A B"],
    "rates": ["a,b", "[0.1, x]", "nan"],
}
LINES = [
    "epochs = 3",
    "epochs: int",
    "epochs: int = 'x'",
    "epochs: dict = {}",
    "epochs: float = print(1)",
    "x: int = ]",
]


def declare(line: str) -> Case:
    return Case(f"a notebook with {line!r}", "parameters cell", lambda: read_parameters(notebook(line, "odd")))


def batches(name: str, value: object) -> Case:
    return Case(f"experiment file with fixed: {{{name}: {value!r}}}", name, lambda: batch(**{name: value}))


CASES = [
    *(Case(f"notebook({n}={v!r})", n, lambda n=n, v=v: given(**{n: v})) for n, vs in VALUES.items() for v in vs),
    *(
        Case(f"notebook -p {n} {v!r}", f"{n}=…it must be", lambda n=n, v=v: given(**{n: v}))
        for n, vs in TEXTS.items()
        for v in vs
    ),
    Case("notebook -p epoch 3", "unknown parameter 'epoch'…'epochs'", lambda: given(epoch="3")),
    *map(declare, LINES),
    Case("read_parameters('nowhere.ipynb')", "unknown notebook", lambda: read_parameters(FOLDER / "nowhere.ipynb")),
    Case("read_parameters(a text file)", "is not a notebook", lambda: read_parameters(text("odd text"))),
    Case(
        "a notebook without a parameters cell",
        "has 0 cells tagged",
        lambda: read_parameters(notebook(CELL, "none", ())),
    ),
    Case("run_notebook(…, out='x.txt')", "must end in .ipynb", lambda: run_notebook(notebook(), FOLDER / "x.txt")),
    Case("run_notebook(…, out=itself)", "is the notebook itself", lambda: run_notebook(notebook(), notebook())),
    Case("run_notebook(…, timeout=0)", "timeout=0", lambda: run_notebook(notebook(), FOLDER / "o.ipynb", timeout=0)),
    Case(
        "run_notebook(…, timeout='9')", "timeout='9'", lambda: run_notebook(notebook(), FOLDER / "o.ipynb", timeout="9")
    ),
    Case(
        "run_notebook(…, {'epochs': 'x'})", "epochs='x'", lambda: run_notebook(notebook(), "o.ipynb", {"epochs": "x"})
    ),
    *(batches(n, v) for n, vs in VALUES.items() if n != "epochs" for v in vs),
    *(
        Case(f"experiment file with limit: {v!r}", "limit", lambda v=v: batch(limit=v))
        for v in WRONG[int]
        if v is not None
    ),
]
