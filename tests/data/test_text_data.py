"""Texts as data: readers of every format, vocabulary, fields and views, batches by length, word vectors."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from kit.data import load_data, text_files
from kit.data.text_files import PUBLISHED, Texts
from kit.data.tokens import SPLIT, encode, vocabulary, words_of
from tests.texts import TOPICS, write_table


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("texts") / "texts.csv")


@pytest.fixture(scope="module")
def stdlib():
    return load_data("stdlib", max_tokens=40)


def words(data, row):
    return " ".join(data.words[k] for k in row.tolist() if k)


def test_a_table_of_texts(table):
    data = load_data(f"text:{table}")
    assert (len(data.train), len(data.val), len(data.test)) == (173, 19, 48) and data.classes == tuple(TOPICS)
    raw = pd.read_csv(table)
    rows = {" ".join(words_of(a)) + " | " + " ".join(words_of(b)): c for a, b, c in raw.itertuples(index=False)}
    for split in data.splits.values():
        for row, label in zip(split.images, split.labels, strict=True):
            if "?" not in (text := words(data, row)):
                assert rows[text] == data.classes[label]
    assert data.fingerprint() == load_data(f"text:{table}").fingerprint() != load_data(
        f"text:{table}", vocabulary=20).fingerprint()  # fmt: skip
    assert load_data(f"text:{table}", vocabulary=20).words[3:] == data.words[3:23]


def test_the_vocabulary_is_of_the_training_split_only(table):
    data, few = load_data(f"text:{table}"), load_data(f"text:{table}", limit=6)
    seen = {data.words[k] for k in data.train.images.unique().tolist()}
    assert seen | {"?", "|"} == {*data.words}
    of_few = {few.words[k] for k in few.train.images.unique().tolist()}
    assert of_few | {"?", "|"} == {*few.words} and len(few.words) < len(data.words)
    assert (few.test.images == 1).any()  # words that only others have


def test_words_are_counted_ordered_and_cut():
    texts = Texts({"text": ["b a b C", "c, B! d"], "more": ["a", ""]})
    assert vocabulary(texts, 3) == ("", "?", "|", "b", "a", "c")
    rows = encode(texts, vocabulary(texts, 3), 6)
    assert rows.tolist() == [[3, 4, 3, 5, SPLIT, 4], [5, 3, 1, SPLIT, 0, 0]] and rows.dtype == torch.int32
    assert encode(texts, vocabulary(texts, 3), 2).tolist() == [[3, 4], [5, 3]]
    assert encode(Texts({"text": ["", "zz"]}), vocabulary(texts, 3), 4).tolist() == [[1], [1]]


def test_texts_that_say_nothing_are_counted_aloud(table, tmp_path):
    lines = table.read_text().splitlines()
    (tmp_path / "empty.csv").write_text(
        "\n".join([lines[0], *(f",,{line.rsplit(',', 1)[1]}" for line in lines[1:4]), *lines[1:]])
    )
    with pytest.warns(UserWarning, match=r"training: \d of 17\d texts hold no word|training: [123] of"):
        load_data(f"text:{tmp_path / 'empty.csv'}")


def test_views_are_words_and_fields(table):
    data = load_data(f"text:{table}", views=("whole", "first3", "after3", "title"))
    x, _ = next(data.batches("test", 16))
    for k, row in enumerate(x["x"]):
        whole = words(data, row).split()
        assert words(data, x["first3"][k]).split() == whole[:3]
        assert words(data, x["after3"][k]).split() == whole[3:]
        assert words(data, x["title"][k]) == words(data, row).split(" | ")[0]
    body = load_data(f"text:{table}", views=("title", "after40"))
    x, _ = next(body.batches("test", 16))
    assert x["x"].shape == (16, 2) and (x["after40"] == 1).all()  # nothing is one unknown word
    with pytest.raises(ValueError, match="unknown view 'titel': did you mean 'title'"):
        load_data(f"text:{table}", views=("titel",))
    with pytest.raises(ValueError, match="unknown view 'top'"):
        load_data(f"text:{table}", views=("top",))
    with pytest.raises(ValueError, match="unknown view 'first3'"):
        load_data("digits", views=("first3",))


def test_batches_are_of_similar_length_and_the_same_when_resumed(table):
    data = load_data(f"text:{table}")
    whole = list(data.batches("train", 16, epoch=3, seed=1))
    again = list(data.batches("train", 16, epoch=3, seed=1, start=5))
    assert all(
        torch.equal(a, b) for one, two in zip(whole[5:], again, strict=True) for a, b in zip(one, two, strict=True)
    )
    rows = [tuple(row[row != 0].tolist()) for x, _ in whole for row in x]
    assert sorted(rows) == sorted(tuple(row[row != 0].tolist()) for row in data.train.images)
    other = list(data.batches("train", 16, epoch=4, seed=1))
    assert [x.shape for x, _ in other] != [x.shape for x, _ in whole]
    in_order = torch.cat([y for _, y in data.batches("train", 16)])
    assert torch.equal(in_order, data.train.labels)
    assert all((x != 0).any(0).all() for x, _ in whole)  # trimmed
    bucketed = [float((x == 0).float().mean()) for x, _ in whole]
    plain = [float((x == 0).float().mean()) for x, _ in data.batches("train", 16)]
    assert sum(bucketed) < 0.5 * sum(plain)


def test_noise_and_limits_are_those_of_images(table):
    data = load_data(f"text:{table}", noise="symmetric", noise_rate=0.5, limit=60)
    assert (
        data.train.labels.bincount().tolist() == [18, 18, 18] or data.train.clean_labels.bincount().tolist() == [18] * 3
    )
    assert 0.15 < data.realised_noise()["train"] < 0.5
    with pytest.raises(ValueError, match="noise='instance' compares images"):
        load_data(f"text:{table}", noise="instance", noise_rate=0.5)
    with pytest.raises(ValueError, match="is of images, and .* has texts"):
        load_data(f"text:{table}", augment="shift")


def test_the_standard_library_is_parted_by_files(stdlib):
    assert len(stdlib.classes) >= 10
    everything = [split.clean_labels.bincount() for split in stdlib.splits.values()]
    assert len(sum(everything).unique()) == 1  # equally many of each
    assert all(counts.min() > 0 for counts in everything)


def test_no_source_file_is_in_two_splits(monkeypatch):
    (train, _), (test, _), classes = text_files.read_stdlib(Path(), False)
    assert not {*train.groups} & {*test.groups}
    found = []
    monkeypatch.setattr(
        "kit.data.splits.encode", lambda texts, *_: found.append(texts) or torch.ones(len(texts), 2).int()
    )
    load_data("stdlib")
    assert len(found) == 3 and not {*found[0].groups} & {*found[1].groups}
    assert sorted([*found[0].groups, *found[1].groups]) == sorted(train.groups) and found[2].groups == test.groups


def test_the_standard_library_is_read_in_one_order(stdlib):
    """Whatever the file system, and Python's hashes, say."""
    code = (
        "import pathlib, random; rglob = pathlib.Path.rglob;"
        "pathlib.Path.rglob = lambda *a: random.sample(found := list(rglob(*a)), len(found));"
        "import kit; print(kit.load_data('stdlib', max_tokens=40).fingerprint())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == stdlib.fingerprint()


def published(root, name):
    """Write a tiny dataset in its published CSV format; return its texts by split."""
    _, fields, classes, first = PUBLISHED[name]
    (root / name).mkdir(parents=True)
    for part in ("train", "test"):
        rows = [
            f'"{first + k % len(classes)}",'
            + ",".join(f'"{f} {part} ""{k}"" of\nclass{k % len(classes)}"' for f in fields)
            for k in range(8 * max(7, len(classes)))
        ]
        (root / name / f"{part}.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_csv_files(name, tmp_path):
    published(tmp_path, name)
    data = load_data(name, tmp_path, val_fraction=0.25)
    assert data.classes == PUBLISHED[name][2] and len(data.test) == 8 * max(7, len(data.classes))
    for row, label in zip(data.test.images, data.test.labels, strict=True):
        assert words(data, row).endswith(f"class{label}")
    assert data.known_views.keys() >= {*PUBLISHED[name][1]}
    file = tmp_path / name / "train.csv"
    good = file.read_bytes()
    for damage, message in [
        (good.replace(b" of", b" \xff", 1), r"train.csv, line 1 is not UTF-8"),
        (b'"77"' + good[3:], r"train.csv, row 1: label '77', but labels are"),
        (b'"x"' + good[3:], r"row 1: label 'x', but labels are"),
        (b'"1","one","two","three","four"\n' + good, r"train.csv, row 1 has 5 columns"),
        (b'"1"\n' + good, r"train.csv, row 1 has 1 columns"),
        (b'"1","a"b"\n', r"train.csv is no CSV file"),
        (b"", r"train.csv has no rows"),
    ]:
        file.write_bytes(damage)
        with pytest.raises(ValueError, match=message):
            load_data(name, tmp_path)


def test_imdb_in_folders(tmp_path):
    for part in ("train", "test"):
        for sentiment in ("neg", "pos", "unsup"):
            (tmp_path / "imdb" / part / sentiment).mkdir(parents=True)
            for k in range(12):
                (tmp_path / "imdb" / part / sentiment / f"{k}_7.txt").write_text(f"a {sentiment} film {k}")
    data = load_data("imdb", tmp_path, val_fraction=0.25)
    assert data.classes == ("neg", "pos") and len(data.test) == 24
    assert all(data.classes[y] in words(data, x) for x, y in zip(data.test.images, data.test.labels, strict=True))
    assert load_data(f"text:{tmp_path / 'imdb' / 'train'}", val_fraction=0.25).classes == ("neg", "pos", "unsup")


def test_what_datasets_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    for name, columns in [("imdb", ("text",)), ("ag-news", ("text",)), ("dbpedia", ("title", "content"))]:
        labels = [k % len(PUBLISHED[name][2]) for k in range(56)]
        rows = {column: [f"{column} of class{label}" for label in labels] for column in columns} | {"label": labels}
        part = datasets.Dataset.from_dict(rows)
        datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / name))
        data = load_data(name, tmp_path, val_fraction=0.5)
        assert words(data, data.test.images[3]).endswith(f"class{data.test.labels[3]}")


def test_a_dataset_that_is_not_there_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"ag-news: .*put train.csv and test.csv into .*save_to_disk"):
        load_data("ag-news", tmp_path)


def glove(file, lines):
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def test_word_vectors_stand_in_their_words_rows(table, tmp_path):
    data = load_data(f"text:{table}")
    known = [*data.words[3:20], "elsewhere"]
    file = glove(tmp_path / "vectors.txt", [f"{word} {k} {k + 0.5} -{k}" for k, word in enumerate(known)])
    with_vectors = load_data(f"text:{table}", vectors=file)
    assert with_vectors.vectors.shape == (len(data.words), 3)
    for k, word in enumerate(known[:-1]):
        assert with_vectors.vectors[data.words.index(word)].tolist() == [k, k + 0.5, -k]
    assert with_vectors.vectors[0].tolist() == [0, 0, 0] and with_vectors.vectors[25:].abs().max() < 1

    import kit

    config = kit.RunConfig(
        dataset=f"text:{table}", vectors=file, backbone="lstm", backbone_options={"hidden": 3, "depth": 1},
        num_blocks=2, method="greedy", output=None,
    )  # fmt: skip
    assert torch.equal(kit.train.build(config, with_vectors)[0].body[0].embedding.table.weight, with_vectors.vectors)
    with pytest.raises(ValueError, match=r"vectors of shape .* 3\).*hidden=3"):
        kit.train.build(kit.RunConfig(**config.plain() | {"backbone_options": {}}), with_vectors)
    for lines, message in [
        (["boil 1 2 3", "salt 1 2"], "line 2: 2 numbers behind the word, but line 1 has 3"),
        (["boil 1 2 3", "salt 1 x 3"], "line 2: 'salt 1 x 3'… is not a word and numbers"),
        (["uno 1 2"], "none of the"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_data(f"text:{table}", vectors=glove(tmp_path / "broken.txt", lines))
    with pytest.raises(FileNotFoundError, match="vectors= takes a text file"):
        load_data(f"text:{table}", vectors=str(tmp_path / "nowhere.txt"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_as_spreadsheets_write_them(delimiter, encoding, table, tmp_path):
    """A mark at the file's beginning, semicolons where the comma is for decimals; texts hold any of the three."""
    frame = pd.read_csv(table)
    frame["text"] += ' and, with; "all"\tof them'
    frame.to_csv(tmp_path / "sheet.csv", sep=delimiter, encoding=encoding, index=False, lineterminator="\r\n")
    whole = load_data(f"text:{tmp_path / 'sheet.csv'}")
    frame.to_csv(tmp_path / "plain.csv", index=False)
    assert whole.classes == tuple(TOPICS) and "all" in whole.words
    assert torch.equal(whole.train.images, load_data(f"text:{tmp_path / 'plain.csv'}").train.images)
    frame.to_csv(tmp_path / "sheet.csv", sep=delimiter, encoding=encoding)
    with pytest.raises(ValueError, match="sheet.csv .* a column has no name"):
        load_data(f"text:{tmp_path / 'sheet.csv'}")


def test_tables_of_texts_that_cannot_be(table, tmp_path):
    bad = tmp_path / "bad.csv"
    for content, message in [
        (b"text,kind\nhello,a\nhi,b\n", "unknown label column 'label': .*text:.*#COLUMN"),
        (b"text,label\nhello,a\nhi,\n", "has the classes"),
        (b"text,label\nhello,a\nhi,a\n", r"has the classes \['a'\]"),
        (b"label\na\nb\n", "0 texts"),
        (b"text,label\nhello,a\nh\xe9,b\n", "line 3 is not UTF-8"),
        (b"text,label\nhello\nhi,b\n", "row 1 has 1 columns, but there are 2"),
    ]:
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_data(f"text:{bad}")
    frame = pd.read_csv(table).rename(columns={"label": "kind"})
    frame.to_parquet(tmp_path / "texts.parquet")
    assert load_data(f"text:{tmp_path / 'texts.parquet'}#kind").classes == tuple(TOPICS)
    frame.loc[4, "text"] = None
    frame.to_parquet(tmp_path / "holes.parquet")
    with pytest.raises(ValueError, match="row 5 lacks a label or a text"):
        load_data(f"text:{tmp_path / 'holes.parquet'}#kind")
    with pytest.raises(FileNotFoundError, match="text:PATH takes a CSV or Parquet file"):
        load_data(f"text:{tmp_path / 'nowhere'}")
    (tmp_path / "folder" / "a").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="holds no .txt file"):
        load_data(f"text:{tmp_path / 'folder'}")
    with pytest.raises(ValueError, match="digits has no words"):
        load_data("digits").encode(["hello"])
