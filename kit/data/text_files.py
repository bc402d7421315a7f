"""Datasets of texts: IMDB, AG News and DBpedia, Python's own standard library, and one's own files."""

import ast
import csv
import io
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kit.data.stratified import apart
from kit.files import visible
from kit.seeds import generator


@dataclass(frozen=True, eq=False, repr=False)
class Texts:
    """Texts by field, such as title and body: lists of equal length; an index (N,) int64 gives the Texts of many."""

    fields: dict[str, list[str]]
    groups: list[str] | None = None
    """The file that each came from, where those of one file are not to be in two splits."""

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def __getitem__(self, index: Tensor) -> "Texts":
        rows = index.tolist()
        groups = self.groups and [self.groups[row] for row in rows]
        return Texts({name: [texts[row] for row in rows] for name, texts in self.fields.items()}, groups)


PUBLISHED = {  # name: that on the hub; fields; classes; the label of the first
    "imdb": ("stanfordnlp/imdb", ("text",), ("neg", "pos"), 0),
    "ag-news": ("fancyzhx/ag_news", ("title", "description"), ("World", "Sports", "Business", "Sci/Tech"), 1),
    "dbpedia": ("fancyzhx/dbpedia_14", ("title", "content"), (
        "Company", "EducationalInstitution", "Artist", "Athlete", "OfficeHolder", "MeanOfTransportation", "Building",
        "NaturalPlace", "Village", "Animal", "Plant", "Album", "Film", "WrittenWork"), 1),
}  # fmt: skip


def read_published(name: str, root: Path, download: bool) -> tuple:
    """Read imdb, ag-news or dbpedia from `root`/NAME, or else from the cache of `datasets`, or with `download` its hub.

    The folder holds train.csv and test.csv (label, fields, no header), or folders train/CLASS and test/CLASS of text
    files, or what `datasets` saved. Raises FileNotFoundError with the ways to get it, ValueError naming file and row.
    """
    hub, fields, classes, first = PUBLISHED[name]
    folder, parts = root / name, ("train", "test")
    if all((folder / f"{part}.csv").is_file() for part in parts):
        return *(_labelled(folder / f"{part}.csv", fields, classes, first) for part in parts), classes
    if all((folder / part / classes[0]).is_dir() for part in parts):
        return *(texts_in_folders(folder / part, classes) for part in parts), classes
    found, names = _from_hub(name, hub, folder, download), fields
    if not set(names) <= set(found["train"].column_names):
        names = ("text",)  # the hub joins AG News's
    texts = (Texts({field: [*found[part][field]] for field in names}) for part in parts)
    return *((own, torch.tensor(found[part]["label"])) for own, part in zip(texts, parts, strict=True)), classes


def _from_hub(name: str, hub: str, folder: Path, download: bool):
    ways = f"put train.csv and test.csv into {folder}, or what datasets.load_dataset({hub!r}).save_to_disk(…) saves"
    try:
        import datasets
    except ImportError as error:
        raise FileNotFoundError(f"{name}: {folder} not found; {ways}, or `pip install datasets`") from error
    try:
        if (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(hub, download_config=datasets.DownloadConfig(local_files_only=not download))
    except Exception as error:  # whatever its network layer raises
        how = f"{ways}, or run `python -m kit.data {name}` where there is a network"
        raise FileNotFoundError(f"{name}: neither in {folder} nor in the cache of `datasets`; {how}") from error


def _labelled(file: Path, fields: Sequence[str], classes: Sequence[str], first: int) -> tuple[Texts, Tensor]:
    table = text_table(file, ["label", *fields])
    known = {str(first + k): k for k in range(len(classes))}
    for row, label in enumerate(labels := table.pop("label"), 1):
        if label not in known:
            raise ValueError(f"{file}, row {row}: label {label!r}, but labels are {first} to {[*known][-1]}")
    return Texts(table), torch.tensor([known[label] for label in labels])


def text_table(file: Path, names: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Return the columns of a CSV or Parquet file, which its first row names unless `names` do, as texts.

    Raises ValueError naming the line that is not UTF-8, and the row that has other columns or lacks one.
    """
    if file.suffix == ".parquet":
        import pandas as pd

        rows = pd.read_parquet(file)
        if len(missing := rows.index[rows.isna().any(axis=1)]):
            raise ValueError(f"{file}, row {missing[0] + 1} lacks a label or a text, as do {len(missing)} rows in all")
        return {str(name): rows[name].astype(str).tolist() for name in rows}
    text = utf8_text(file)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter="," if names else delimiter(text))
        table = [row for row in rows if row]
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{file} is no CSV file: {error}") from error
    names = names or (table.pop(0) if table else [])
    for number, row in enumerate(table, 1):
        if len(row) != len(names):
            raise ValueError(f"{file}, row {number} has {len(row)} columns, but there are {len(names)}: {list(names)}")
    if not table:
        raise ValueError(f"{file} has no rows")
    return dict(zip(names, map(list, zip(*table, strict=True)), strict=True))


def utf8_text(file: Path) -> str:
    """Return the text of a file; ValueError names the line that is not UTF-8."""
    for number, line in enumerate(content := file.read_bytes().splitlines(keepends=True), 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}, line {number} is not UTF-8 ({error}): convert the file") from None
    return b"".join(content).decode("utf-8-sig")


def delimiter(text: str) -> str:
    """Return what parts the columns that a table's first line names: comma, semicolon or tab, as spreadsheets write.

    Raises ValueError for a column without a name: row numbers, as pandas writes them, tell the label of sorted rows.
    """
    header = text.partition("\n")[0].rstrip("\r")
    found = max(",;\t", key=header.count)
    if "" in next(csv.reader([header], delimiter=found), ()):
        raise ValueError("a column has no name (is it row numbers? index=False): name it or leave it out")
    return found


def texts_in_folders(base: Path, classes: Sequence[str]) -> tuple[Texts, Tensor]:
    """Return the texts of .txt files in a folder per class, and their labels."""
    texts, labels = [], []
    for number, name in enumerate(classes):
        if not (files := visible(base / name, "**/*.txt")):
            raise FileNotFoundError(f"{base / name} holds no .txt file: a folder per class holds a file per text")
        texts += map(utf8_text, files)
        labels += [number] * len(files)
    return Texts({"text": texts}), torch.tensor(labels)


STDLIB = ("asyncio", "email", "encodings", "http", "idlelib", "importlib", "logging", "multiprocessing", "tkinter",
          "unittest", "urllib", "xml")  # fmt: skip
"""Packages of Python's standard library with at least 150 functions in three files or more."""


def read_stdlib(root: Path, download: bool) -> tuple:
    """Read the functions of this Python's standard library, labelled by package: fields `doc` and `body`.

    Equally many of each package in STDLIB that is there; test functions are of other files than training ones.
    """
    base = Path(sysconfig.get_paths()["stdlib"])
    classes = tuple(name for name in STDLIB if (base / name / "__init__.py").is_file())
    if len(classes) < 10:
        raise FileNotFoundError(f"stdlib: {base} has the source of {len(classes)} packages only: take another Python")
    found = {name: list(_functions(base / name)) for name in classes}
    least, rows = min(map(len, found.values())), []
    for number, (name, functions) in enumerate(found.items()):
        chosen = torch.randperm(len(functions), generator=generator("stdlib", name))[:least]
        rows += [(number, *functions[k]) for k in chosen.tolist()]
    labels, files, docs, bodies = zip(*rows, strict=True)
    texts, y = Texts({"doc": [*docs], "body": [*bodies]}, [*files]), torch.tensor(labels)
    test, train = apart(y, texts.groups, len(y) // 5, generator("stdlib", "test"))
    return (texts[train], y[train]), (texts[test], y[test]), classes


def _functions(package: Path) -> Iterator[tuple[str, str, str]]:
    """Yield file, doc string and body of each function and method of three lines or more, in order of names."""
    for file in sorted(package.rglob("*.py")):
        if {"test", "tests", "idle_test"} & {*file.relative_to(package).parts}:
            continue
        with tokenize.open(file) as source:  # in the encoding that it declares
            lines = source.read().splitlines()
        for owner in ast.walk(ast.parse("\n".join(lines))):
            for node in owner.body if isinstance(owner, ast.Module | ast.ClassDef) else ():
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno > 2:
                    doc = ast.get_docstring(node) or ""
                    start = node.body[0].end_lineno if doc else node.lineno - 1
                    yield str(file), doc, "\n".join(lines[start : node.end_lineno])


TEXT_DATASETS = {name: (partial(read_published, name), "none") for name in PUBLISHED}
TEXT_DATASETS["stdlib"] = read_stdlib, "none"
