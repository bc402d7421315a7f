"""Write `conformance.md`: what each paper published, what its experiment here does, and the test that holds it.

    python -m workflow.conformance

What stands under "here" is read from the experiment files, cell by cell, so the page cannot say something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import yaml

from kit.files import atomic
from workflow.experiment import read
from workflow.schema import ROOT

PAGE = ROOT / "workflow" / "conformance.md"
PAPERS = yaml.safe_load(PAGE.with_suffix(".yaml").read_text(encoding="utf-8"))["papers"]
"""By paper, the `cell` that runs it (experiment, case, values), and `points`: what is published, here, and the test.
"""


def main() -> None:
    with atomic(PAGE) as draft:
        draft.write_text(page())
    print(f"written to {PAGE}")


def page() -> str:
    """Return the page: for each paper a table of points."""
    lines = ["# Conformance", "", "Written by `python -m workflow.conformance` from the experiment files.", ""]
    for title, paper in PAPERS.items():
        parameters = cell(**paper["cell"])
        lines += [f"## {title}", "", "`{experiment}`, {case}".format(**paper["cell"]), ""]
        lines += ["| point | published | here | test |", "|---|---|---|---|"]
        for point in paper["points"]:
            here = "; ".join(said(parameters, point["here"]))
            lines.append(f"| {point['point']} | {point['published']} | {here} | `{point['test']}` |")
        lines.append("")
    return "\n".join(lines)


def cell(experiment: str, case: str, values: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters of the experiment's first cell of that case with these values."""
    cells = read(experiment, checked=True).cells().values()
    return next(c["parameters"] for c in cells if c["case"] == case and values.items() <= c["parameters"].items())


def said(parameters: Mapping[str, object], names: Sequence) -> Iterator[str]:
    """Give the value of each parameter in words; a list among the names stands for its own."""
    for name in names:
        if isinstance(name, list):
            yield from said(parameters, name)
        elif isinstance(value := parameters[name], list):
            yield ", ".join(map(str, value)) or f"{name} "
        else:
            yield f"{name} {value}"


if __name__ == "__main__":
    main()
