"""Data of one's own: a folder of images, a table, arrays; cut, noised and viewed as named sets are."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import kit
from kit.data import Data, load_data
from kit.data.own import checked_pair

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path):
    """24 images a class, cats dark and dogs bright."""
    for name, level in (("cat", 60), ("dog", 190)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for k in range(24):
            pixels = RNG.integers(-40, 40, (8, 8, 3)) + level
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "pets" / name / f"{k:02}.png")
    return tmp_path / "pets"


@pytest.fixture
def table(tmp_path):
    y = np.arange(120) % 3
    rows = pd.DataFrame(
        RNG.normal(size=(120, 5)) + y[:, None], columns=[f"lab_{k}" for k in "abc"] + ["scan_a", "scan_b"]
    )
    rows["scan_a"] = 1000 + 50 * rows["scan_a"]
    rows.assign(label=[f"kind {k}" for k in y]).to_csv(tmp_path / "patients.csv", index=False)
    return tmp_path / "patients.csv"


def test_a_folder_per_class(folder):
    data = load_data(f"folder:{folder}", val_fraction=0.25)
    assert data.classes == ("cat", "dog") and data.shape == (3, 8, 8)
    assert [len(split) for split in data.splits.values()] == [30, 9, 9] or sum(map(len, data.splits.values())) == 48
    bright = data.train.images.float().mean((1, 2, 3)) > 125
    assert (bright == data.train.labels.bool()).all(), "every image has its folder's class"
    assert data.fingerprint() == load_data(f"folder:{folder}", val_fraction=0.25).fingerprint()
    noisy = load_data(f"folder:{folder}", noise="symmetric", noise_rate=0.5, limit=20)
    assert len(noisy.train) + len(noisy.val) == 20 and noisy.realised_noise()["train"] > 0


def test_what_systems_leave_in_folders_is_not_read(folder):
    """macOS, Windows and Jupyter put files and folders of their own beside one's images."""
    whole = load_data(f"folder:{folder}").fingerprint()
    for place in ("cat/.DS_Store", "dog/Thumbs.db", "cat/._00.png", ".ipynb_checkpoints/00.png", ".DS_Store",
                  "dog/.ipynb_checkpoints/00.png", "__MACOSX/cat/._00.png"):  # fmt: skip
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(b"no image")
    assert load_data(f"folder:{folder}").fingerprint() == whole


def test_train_and_test_folders_are_kept(folder, tmp_path):
    for part, names in (("train", range(20)), ("test", range(20, 24))):
        for kind in ("cat", "dog"):
            (tmp_path / "parted" / part / kind).mkdir(parents=True)
            for k in names:
                (folder / kind / f"{k:02}.png").rename(tmp_path / "parted" / part / kind / f"{k:02}.png")
    data = load_data(f"folder:{tmp_path / 'parted'}")
    assert len(data.test) == 8 and len(data.train) + len(data.val) == 40


def test_a_table_is_standardised_on_its_training_split(table):
    data = load_data(f"table:{table}")
    assert data.shape == (5,) and data.classes == ("kind 0", "kind 1", "kind 2")
    x, y = next(data.batches("train", 200))
    torch.testing.assert_close(x.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.denormalize(x), data.train.images, atol=1e-3, rtol=0)
    assert len(y) == len(data.train)


def test_a_tables_views_are_prefixes_of_its_columns(table):
    data = load_data(f"table:{table}", views=("lab", "scan"))
    batch, _ = next(data.batches("train", 16))
    whole, _ = next(load_data(f"table:{table}").batches("train", 16))
    assert data.shape == (3,) and torch.equal(batch["x"], whole[:, :3]) and torch.equal(batch["scan"], whole[:, 3:])
    with pytest.raises(ValueError, match="unknown view 'scans': did you mean 'scan'"):
        load_data(f"table:{table}", views=("scans",))


def test_another_column_may_be_the_label(table):
    rows = pd.read_csv(table).rename(columns={"label": "kind"})
    rows.to_parquet(table.with_suffix(".parquet"))
    assert load_data(f"table:{table.with_suffix('.parquet')}#kind").num_classes == 3


def test_arrays_are_data(table):
    x, y = RNG.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8), np.arange(60) % 3
    data = Data.of((x, y), classes=["a", "b", "c"], name="mine", limit=30, val_fraction=0.2)
    assert (data.name, data.classes, data.shape, len(data.test)) == ("mine", ("a", "b", "c"), (1, 8, 8), 12)
    assert len(data.train) == 24 and len(data.val) == 6
    given = Data.of(train=(x[:40], y[:40]), test=(x[40:], y[40:]), val=(x[:9], y[:9]))
    assert [len(split) for split in given.splits.values()] == [40, 9, 20] and given.num_classes == 3
    assert torch.equal(given.val.images, torch.from_numpy(x[:9]))
    assert Data.of((torch.randn(30, 4), torch.arange(30) % 2)).shape == (4,)
    frame = pd.DataFrame({"a": range(30), "b": 0.5, "y": [0, 1] * 15})
    assert Data.of((frame[["a", "b"]], frame["y"])).shape == (2,)
    with pytest.raises(ValueError, match="own, validation labels: 7 at position 2, but 3 classes"):
        Data.of((x, y), val=(x[:3], [0, 1, 7]), classes=["a", "b", "c"])


@pytest.mark.filterwarnings("error")
def test_arrays_that_cannot_be_written_are_copied(table):
    x, y = np.ones((20, 3)), np.arange(20) % 2
    x.flags.writeable = y.flags.writeable = False
    assert Data.of((x, y)).num_classes == 2 and load_data(f"table:{table}").num_classes == 3


@pytest.mark.parametrize("name", ["folder", "table"])
@pytest.mark.parametrize("method", ["bp", "greedy"])
def test_own_data_train_by_name(name, method, folder, table, tmp_path):
    source = {"folder": f"folder:{folder}", "table": f"table:{table}"}[name]
    config = kit.RunConfig(dataset=source, val_fraction=0.2, backbone="mlp", method=method, num_blocks=2, epochs=8,
                           batch_size=16, lr=5e-3, precision="fp32", output=tmp_path / "run")  # fmt: skip
    history = kit.run(config)
    assert history.last_exit("test")[-1] > 0.6
    assert ":" not in config.name.split("-")[0] and "/" not in config.name


def test_features_that_come_later_grow_on(table):
    config = kit.RunConfig(dataset=f"table:{table}", views=("lab", "scan"), val_fraction=0.2, backbone="mlp",
                           method="greedy", num_blocks=2, epochs=4, batch_size=16, precision="fp32", output=None,
                           grow={"at": [2], "side": "scan"})  # fmt: skip
    assert kit.run(config).accuracy("test").iloc[-1].notna().sum() == 2


# Bad input


def test_folders_that_cannot_be(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder: folder:PATH takes one with a folder"):
        load_data(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"none has to hold folders of at least 2 classes.* not \(\)"):
        load_data(f"folder:{tmp_path / 'none'}")
    (tmp_path / "none/cat").mkdir()
    with pytest.raises(ValueError, match=r"at least 2 classes.* not \('cat',\)"):
        load_data(f"folder:{tmp_path / 'none'}")
    (folder / "bird").mkdir()
    with pytest.raises(ValueError, match="bird holds no image: fill or remove it"):
        load_data(f"folder:{folder}")


def test_files_that_are_no_images_are_counted_and_named(folder):
    (folder / "cat/notes.txt").write_text("no image")
    (folder / "dog/00.png").write_bytes((folder / "dog/00.png").read_bytes()[:40])
    with pytest.raises(
        ValueError, match=r"2 of the 49 files in .*pets are no images; the first: .*cat/notes.txt is not"
    ):
        load_data(f"folder:{folder}")


def test_images_of_different_size_ask_for_one(folder):
    Image.new("RGB", (9, 12)).save(folder / "dog/30.png")
    with pytest.raises(ValueError, match=r"dog/30.png and .*cat/00.png differ in size: give image_size="):
        load_data(f"folder:{folder}")
    assert load_data(f"folder:{folder}", image_size=6).shape == (3, 6, 6)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_as_spreadsheets_write_them(delimiter, encoding, table, tmp_path):
    pd.read_csv(table).to_csv(tmp_path / "sheet.csv", sep=delimiter, encoding=encoding, index=False)
    assert torch.equal(
        load_data(f"table:{tmp_path / 'sheet.csv'}").train.images, load_data(f"table:{table}").train.images
    )


def test_tables_that_cannot_be(table, tmp_path):
    for content, message in [
        ("", "No columns"),
        ("label,a\n0,1\n1,2,3\n", ".*line 3"),
        (",label,a\n0,0,1\n1,1,2\n", "a column has no name .*row numbers"),
    ]:
        (tmp_path / "bad.csv").write_text(content)
        with pytest.raises(ValueError, match=f"bad.csv cannot be read as a table: {message}"):
            load_data(f"table:{tmp_path / 'bad.csv'}")
    rows = pd.read_csv(table)

    def refused(changed, message, name="bad.csv", column=""):
        changed.to_csv(tmp_path / name, index=False)
        with pytest.raises(ValueError, match=message):
            load_data(f"table:{tmp_path / name}{column}")

    refused(rows.rename(columns={"label": "labels"}), "unknown label column 'label': did you mean 'labels'")
    refused(rows, "unknown label column 'lable': did you mean 'label'", column="#lable")
    refused(rows.assign(city="Rome"), "column 'city' is no number, it begins with 'Rome': encode or drop it")
    refused(rows.mask(rows.index.to_series() == 4, other=np.nan), "bad.csv has missing values, by column {'lab_a': 1")
    refused(rows.assign(label="one"), "has 1 classes and 5 other columns: 2 and 1 are needed")
    with pytest.raises(FileNotFoundError, match="nothing.csv is not a file: table:FILE takes a CSV or Parquet file"):
        load_data(f"table:{tmp_path / 'nothing.csv'}")
    with pytest.raises(ValueError, match="augment='shift' is of images, and .* has rows of numbers"):
        load_data(f"table:{table}", augment="shift")
    with pytest.raises(ValueError, match="backbone='vgg-paper' reads images, and .* has rows of numbers: take mlp"):
        kit.run(kit.RunConfig(dataset=f"table:{table}", output=None))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (
            (np.zeros((4, 2)), np.eye(4)),
            r"train labels of shape \(4, 4\) and torch.float64 .* y.argmax\(1\) of one-hot rows",
        ),
        ((np.zeros((4, 2)), np.zeros(4)), r"train labels of shape \(4,\) and torch.float64"),
        ((np.zeros((4, 2)), np.zeros(3, dtype=int)), r"train labels of shape \(3,\) .* for 4 samples"),
        ((np.zeros((4, 1, 8, 8)), np.zeros(4, dtype=int)), r"torch.float64 of shape .* of uint8, 0 to 255"),
        ((np.zeros((2, 2)), ["cat", "dog"]), "train: .*numpy.str_.* class numbers as pandas.factorize makes"),
        ((np.full((4, 2), np.nan), np.zeros(4, dtype=int)), "row 0 has missing or infinite numbers"),
        ((np.zeros((0, 2)), np.zeros(0, dtype=int)), "train has no sample"),
        (np.zeros((4, 2)), r"train is a ndarray, but it has to be a pair \(x, y\)"),
    ],
)
def test_pairs_that_cannot_be(pair, message):
    with pytest.raises(ValueError, match=message):
        checked_pair(pair, "train")


def test_splits_that_do_not_fit():
    y = np.arange(20) % 2
    with pytest.raises(ValueError, match="samples differ in shape between the splits"):
        Data.of((np.zeros((20, 3)), y), (np.zeros((20, 4)), y))
    with pytest.raises(ValueError, match="own, training labels: 1 at position 0, but 1 classes are numbered 0 to 0"):
        Data.of((np.zeros((20, 3)), y), classes=["only"])
    with pytest.raises(ValueError, match="unknown setting 'limits': did you mean 'limit'"):
        Data.of((np.zeros((20, 3)), y), limits=3)


def test_unknown_kinds_name_those_there_are():
    with pytest.raises(ValueError, match="unknown dataset 'folders:/x'.*folder:PATH, table:PATH"):
        load_data("folders:/x")
    with pytest.raises(ValueError, match="unknown dataset 'folder:'"):
        load_data("folder:")
