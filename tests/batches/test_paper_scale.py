"""The paper-scale experiments start: a cell of each, cut to one epoch, on tiny files in the dataset's own format.

The notebook's cells run in this process: seven kernels would take most of a minute to start.
"""

import hashlib
import json
import pickle

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torchvision import datasets

from kit.parameters import check_values, read_parameters
from kit.train import checkpoint
from tests.data.test_text_data import PUBLISHED, published
from workflow.experiment import read
from workflow.schema import ROOT

NOTEBOOK = ROOT / "notebooks/one_run.ipynb"
RNG = np.random.default_rng(0)


def cifar(root, monkeypatch, cls, num_classes, key):
    folder = root / cls.base_folder
    folder.mkdir(parents=True)
    for name, count in (("train", 4 * num_classes), ("test", num_classes)):
        images = RNG.integers(0, 256, (count, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": images, key: [i % num_classes for i in range(count)]}))
    meta = folder / cls.meta["filename"]
    meta.write_bytes(pickle.dumps({cls.meta["key"]: [f"class {i}" for i in range(num_classes)]}))
    digest = {path: hashlib.md5(path.read_bytes()).hexdigest() for path in (folder / "train", folder / "test", meta)}
    monkeypatch.setattr(cls, "train_list", [["train", digest[folder / "train"]]])
    monkeypatch.setattr(cls, "test_list", [["test", digest[folder / "test"]]])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": digest[meta]})


def tiny_imagenet(root):
    base, lines = root / "tiny-imagenet-200", []
    for number in range(10):
        wnid = f"n{number:02d}"
        (base / f"train/{wnid}/images").mkdir(parents=True)
        for i in range(4):
            image = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
            image.save(base / f"train/{wnid}/images/{wnid}_{i}.JPEG")
        (base / "val/images").mkdir(parents=True, exist_ok=True)
        image.save(base / f"val/images/val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62")
    (base / "val/val_annotations.txt").write_text("\n".join(lines) + "\n")
    (base / "wnids.txt").write_text("\n".join(f"n{number:02d}" for number in range(10)) + "\n")


@pytest.fixture
def root(tmp_path, monkeypatch):
    cifar(tmp_path, monkeypatch, datasets.CIFAR10, 10, "labels")
    cifar(tmp_path, monkeypatch, datasets.CIFAR100, 100, "fine_labels")
    tiny_imagenet(tmp_path)
    for name in PUBLISHED:
        published(tmp_path, name)
    return tmp_path


def run(parameters):
    """Run the notebook's code with these parameters, as papermill would."""
    values = check_values(parameters, read_parameters(NOTEBOOK))
    names = {"display": lambda *_: None}
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, "one_run", "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= values


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("deinforeg_cifar10", {"case": "DeInfoReg", "backbone": "vgg-paper", "noise_rate": 0.4}),
        ("deinforeg_cifar100", {"case": "DeInfoReg", "backbone": "vgg-paper", "noise_rate": 0.0}),
        ("deinforeg_tiny_imagenet", {"case": "SCPL", "backbone": "vgg-paper", "noise_rate": 0.2}),
        ("infopro_table2", {"case": "InfoPro, contrast", "backbone": "resnet32", "num_blocks": 4}),
        ("infopro_table3", {"case": "InfoPro, balanced", "num_blocks": 2, "dataset": "cifar10"}),
        ("deinforeg_cifar10", {"case": "AL", "backbone": "vgg-paper", "noise_rate": 0.2}),
        ("contsup_table1", {"case": "contrast", "backbone": "resnet32", "num_blocks": 4, "context": "R1E"}),
        ("deinforeg_imdb", {"case": "DeInfoReg", "backbone": "lstm", "noise_rate": 0.2}),
        ("deinforeg_agnews", {"case": "AL", "backbone": "lstm", "noise_rate": 0.0}),
        ("deinforeg_dbpedia", {"case": "SCPL", "backbone": "transformer", "noise_rate": 0.4}),
        ("fdg_table", {"case": "DGL", "backbone": "resnet56"}),
        ("fdg_table", {"case": "FDG, β = 0.2", "backbone": "resnet20"}),
    ],
)
def test_a_cell_starts(name, wanted, root, tmp_path):
    cells = read(name).cells().values()
    cell = next(c for c in cells if wanted.items() <= (c["parameters"] | {"case": c["case"]}).items())
    limit = 200 if name == "deinforeg_cifar100" else 40
    small = {"root": str(root), "limit": limit, "quick": True, "figure": False, "output": str(tmp_path / "out")}
    run(cell["parameters"] | small | {"val_fraction": 0.5, "device": "cpu"})
    table = pd.read_parquet(tmp_path / "out/result.parquet")
    exits = cell["parameters"]["num_blocks"]
    assert set(table.query("metric == 'accuracy' and split == 'test'")["block"]) == set(range(1, exits + 1))
    assert ("peak_bytes" in set(table["metric"])) == (name == "infopro_table3")
    assert ("noise_realised" in set(table["metric"])) == name.startswith("deinforeg")
    assert checkpoint.latest(tmp_path / "out")
    recorded = json.loads((tmp_path / "out/config.json").read_text())["config"]
    changed = {"limit", "val_fraction", "epochs", "warmup_epochs", "batch_size", "width", "options", "device"}
    for setting, value in cell["parameters"].items():
        if setting.endswith("options"):  # texts there, values here
            named = {item.partition("=")[0] for item in value}
            assert named <= recorded[setting].keys() and len(named) == len(value)
        elif setting in recorded and setting not in changed:
            assert recorded[setting] in (value, value[0] if isinstance(value, list) else value), setting
