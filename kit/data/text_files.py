"""Datasets of texts: IMDB, AG News and DBpedia, Python's own standard library, and one's own files."""

import ast
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kit.data.stratified import stratified
from kit.errors import unknown
from kit.seeds import generator


@dataclass(frozen=True, eq=False, repr=False)
class Texts:
    """Texts by field, such as title and body: lists of equal length; an index (N,) int64 gives the Texts of many."""

    fields: dict[str, list[str]]
    groups: list[int] | None = None
    """The number of the file that each came from, where those of one file are not to be in two splits."""

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def __getitem__(self, index: Tensor) -> "Texts":
        rows = index.tolist()
        groups = self.groups and [self.groups[row] for row in rows]
        return Texts({name: [texts[row] for row in rows] for name, texts in self.fields.items()}, groups)


PUBLISHED = {  # name: its name on the hub, fields, classes, and where the labels of its CSV begin
    "imdb": ("stanfordnlp/imdb", ("text",), ("negative", "positive"), 0),
    "ag-news": ("fancyzhx/ag_news", ("title", "description"), ("World", "Sports", "Business", "Sci/Tech"), 1),
    "dbpedia": ("fancyzhx/dbpedia_14", ("title", "content"), (
        "Company", "EducationalInstitution", "Artist", "Athlete", "OfficeHolder", "MeanOfTransportation", "Building",
        "NaturalPlace", "Village", "Animal", "Plant", "Album", "Film", "WrittenWork"), 1),
}  # fmt: skip


def read_published(name: str, root: Path, download: bool) -> tuple:
    """Read imdb, ag-news or dbpedia from `root`/NAME, or else from Hugging Face's cache, or with `download` its hub.

    The folder holds train.csv and test.csv as published (label, fields, no header), or folders train/CLASS and
    test/CLASS of text files, or what `datasets` saved. Raises FileNotFoundError with the ways to get it.
    """
    hub, fields, classes, first = PUBLISHED[name]
    folder = root / name
    if (folder / "train.csv").is_file() and (folder / "test.csv").is_file():
        return *(_read_csv(folder / f"{part}.csv", fields, classes, first) for part in ("train", "test")), classes
    if (folder / "train").is_dir() and (folder / "test").is_dir() and not (folder / "dataset_dict.json").is_file():
        short = {"negative": "neg", "positive": "pos"}
        folders = [short.get(c, c) if (folder / "train" / short.get(c, c)).is_dir() else c for c in classes]
        return *(_read_folders(folder / part, folders) for part in ("train", "test")), classes
    parts = _from_hub(name, hub, folder, download)
    columns = {name: name if name in parts["train"].column_names else "text" for name in fields}
    columns = columns if len(set(columns.values())) == len(fields) else {"text": "text"}  # the hub joins AG News's
    return *(
        (Texts({f: list(parts[p][c]) for f, c in columns.items()}), torch.tensor(parts[p]["label"]))
        for p in ("train", "test")
    ), classes


def _from_hub(name: str, hub: str, folder: Path, download: bool):
    ways = f"put train.csv and test.csv into {folder}, or what datasets.load_dataset({hub!r}).save_to_disk(…) saves"
    try:
        import datasets
    except ImportError as error:
        raise FileNotFoundError(f"{name}: {folder} not found; {ways}, or `pip install datasets`") from error
    if (folder / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(folder))
    try:
        return datasets.load_dataset(hub, download_config=datasets.DownloadConfig(local_files_only=not download))
    except Exception as error:  # whatever its network layer raises
        how = f"{ways}, or run `python -m kit.data {name}` where there is a network"
        raise FileNotFoundError(f"{name}: neither in {folder} nor in the cache of `datasets`; {how}") from error


def _read_csv(file: Path, fields: Sequence[str], classes: Sequence[str], first: int) -> tuple[Texts, Tensor]:
    import csv

    labels, columns = [], [[] for _ in fields]
    for number, row in enumerate(csv.reader(_lines(file)), 1):
        where = f"{file}, row {number}"
        if len(row) != len(fields) + 1:
            raise ValueError(
                f"{where} has {len(row)} columns, but there are {len(fields) + 1}: label, {', '.join(fields)}"
            )
        last = first + len(classes) - 1
        if not row[0].isdecimal() or not first <= int(row[0]) <= last:
            raise ValueError(f"{where}: label {row[0]!r}, but labels are {first} to {last}")
        labels.append(int(row[0]) - first)
        for column, text in zip(columns, row[1:], strict=True):
            column.append(text)
    return Texts(dict(zip(fields, columns, strict=True))), torch.tensor(labels, dtype=torch.int64)


def _lines(file: Path) -> Iterator[str]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"{file}, line {number} is not UTF-8 ({error}): convert the file") from None


def _read_folders(base: Path, classes: Sequence[str]) -> tuple[Texts, Tensor]:
    texts, labels = [], []
    for number, name in enumerate(classes):
        if not (files := sorted((base / name).rglob("*.txt"))):
            raise FileNotFoundError(f"{base / name} holds no .txt file: a folder per class holds a file per text")
        texts += ["".join(_lines(file)) for file in files]
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
        raise FileNotFoundError(f"stdlib: {base} holds the source of {len(classes)} packages only: take another Python")
    found = {name: list(_functions(base / name)) for name in classes}
    least, rows, groups = min(map(len, found.values())), [], []
    for number, (name, functions) in enumerate(found.items()):
        for k in torch.randperm(len(functions), generator=generator("stdlib", name))[:least].tolist():
            file, *texts = functions[k]
            rows.append((number, *texts))
            groups.append(f"{name}/{file}")
    labels, docs, bodies = zip(*rows, strict=True)
    names = {name: k for k, name in enumerate(dict.fromkeys(groups))}
    texts, y = Texts({"doc": [*docs], "body": [*bodies]}, [names[name] for name in groups]), torch.tensor(labels)
    test, train = apart(y, texts.groups, len(y) // 5, generator("stdlib", "test"))
    return (texts[train], y[train]), (texts[test], y[test]), classes


def _functions(package: Path) -> Iterator[tuple[str, str, str]]:
    """Yield file, doc string and body of each function and method of three lines or more, in order of names."""
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        if "test/" in name or "tests/" in name:
            continue
        with tokenize.open(file) as source:  # in the encoding that it declares
            lines = source.read().splitlines()
        tree = ast.parse("\n".join(lines))
        for owner in ast.walk(tree):
            for node in owner.body if isinstance(owner, ast.Module | ast.ClassDef) else ():
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno > 2:
                    doc = ast.get_docstring(node) or ""
                    start = node.body[0].end_lineno if doc else node.lineno - 1
                    yield name, doc, "\n".join(lines[start : node.end_lineno])


def apart(labels: Tensor, groups: Sequence[int], count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the rows of about `count` samples, whole groups of each class, and those of the rest."""
    groups, chosen = torch.as_tensor(groups), torch.zeros(len(labels), dtype=torch.bool)
    share = count / len(labels)
    for label in labels.unique():
        own, sizes = groups[labels == label].unique(return_counts=True)
        wanted, taken = share * int(sizes.sum()), 0
        for k in torch.randperm(len(own), generator=draw).tolist():
            if taken < wanted and (taken + int(sizes[k]) < 2 * wanted or k == int(sizes.argmin())):
                chosen |= (groups == own[k]) & (labels == label)
                taken += int(sizes[k])
    return chosen.nonzero().squeeze(1), (~chosen).nonzero().squeeze(1)


def read_texts(path: str, image_size: int | None, root: Path, download: bool) -> tuple:
    """Read one's own texts: a folder per class of .txt files, or a CSV or Parquet file of texts with a column `label`.

    The label may be another column, named as `FILE#COLUMN`; all others are fields. A fixed fifth is the test split.
    Raises FileNotFoundError and ValueError naming what is missing, and where.
    """
    import pandas as pd

    name, _, label = path.partition("#")
    file, label = Path(name).expanduser(), label or "label"
    if file.is_dir():
        classes = tuple(sorted(f.name for f in file.iterdir() if f.is_dir()))
        texts, y = _read_folders(file, classes) if len(classes) > 1 else (Texts({"text": []}), torch.zeros(0).long())
    elif file.is_file():
        table = (
            pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(_Stream(file), keep_default_na=False)
        )
        if label not in table:
            raise ValueError(f"{file}: {unknown('label column', label, table.columns)}; name it as text:{name}#COLUMN")
        if len(missing := table.index[table.isna().any(axis=1) | (table[label].astype(str) == "")]):
            raise ValueError(f"{file}, row {missing[0] + 1} lacks its label or a text; {len(missing)} rows do")
        y, names = pd.factorize(table[label].astype(str), sort=True)
        texts = Texts({str(c): table[c].astype(str).tolist() for c in table if c != label} or {"text": []})
        classes, y = tuple(names), torch.from_numpy(y)
    else:
        raise FileNotFoundError(f"{file} is not there: text:PATH takes a CSV or Parquet file, or a folder of folders")
    if len(classes) < 2 or len(texts) < len(y):
        raise ValueError(
            f"{file} has {len(classes)} classes and {len(texts)} texts: 2 classes and a text each are needed"
        )
    test, train = stratified(y, max(1, len(y) // 5), generator("own", "test"), proportional=True)
    return (texts[train], y[train]), (texts[test], y[test]), classes


class _Stream:
    """A file that pandas reads line by line, each checked to be UTF-8."""

    def __init__(self, file: Path):
        self.lines = _lines(file)

    def __iter__(self) -> Iterator[str]:
        return self.lines

    def read(self, size: int = -1) -> str:
        return next(self.lines, "")


TEXT_DATASETS = {name: (partial(read_published, name), "none") for name in PUBLISHED} | {
    "stdlib": (read_stdlib, "none")
}
