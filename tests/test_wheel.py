"""The wheel works where there is no repository: kit, lessons, notebooks and the measured tables are in it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest

from lessons.shipped import copy_lessons

ROOT = Path(__file__).parent.parent
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OFFLINE = {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
"""What pip needs is there: nothing is fetched. (pip reads NO_BUILD_ISOLATION=0 as "without isolation".)"""

OWN = """
import numpy as np, pandas as pd
from PIL import Image
from pathlib import Path

rng = np.random.default_rng(0)
for name, level in (("cat", 60), ("dog", 190)):
    Path("pets", name).mkdir(parents=True)
    for k in range(30):
        Image.fromarray((rng.integers(-40, 40, (8, 8, 3)) + level).astype("uint8")).save(f"pets/{name}/{k}.png")
x, y = rng.normal(size=(90, 4)), np.arange(90) % 3
pd.DataFrame(x + y[:, None], columns=list("abcd")).assign(label=y).to_csv("patients.csv", index=False)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what the wheel is built from, so that a build leaves nothing here."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("kit", "lessons", "notebooks", "benchmarks/results"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A Python that has everything but the kit: what is installed here is on its path, editable installs are not."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    for old in packages.glob("setuptools*"):  # the one that ensurepip brings; the shared one is newer
        shutil.rmtree(old)
    (packages / "shared.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")))
    return folder / "bin/python"


@pytest.fixture
def environment():
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return kept | OFFLINE | {"OMP_NUM_THREADS": "1"}


def run(command, folder, environment):
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


def test_every_package_is_in_the_wheel():
    own = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "kit").rglob("__init__.py")} | {"lessons"}
    assert set(SETUP["tool"]["setuptools"]["packages"]) == own | {"lessons.notebooks", "lessons.measured"}


def test_badges_and_install_cells_name_the_repository():
    address = SETUP["project"]["urls"]["Repository"]
    name = address.removeprefix("https://github.com/")
    cells = set()
    for path in NOTEBOOKS:
        read = nbformat.read(path, 4)
        title = read.cells[0].source
        assert f"colab.research.google.com/github/{name}/blob/main/notebooks/{path.name}" in title, path.name
        assert f"mybinder.org/v2/gh/{name}/main?labpath=notebooks/{path.name}" in title, path.name
        cells.add(next(cell.source for cell in read.cells if "install" in cell.metadata.get("tags", [])))
    assert len(cells) == 1 and f"git+{address}" in cells.pop()


def test_lessons_are_copied_and_never_over_something(tmp_path):
    copied = copy_lessons(tmp_path / "mine")
    assert {path.name for path in copied} >= {path.name for path in NOTEBOOKS}
    assert (tmp_path / "mine/solutions/01_gradient_flow.ipynb").exists()
    with pytest.raises(ValueError, match="mine is not empty: name a new folder"):
        copy_lessons(tmp_path / "mine")


@pytest.mark.slow
def test_the_install_cell_installs_what_is_missing(source, fresh, environment, tmp_path):
    (cell,) = {
        c.source for p in NOTEBOOKS for c in nbformat.read(p, 4).cells if "install" in c.metadata.get("tags", [])
    }
    (tmp_path / "cell.py").write_text(cell)
    missing = "from importlib.util import find_spec; print(find_spec('kit'), find_spec('lessons'))"
    assert run([fresh, "-c", missing], tmp_path, environment).split() == ["None", "None"]
    run([fresh, "cell.py"], tmp_path, environment | {"KIT_SOURCE": str(source)})
    assert "site-packages" in run([fresh, "-c", "import kit, lessons; print(kit.__file__)"], tmp_path, environment)
    assert run([fresh, "-m", "pip", "list"], tmp_path, environment).count("decoupled-kit") == 1
    run([fresh, "-m", "pip", "uninstall", "--yes", "decoupled-kit"], tmp_path, environment)


@pytest.mark.slow
def test_the_wheel_works_from_an_empty_folder(source, fresh, environment, tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path / "dist", source]
    run(build, tmp_path, environment)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"kit/py.typed", "lessons/measured/accuracy.csv", "lessons/notebooks/10_your_own.ipynb"} <= set(names)
    assert {re.match(r"[\w-]+", name)[0].split("-")[0] for name in names} == {"kit", "lessons", "decoupled_kit"}
    empty = tmp_path / "empty"
    empty.mkdir()
    run([fresh, "-m", "pip", "install", "--no-deps", wheel], empty, environment)
    assert "notebooks are in mine" in run([fresh, "-m", "lessons", "copy", "mine"], empty, environment)
    assert (empty / "mine/06_local_losses_and_context.ipynb").exists()
    readme = (ROOT / "README.md").read_text().partition("## Your own")[2]
    examples = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[:3]
    assert all(len(example.splitlines()) < 10 for example in examples)
    (empty / "own.py").write_text("\n".join([OWN, *examples]))
    said = run([fresh, "own.py"], empty, environment)
    assert len(re.findall(r"^(bp|greedy) \{'epoch'", said, re.MULTILINE)) == 6
    measured = "from lessons.shipped import shipped; print((shipped('measured') / 'accuracy.csv').exists())"
    assert run([fresh, "-c", measured], empty, environment).strip() == "True"
