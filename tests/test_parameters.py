"""Parameters of a notebook: what a cell declares, and what may be given for it."""

from pathlib import Path

import nbformat
import pytest

from kit.parameters import check_values, read_parameters, read_texts

CELL = """
# how long
epochs: int = 2  # passes over the training set, as in epochs=2
lr: float = 0.1
quick: bool = True
name: str | None = None
methods: list[str] = ["bp", "deinforeg"]  # what to compare
sizes: list[int] = [
    1,
    2,
]  # widths
precision: Literal["fp32", "bf16"] = "fp32"
output: str = "runs/it"
"""


def write(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]}) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def declared(tmp_path):
    return read_parameters(write(tmp_path / "n.ipynb", CELL))


def test_reads_names_defaults_and_help(declared):
    assert {name: parameter.default for name, parameter in declared.items()} == {
        "epochs": 2,
        "lr": 0.1,
        "quick": True,
        "name": None,
        "methods": ["bp", "deinforeg"],
        "sizes": [1, 2],
        "precision": "fp32",
        "output": "runs/it",
    }
    assert declared["epochs"].help == "passes over the training set, as in epochs=2"
    assert declared["sizes"].help == "widths"
    assert declared["lr"].help == ""


def from_text(name, text, declared):
    return check_values(read_texts({name: text}, declared), declared)[name]


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("epochs", "3", 3),
        ("lr", "1e-3", 0.001),
        ("lr", "0.1", 0.1),
        ("quick", "False", False),
        ("quick", "true", True),
        ("name", "None", None),
        ("name", "3", "3"),
        ("methods", "bp", ["bp"]),
        ("methods", "bp,dgl", ["bp", "dgl"]),
        ("methods", "[bp, dgl]", ["bp", "dgl"]),
        ("methods", "['bp', 'a,b']", ["bp", "a,b"]),
        ("methods", "", []),
        ("sizes", "1,2", [1, 2]),
        ("sizes", "7", [7]),
        ("precision", "bf16", "bf16"),
        ("output", "False", "False"),
    ],
)
def test_a_text_of_the_command_line_stands_for_a_value(declared, name, given, value):
    result = from_text(name, given, declared)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("epochs", 3, 3),
        ("lr", 1, 1.0),
        ("quick", False, False),
        ("name", None, None),
        ("methods", ("bp",), ["bp"]),
        ("sizes", [], []),
        ("output", Path("runs/that"), "runs/that"),
    ],
)
def test_values_become_the_declared_type(declared, name, given, value):
    result = check_values({name: given}, declared)[name]
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("epochs", "three"),
        ("epochs", "3.5"),
        ("epochs", 3.5),
        ("epochs", True),
        ("epochs", None),
        ("epochs", "3"),
        ("epochs", [1]),
        ("epochs", 10**30),
        ("epochs", -(10**30)),
        ("lr", "fast"),
        ("lr", "0.1"),
        ("lr", False),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", 10**400),
        ("quick", "yes"),
        ("quick", "False"),
        ("quick", 1),
        ("name", 3),
        ("methods", 3),
        ("methods", "bp"),
        ("methods", [3]),
        ("sizes", "1,two"),
        ("sizes", [1.5]),
        ("sizes", [10**30]),
        ("precision", "fp16"),
        ("output", None),
    ],
)
def test_refuses_another_type(declared, name, given):
    with pytest.raises(ValueError, match=f"^{name}=.*, but it must be "):
        check_values({name: given}, declared)


TEXTS = [
    ("epochs", "three"),
    ("epochs", "3.5"),
    ("epochs", "True"),
    ("epochs", "None"),
    ("epochs", "[1]"),
    ("epochs", "1" + "0" * 30),
    ("epochs", "1" * 5000),
    ("lr", "nan"),
    ("lr", "inf"),
    ("lr", "-Infinity"),
    ("lr", "1e400"),
    ("lr", "[0.1]"),
    ("quick", "yes"),
    ("quick", "0"),
    ("sizes", "1,two"),
    ("sizes", "nan"),
    ("precision", "fp16"),
]


@pytest.mark.parametrize(("name", "given"), TEXTS, ids=[f"{name}={text[:9]}" for name, text in TEXTS])
def test_refuses_a_text_that_stands_for_no_such_value(declared, name, given):
    with pytest.raises(ValueError, match=f"^{name}=.*, but it must be "):
        from_text(name, given, declared)


def test_a_number_out_of_bounds_is_told_the_bound(declared):
    with pytest.raises(ValueError, match="epochs=1000.*, but it must be int below 2.*63, such as 2"):
        check_values({"epochs": 10**30}, declared)
    with pytest.raises(ValueError, match="lr=nan, but it must be float and finite, such as 0.1"):
        check_values({"lr": float("nan")}, declared)


def test_the_refusal_says_what_was_given_what_is_expected_and_what_it_means(declared):
    with pytest.raises(ValueError) as error:
        check_values({"epochs": "three"}, declared)
    assert str(error.value) == (
        "epochs='three', but it must be int, such as 2 (passes over the training set, as in epochs=2)"
    )


def test_suggests_the_nearest_name(declared):
    with pytest.raises(ValueError, match="unknown parameter 'epoch': did you mean 'epochs'?"):
        check_values({"epoch": 3}, declared)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ((), "has 0 cells tagged 'parameters'; tag exactly one"),
        (("a: int = 1", "b: int = 2"), "has 2 cells tagged"),
        (("a = 1",), "'a = 1' is not of the form 'name: type = value  # help'"),
        (("a: int",), "'a: int' is not of the form"),
        (("a: int = 'x'",), "the value is no literal of that type"),
        (("a: int = 1 + one",), "the value is no literal of that type"),
        (("a: Tensor = 1",), "the value is no literal of that type"),
        (("%matplotlib inline",), "invalid syntax"),
    ],
)
def test_refuses_a_cell_that_declares_badly(tmp_path, sources, message):
    with pytest.raises(ValueError, match="n.ipynb") as error:
        read_parameters(write(tmp_path / "n.ipynb", *sources))
    assert message in str(error.value)


def test_refuses_what_is_no_notebook(tmp_path):
    (tmp_path / "n.ipynb").write_text("hello")
    with pytest.raises(ValueError, match="n.ipynb is not a notebook"):
        read_parameters(tmp_path / "n.ipynb")


def test_a_missing_notebook_suggests_the_nearest(tmp_path):
    write(tmp_path / "02_accuracy.ipynb", "a: int = 1")
    with pytest.raises(ValueError, match="unknown notebook .*'02_acuracy.ipynb': did you mean '02_accuracy.ipynb'?"):
        read_parameters(tmp_path / "02_acuracy.ipynb")
