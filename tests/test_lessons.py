"""The lessons and their solutions run from end to end on small settings."""

import ast
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from kit.notebook import run_notebook

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
DEFINITIONS = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef


def pictures(path):
    outputs = [o for c in nbformat.read(path, 4).cells if c.cell_type == "code" for o in c.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def run_quick(name, folder, html=False, **parameters):
    """Run `name`, of notebooks/, with `quick` and its files in `folder`; return it executed."""
    given = {"output": folder, "quick": True} | parameters
    return run_notebook(NOTEBOOKS / f"{name}.ipynb", folder / "out.ipynb", given, html=html)


@pytest.mark.slow
def test_gradient_flow(tmp_path):
    out = run_quick("01_gradient_flow", tmp_path, html=True)
    assert pictures(out) == 8, "seven figures, and the static one in the explorer's place"
    gradients = pd.read_parquet(tmp_path / "gradients.parquet")
    assert {"step", "depth", "layer", "metric", "value", "method"} <= set(gradients)
    assert {"history", "blocks", "variants", "alignment"} <= {path.stem for path in tmp_path.glob("*.parquet")}
    assert len(list(tmp_path.glob("*.png"))) == 7
    assert (tmp_path / "out.html").read_text().count('src="data:image/png') == 8


@pytest.mark.slow
def test_per_block_accuracy(tmp_path):
    out = run_quick("02_per_block_accuracy", tmp_path, width=0.0625)
    assert pictures(out) == 2
    assert set(pd.read_parquet(tmp_path / "summary.parquet")["method"]) == {"bp", "deinforeg", "greedy"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("01_gradient_flow", "02_per_block_accuracy", "03_label_noise", "04_dynamic_expansion"),
        *("05_adaptive_inference", "08_pipeline_throughput", "10_your_own"),
    ],
)
def test_solutions(tmp_path, name):
    out = run_quick(f"solutions/{name}", tmp_path)
    said = [o.text for c in nbformat.read(out, 4).cells if c.cell_type == "code" for o in c.outputs if "text" in o]
    assert "cannot be read as an answer" not in "".join(said)
    if name in ("02_per_block_accuracy", "08_pipeline_throughput"):
        assert "".join(said).count("✓") == 3, "what does not depend on the size of the run is right in any"


@pytest.mark.slow
def test_your_own(tmp_path):
    out = run_quick("10_your_own", tmp_path)
    assert pictures(out) == 1
    assert set(pd.read_parquet(tmp_path / "history.parquet")["method"]) == {"greedy", "prototypes", "bp"}


@pytest.mark.slow
def test_explore_embeddings_and_its_solutions(tmp_path):
    out = run_quick("explore_embeddings", tmp_path)
    assert pictures(out) == 4
    run = tmp_path / "runs/deinforeg"
    given = {"output": tmp_path / "solved", "folder": run, "quick": True}
    run_notebook(NOTEBOOKS / "solutions/explore_embeddings.ipynb", tmp_path / "solved.ipynb", given)
    again = {"output": tmp_path / "again", "folder": tmp_path / "runs"}
    run_notebook(NOTEBOOKS / "explore_embeddings.ipynb", tmp_path / "again.ipynb", again)


@pytest.mark.slow
def test_label_noise(tmp_path):
    out = run_quick("03_label_noise", tmp_path)
    assert pictures(out) == 9, "eight figures, and the static one in the explorer's place"
    history = pd.read_parquet(tmp_path / "history.parquet")
    assert {"accuracy", "memorised", "recovered"} <= set(history["metric"]) and history["method"].nunique() == 4
    assert {"summary", "probes"} <= {path.stem for path in tmp_path.glob("*.parquet")}


@pytest.mark.slow
def test_dynamic_expansion(tmp_path):
    out = run_quick("04_dynamic_expansion", tmp_path, width=0.125, side_width=0.25)
    assert pictures(out) == 6, "five figures, and the static one in the explorer's place"
    assert {"history", "flops", "features"} <= {path.stem for path in tmp_path.glob("*.parquet")}
    flops = pd.read_parquet(tmp_path / "flops.parquet").groupby(["net", "seed"])["flops"].max()
    assert flops.max() / flops.min() < 1.25, "nets are compared at about the same compute"


@pytest.mark.slow
def test_adaptive_inference(tmp_path):
    out = run_quick("05_adaptive_inference", tmp_path, width=0.125)
    assert pictures(out) == 4, "three figures, and the static one in the explorer's place"
    curves = pd.read_parquet(tmp_path / "curves.parquet")
    assert curves["rule"].nunique() == 5 and curves["accuracy"].between(0, 1).all()
    assert {"chosen", "shares"} <= {path.stem for path in tmp_path.glob("*.parquet")}


@pytest.mark.slow
def test_delayed_gradients_and_its_solutions(tmp_path):
    out = run_quick("07_delayed_gradients", tmp_path)
    assert pictures(out) == 9, "seven figures, and the static ones in the two explorers' places"
    tables = {path.stem: pd.read_parquet(path) for path in tmp_path.glob("*.parquet")}
    assert {"cosines", "beta", "weights", "optimizers", "methods", "speed"} == tables.keys()
    cosine = tables["cosines"].query("metric == 'cosine'")
    assert set(cosine["depth"]) == {1, 2, 3, 4} and cosine["value"].between(-1.001, 1.001).all()
    assert set(tables["optimizers"]["delay"]) == {0, 2, 6} and tables["optimizers"]["optimizer"].nunique() == 4
    run_notebook(NOTEBOOKS / "solutions/07_delayed_gradients.ipynb", tmp_path / "solved.ipynb",
                 {"output": tmp_path / "solved", "quick": True})  # fmt: skip


@pytest.mark.slow
def test_pipeline_throughput(tmp_path):
    out = run_quick("08_pipeline_throughput", tmp_path, width=0.125)
    assert pictures(out) == 5, "four figures, and the static one in the explorer's place"
    assert set(pd.read_parquet(tmp_path / "scaling.parquet")["num_ranks"]) == {2, 4, 8, 16}


@pytest.mark.slow
def test_text_and_its_solutions(tmp_path):
    out = run_quick("09_text", tmp_path, epochs=1, grow_epochs=2)
    assert pictures(out) == 6, "five figures, and the static one in the box's place"
    tables = {path.stem: pd.read_parquet(path) for path in tmp_path.glob("*.parquet")}
    assert {"history", "gradients", "noise", "growth", "sentences"} == tables.keys()
    assert tables["history"].groupby(["backbone", "method"]).ngroups == 6
    assert set(tables["gradients"]["depth"]) == {*range(1, 10)} and (tables["gradients"]["value"] > 0).all()
    run_notebook(NOTEBOOKS / "solutions/09_text.ipynb", tmp_path / "solved.ipynb",
                 {"output": tmp_path / "solved", "quick": True})  # fmt: skip


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.rglob("*.ipynb")), ids=lambda path: f"{path.parent.stem}/{path.stem}")
def test_nothing_is_defined_in_a_notebook(path):
    code = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    named = [node.name for source in code for node in ast.walk(ast.parse(source)) if isinstance(node, DEFINITIONS)]
    if path.stem == "10_your_own":
        return  # which shows that a method may be written in a cell
    assert not named, "a function or class belongs into the lesson's file in lessons/"


def test_every_lesson_has_its_solutions():
    solved = {path.name for path in NOTEBOOKS.glob("solutions/*.ipynb")}
    promised = {path.name for path in NOTEBOOKS.glob("*.ipynb") if f"solutions/{path.name}" in path.read_text()}
    assert solved == promised and len(solved) >= 9


@pytest.mark.slow
def test_local_losses_and_context_and_its_solutions(tmp_path):
    out = run_quick("06_local_losses_and_context", tmp_path, width=0.125)
    assert pictures(out) == 6, "five figures, and the static one in the explorer's place"
    assert {"history", "by_block", "sting"} <= {path.stem for path in tmp_path.glob("*.parquet")}
    given = {"output": tmp_path / "solved", "quick": True}
    run_notebook(NOTEBOOKS / "solutions/06_local_losses_and_context.ipynb", tmp_path / "solved.ipynb", given)
