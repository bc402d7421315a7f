"""Data of one's own: images or texts in a folder per class, tables, arrays; read as pairs (x, y) and checked."""

import io
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kit.data.image_files import read_image
from kit.data.readers import DATASETS
from kit.data.stratified import stratified
from kit.data.text_files import Texts, delimiter, text_table, texts_in_folders, utf8_text
from kit.errors import unknown
from kit.files import visible
from kit.losses import check_class_numbers
from kit.seeds import generator

Pair = tuple[Tensor | Texts, Tensor]


def known_dataset(name: str) -> str:
    """Return the name of a dataset, or a `KIND:PATH` of SOURCES; ValueError for any other."""
    kind, _, path = name.partition(":")
    if name not in DATASETS and not (path and kind in SOURCES):
        raise unknown("dataset", name, [*DATASETS, *(f"{kind}:PATH" for kind in SOURCES)])
    return name


def checked_pair(part: tuple[Any, Any], what: str) -> Pair:
    """Return (x, y) as tensors: x uint8 images (N, C, H, W) or float32 rows (N, F), y int64 (N,). Else ValueError."""
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise ValueError(f"{what} is a {type(part).__name__}, but it has to be a pair (x, y) of samples and labels")
    try:
        x, y = (v if isinstance(v, Tensor) else torch.tensor(np.asarray(v)) for v in part)  # a copy: may be read-only
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: {error}; give numbers, for labels class numbers as pandas.factorize makes") from None
    if not len(x):
        raise ValueError(f"{what} has no sample: at least one is needed")
    y = y if y.is_floating_point() or y.dtype == torch.bool else y.long()
    check_class_numbers(y, len(x), what=f"{what} labels")
    if (x.ndim, x.dtype) != (4, torch.uint8) and x.ndim != 2:
        kind = f"{x.dtype} of shape {tuple(x.shape)}"
        raise ValueError(f"{what} samples are {kind}, expected rows (N, F) or images (N, C, H, W) of uint8, 0 to 255")
    if x.ndim == 2 and not (x := x.float()).isfinite().all():
        raise ValueError(f"{what}: row {int((~x.isfinite()).any(1).nonzero()[0])} has missing or infinite numbers")
    return x, y


def set_aside(x: Any, y: Tensor) -> tuple[Pair, Pair]:
    """Return the data without a fixed, stratified fifth, and that fifth: the test split of data that have none."""
    test, train = stratified(y, max(1, len(y) // 5), generator("own", "test"), proportional=True)
    return (x[train], y[train]), (x[test], y[test])


def read_folder(path: str, image_size: int | None, root: Path, download: bool) -> tuple[Any, ...]:
    """Read RGB images from a folder per class, or from `train` and `test` with such folders each.

    Raises FileNotFoundError for a folder that is not there; ValueError for fewer than 2 classes, a class without a
    file, files that are no images (their number, and the first), and sizes that differ without `image_size`.
    """
    base = Path(path).expanduser()
    if not base.is_dir():
        raise FileNotFoundError(f"{base} is not a folder: folder:PATH takes one with a folder of images for each class")
    homes = [base / "train", base / "test"] if (base / "train").is_dir() and (base / "test").is_dir() else [base]
    classes, *others = [tuple(f.name for f in visible(home) if f.is_dir()) for home in homes]
    if len(classes) < 2 or others not in ([], [classes]):
        found = " and ".join(map(str, [classes, *others]))
        raise ValueError(f"{base} has to hold folders of at least 2 classes, the same for train and test, not {found}")
    parts = [_read_images(home, classes, image_size) for home in homes]
    return *(parts if others else set_aside(*parts[0])), classes


def _read_images(base: Path, classes: tuple[str, ...], size: int | None) -> Pair:
    from torchvision.transforms.functional import resize

    paths = [[p for p in visible(base / name, "**/*") if not p.is_dir()] for name in classes]
    if empty := [name for name, own in zip(classes, paths, strict=True) if not own]:
        raise ValueError(f"{base / empty[0]} holds no image: fill or remove it")
    images, faults, files = [], [], sum(paths, [])
    for path in files:
        try:
            images.append(read_image(path) if size is None else resize(read_image(path), [size, size], antialias=True))
        except ValueError as error:
            faults.append(error)
    if faults:
        raise ValueError(f"{len(faults)} of the {len(files)} files in {base} are no images; the first: {faults[0]}")
    if odd := next((p for p, image in zip(files, images, strict=True) if image.shape != images[0].shape), None):
        raise ValueError(f"{odd} and {files[0]} differ in size: give image_size=, to which all images are brought")
    return torch.stack(images), torch.arange(len(classes)).repeat_interleave(torch.tensor([*map(len, paths)]))


def read_table(path: str, image_size: int | None, root: Path, download: bool) -> tuple[Any, ...]:
    """Read a CSV or Parquet file of numbers with a column `label`, or another one named as `FILE#COLUMN`.

    Columns called PREFIX_… are a view PREFIX. Raises FileNotFoundError for a missing file; ValueError, with the name,
    for a label column that is not there, a column that is no number, and missing values.
    """
    import pandas as pd

    name, _, label = path.partition("#")
    file, label = Path(name).expanduser(), label or "label"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file: table:FILE takes a CSV or Parquet file")
    text = None if file.suffix == ".parquet" else utf8_text(file)
    try:
        rows = pd.read_parquet(file) if text is None else pd.read_csv(io.StringIO(text), sep=delimiter(text))
    except ValueError as error:
        raise ValueError(f"{file} cannot be read as a table: {error}") from error
    if label not in rows:
        raise ValueError(f"{file}: {unknown('label column', label, rows.columns)}; name it as table:{name}#COLUMN")
    if missing := {column: int(count) for column, count in rows.isna().sum().items() if count}:
        raise ValueError(f"{file} has missing values, by column {missing}: fill them in or leave those rows out")
    features, (y, classes) = rows.drop(columns=label), pd.factorize(rows[label], sort=True)
    for column, values in features.items():
        if not pd.api.types.is_numeric_dtype(values):
            raise ValueError(f"{file}: column {column!r} is no number, it begins with {values[0]!r}: encode or drop it")
    if len(classes) < 2 or features.empty:
        raise ValueError(f"{file} has {len(classes)} classes and {features.shape[1]} other columns: 2 and 1 are needed")
    prefixes = [str(column).partition("_")[0] for column in features]
    groups = {p: [k for k, own in enumerate(prefixes) if own == p] for p in dict.fromkeys(prefixes)}
    views = {p: itemgetter((slice(None), columns)) for p, columns in groups.items()}
    parts = set_aside(torch.tensor(features.to_numpy(np.float32)), torch.tensor(y))
    return *parts, tuple(map(str, classes)), views


def read_own_texts(path: str, image_size: int | None, root: Path, download: bool) -> tuple[Any, ...]:
    """Read one's own texts: a folder per class of .txt files, or a CSV or Parquet file of texts with a column `label`.

    The label may be another column, named as `FILE#COLUMN`; all others are fields. A fixed fifth is the test split.
    Raises FileNotFoundError and ValueError naming what is missing, and where.
    """
    name, _, label = path.partition("#")
    file, label = Path(name).expanduser(), label or "label"
    if file.is_dir():
        classes = [f.name for f in visible(file) if f.is_dir()]
        texts, y = texts_in_folders(file, classes) if classes else (Texts({"text": []}), torch.zeros(0).long())
    elif file.is_file():
        table = text_table(file)
        if label not in table:
            raise ValueError(f"{file}: {unknown('label column', label, table)}; name it as text:{name}#COLUMN")
        classes = sorted({*(labels := table.pop(label))})
        y, texts = torch.tensor([*map(classes.index, labels)]), Texts(table or {"text": []})
    else:
        raise FileNotFoundError(f"{file} is not there: text:PATH takes a CSV or Parquet file, or a folder of folders")
    if len(classes) < 2 or len(texts) < len(y) or "" in classes:
        raise ValueError(f"{file} has the classes {classes} and {len(texts)} texts: a text and one of 2 classes each")
    return *set_aside(texts, y), tuple(classes)


SOURCES = {"folder": read_folder, "table": read_table, "text": read_own_texts}
"""Kinds of one's own data, `KIND:PATH`, with their readers."""
