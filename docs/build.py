"""`python -m docs.build [--full]`: run the lessons where they have changed, write the pages that come from elsewhere in
the repository, build the site into docs/_build/html without a warning, and check that no link in it is broken.

Sphinx with myst-nb, since both come from PyPI alone: Jupyter Book 2 is built by mystmd, which fetches node.
"""

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pandas as pd

from kit.notebook import run_notebook

DOCS = Path(__file__).parent
ROOT = DOCS.parent
LESSONS, PAGES, SITE = DOCS / "lessons", DOCS / "tables", DOCS / "_build/html"
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
QUICK = (
    "*This page was made by a quick run, which shows what is done but not the numbers: where the text says what one "
    "should see, it speaks of the run in full.*"
)
LIVE = (
    "\n\n*Sliders move where the lesson runs: `make lab`, or the badges at its top. Here their picture stands still.*\n"
)


def run_lessons(full: bool) -> None:
    """Run every lesson into docs/lessons, unless it, the kit and the lessons are as they were at its last run."""
    LESSONS.mkdir(exist_ok=True)
    sources = sorted(p for folder in ("kit", "lessons") for p in (ROOT / folder).rglob("*.py"))
    code = b"".join(p.read_bytes() for p in sources)
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        key = hashlib.blake2b(code + notebook.read_bytes() + bytes([full]), digest_size=8).hexdigest()
        out, stamp = LESSONS / notebook.name, LESSONS / f"{notebook.stem}.key"
        if out.exists() and stamp.exists() and stamp.read_text() == key:
            continue
        print(f"running {notebook.stem}", flush=True)
        run_notebook(notebook, out, {"output": f"runs/docs/{notebook.stem}", "quick": not full})
        if not full:
            shown = nbformat.read(out, 4)
            shown.cells.insert(1, nbformat.v4.new_markdown_cell(QUICK))
            nbformat.write(shown, out)
        stamp.write_text(key)


def write_pages() -> None:
    """Write the pages that are files of the repository: their links lead to the repository's host."""
    PAGES.mkdir(exist_ok=True)
    readme = (ROOT / "README.md").read_text()
    methods = readme[readme.index("## Methods") : readme.index("## Notebooks")]
    (PAGES / "methods.md").write_text(linked("#" + methods[1:].removeprefix("#"), ""))
    plan = (ROOT / "notebooks/README.md").read_text()
    (PAGES / "lesson_plan.md").write_text(linked(plan.replace("# Notebooks", "# Lesson plan", 1), "notebooks/") + LIVE)
    (PAGES / "contributing.md").write_text(linked((ROOT / "CONTRIBUTING.md").read_text(), ""))
    (PAGES / "changes.md").write_text(linked((ROOT / "CHANGELOG.md").read_text(), ""))
    (PAGES / "conformance.md").write_text(linked((ROOT / "workflow/conformance.md").read_text(), "workflow/"))
    (PAGES / "results.md").write_text("\n\n".join(results()))


def results() -> Iterator[str]:
    """Give the page of what was measured: the tables as they are stored, a heading each."""
    yield "# Results\n\nWritten from the tables in `workflow/measured` and `benchmarks/results`."
    for path in sorted((ROOT / "workflow/measured").glob("*/*.csv")):
        yield f"## {path.parent.name}, {path.stem}\n\n{table(pd.read_csv(path))}"
    for path in sorted((ROOT / "benchmarks/results").glob("*.csv")):
        yield f"## {path.stem}\n\n{table(pd.read_csv(path))}"
    for path in sorted((ROOT / "benchmarks/results").glob("*.json")):
        measured = json.loads(path.read_text())
        if rows := measured.get("rows"):
            yield f"## {path.stem}\n\n{measured['machine']}\n\n{table(pd.DataFrame(rows))}"


def table(frame: pd.DataFrame) -> str:
    """Return `frame` in Markdown, numbers to four digits, and of several seeds the mean, deviation and count."""
    if "seed" in frame:
        values = [name for name in ("value", "error", "best_exit_error", "last", "best") if name in frame]
        same = [name for name in frame if name not in ("seed", "best_exit", *values)]
        frame = frame.groupby(same, dropna=False, sort=False)[values].agg(["mean", "std", "count"]).reset_index()
        frame.columns = [" ".join(filter(None, name)) for name in frame.columns]
    lines = [list(frame.columns), ["---"] * frame.shape[1], *frame.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}" if abs(value) < 1e6 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")


def linked(markdown: str, folder: str) -> str:
    """Return Markdown of the repository's `folder` with pictures from there, and links that lead to its host."""

    def moved(found: re.Match) -> str:
        picture, text, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found.group()
        return f"{picture}[{text}]({'../../' if picture else f'{REPOSITORY}/blob/main/'}{folder}{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", moved, markdown)


class Links(HTMLParser):
    """The targets and the places of one page."""

    def __init__(self, page: Path):
        super().__init__()
        self.targets, self.places = [], set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attributes: list) -> None:
        given = dict(attributes)
        self.places |= {given.get("id"), given.get("name")}
        self.targets += [given[name] for name in ("href", "src") if given.get(name)]


def broken_links(site: Path) -> list[str]:
    """Return every link inside the site that leads nowhere, with the page that it is on."""
    pages = {page.resolve(): Links(page) for page in site.rglob("*.html")}
    faults = []
    for page, links in pages.items():
        for target in links.targets:
            path, _, place = target.partition("#")
            if re.match(r"[a-z]+:|//", target) or path.startswith("genindex") and not path.endswith(".html"):
                continue
            file = (page.parent / unquote(path.partition("?")[0])).resolve() if path else page
            lost = file in pages and place and unquote(place) not in pages[file].places
            if not file.exists() or lost:
                faults.append(f"{page.relative_to(site.resolve())}: {target}")
    return faults


def main() -> int:
    run_lessons("--full" in sys.argv)
    write_pages()
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(SITE)]
    if code := subprocess.run(command, cwd=ROOT).returncode:
        return code
    if faults := broken_links(SITE):
        print("broken links:", *faults, sep="\n", file=sys.stderr)
        return 1
    print(f"the site is {SITE}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
