"""Settings of data: every value is checked once, when they are made."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from kit.data import DataSettings, load_data


class Folder:
    def __fspath__(self) -> str:
        return "elsewhere"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"dataset": "digist"}, "unknown dataset 'digist': did you mean 'digits'"),
        ({"dataset": None}, "dataset=None, but it has to be the name of a dataset"),
        ({"root": 3}, "root=3, but it has to be the path of a folder"),
        ({"root": None}, "root=None, but it has to be the path of a folder"),
        ({"image_size": 0}, "image_size=0, but it has to be a whole number of at least 1, or None"),
        ({"image_size": "32"}, "image_size='32', but it has to be a whole number of at least 1, or None"),
        ({"limit": True}, "limit=True, but it has to be a whole number of at least 1, or None"),
        ({"limit": 1e3}, "limit=1000.0, but it has to be a whole number of at least 1, or None"),
        ({"limit": 10**30}, "limit=10+, but it has to be a whole number of at least 1, or None"),
        ({"val_fraction": 1.0}, "val_fraction=1.0, but it has to be a fraction between 0 and 1"),
        ({"val_fraction": "0.1"}, "val_fraction='0.1', but it has to be a fraction between 0 and 1"),
        ({"val_fraction": float("nan")}, "val_fraction=nan, but it has to be a fraction between 0 and 1"),
        ({"data_seed": [1]}, r"data_seed=\[1\], but it has to be a whole number"),
        ({"data_seed": None}, "data_seed=None, but it has to be a whole number"),
        ({"augment": "crop-flop"}, "unknown augmentation 'crop-flop': did you mean 'crop-flip'"),
        ({"noise": "symetric"}, "unknown noise 'symetric': did you mean 'symmetric'"),
        ({"noise": 3}, "noise=3, but it has to be a text"),
        ({"noise_rate": "0.2"}, "noise_rate='0.2', but it has to be a number"),
        ({"noise": "symmetric", "noise_rate": 20}, "noise_rate=20, .* did you mean 0.2"),
        ({"noise_rate": 0.2}, "noise_rate=0.2 with noise='none' would change nothing"),
        ({"noisy_val": "False"}, "noisy_val='False', but it has to be True or False"),
        ({"views": "top"}, "views='top', but it has to be a list, each item the name of a view, or None"),
        ({"views": ["tpo"]}, "unknown view 'tpo': did you mean 'top'"),
        ({"views": ["top", "top"]}, r"views=\['top', 'top'\], but every view is named once"),
    ],
)
def test_refusals(setting, message):
    with pytest.raises(ValueError, match=message):
        DataSettings(**setting)
    setting = {
        "name" if name == "dataset" else "seed" if name == "data_seed" else name: setting[name] for name in setting
    }
    with pytest.raises(ValueError, match=message):
        load_data(**{"name": "digits", **setting})


def test_load_data_takes_the_settings_and_no_others():
    with pytest.raises(ValueError, match="unknown setting 'val_fractoin': did you mean 'val_fraction'"):
        load_data("digits", val_fractoin=0.2)
    labels = [load_data("digits", limit=50, **own).train.labels for own in ({"seed": 1}, {"data_seed": 1})]
    assert torch.equal(*labels)


def test_folders_are_texts_or_paths():
    for root in ("data", Path("data"), Folder()):
        assert os.fspath(DataSettings(root=root).root) == os.fspath(root)
        assert len(load_data("digits", root).train) == 1294


def test_a_settings_class_may_build_on_it():
    @dataclass(frozen=True, kw_only=True)
    class Settings(DataSettings):
        epochs: int = 10
        """Passes."""

    assert Settings(limit=100, epochs=3).limit == 100
    with pytest.raises(ValueError, match="epochs='3', but it has to be a whole number"):
        Settings(epochs="3")
    with pytest.raises(ValueError, match="noise_rate=0.2 with noise='none'"):
        Settings(noise_rate=0.2)
    assert load_data(Settings(limit=100, epochs=3)).origin == load_data("digits", limit=100).origin


def test_load_does_all_the_work_and_says_what_it_read(tmp_path):
    settings = DataSettings(
        root=tmp_path, limit=100, data_seed=3, augment="shift", noise="symmetric", noise_rate=0.5, views=("top", "left")
    )
    data = load_data(settings)
    whole = load_data("digits", limit=100, seed=3, noise="symmetric", noise_rate=0.5)
    assert torch.equal(data.train.labels, whole.train.labels) and torch.equal(data.train.images, whole.train.images)
    assert data.shape == (1, 4, 8) and data.view_shapes == {"left": (1, 8, 4)} and data.augmentation == "shift"
    assert data.origin == settings.data_identity() | {"fingerprint": data.fingerprint()}
    assert json.loads(json.dumps(data.origin)) == data.origin
    assert data.origin["views"] == ["top", "left"] and "root" not in data.origin
    shifted = next(whole.with_views("top", "left").batches("train", 8, epoch=0, augment="shift"))[0]
    assert torch.equal(next(data.batches("train", 8, epoch=0))[0]["x"], shifted["x"])
