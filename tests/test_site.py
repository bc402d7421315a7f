"""What the site is made of: its pages and links. Building it is `make docs`, looking at it `python -m docs.look`."""

import re
from pathlib import Path

import pandas as pd
import pytest

from docs import build

ROOT = Path(__file__).parent.parent


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "one.html").write_text(
        '<h1 id="top">1</h1><a href="two.html#here">2</a><a href="https://x.org/no">x</a>'
    )
    (tmp_path / "two.html").write_text('<p id="here"></p><a href="one.html#top">1</a><img src="lost%20one.png">')
    assert build.broken_links(tmp_path) == ["two.html: lost%20one.png"]
    (tmp_path / "two.html").write_text('<a href="one.html#gone">1</a><a href="three.html">3</a>')
    faults = build.broken_links(tmp_path)
    assert sorted(faults) == ["one.html: two.html#here", "two.html: one.html#gone", "two.html: three.html"]


def test_links_of_the_repositorys_pages():
    text = "[a](../README.md) [b](https://x.org) [c](#here) ![d](figures/d.png)"
    moved = build.linked(text, "notebooks/")
    assert moved == f"[a]({build.REPOSITORY}/blob/main/notebooks/../README.md) [b](https://x.org) [c](#here) " + (
        "![d](../../notebooks/figures/d.png)"
    )


def test_tables_of_several_seeds_say_mean_and_count():
    runs = pd.DataFrame({"method": ["bp", "bp", "a|b"], "seed": [0, 1, 0], "error": [0.2, 0.3, None]})
    lines = build.table(runs).splitlines()
    assert lines[0] == "| method | error mean | error std | error count |"
    assert lines[2:] == ["| bp | 0.25 | 0.07071 | 2 |", "| a\\|b |  |  | 0 |"]


def test_every_measured_table_is_a_page_of_results():
    page = "\n".join(build.results())
    for path in (ROOT / "workflow/measured").glob("*/*.csv"):
        assert f"## {path.parent.name}, {path.stem}" in page
    for path in (ROOT / "benchmarks/results").glob("*.*"):
        assert f"## {path.stem}\n" in page


@pytest.mark.parametrize("folder", ["lessons", "howto"])
def test_the_index_takes_whatever_pages_there_are(folder):
    tree = next(part for part in (ROOT / "docs/index.md").read_text().split("```{toctree}") if f"{folder}/*" in part)
    assert ":glob:" in tree and not re.search(rf"{folder}/\d", tree)
