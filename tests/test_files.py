"""Folders and files that nobody leaves behind."""

import multiprocessing
import os
import signal
import tempfile

import pytest

import kit
from kit.files import temporary_folder
from kit.train import checkpoint


def killed_inside(room):
    tempfile.tempdir = str(room)
    with temporary_folder("kit-test") as folder:
        (folder / "file").write_text("left")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_temporary_folder_of_a_killed_process_is_removed_by_the_next(tmp_path, monkeypatch):
    process = multiprocessing.get_context("forkserver").Process(target=killed_inside, args=(tmp_path,))
    process.start()
    process.join()
    left, lock = sorted(tmp_path.iterdir())
    (tmp_path / "kit-test-of-somebody-else").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder("kit-test") as mine, temporary_folder("kit-test") as other:
        assert not left.exists() and not lock.exists(), "its process is gone"
        assert mine.exists() and other.exists(), "theirs is not"
        assert os.stat(mine).st_mode & 0o077 == 0, "ranks meet in it, so it is its owner's alone"
    assert [path.name for path in tmp_path.iterdir()] == ["kit-test-of-somebody-else"]


@pytest.mark.parametrize("kind", ["step", "best"])
def test_a_full_disk_is_told_in_words_and_the_last_checkpoint_stands(kind, tmp_path):
    resource = pytest.importorskip("resource")
    states = {"run": {"position": [0, 0]}, "block0": {"weights": list(range(9))}}
    checkpoint.save(tmp_path, f"{kind}-00000001", states)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError) as full:
            checkpoint.save(tmp_path, f"{kind}-00000002", states)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    message = str(full.value)
    assert f"{kind}-00000002 could not be written" in message and "the last complete one is" in message
    assert "inline_container" not in message and ("File too large" in message or "is the disk full?" in message)
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == [f"{kind}-00000001"]


def test_what_one_rank_writes_elsewhere_is_missed(tmp_path):
    """Hosts that do not share a folder: rank 0 finds that a file of the other is not there."""

    class TwoRanks(type(checkpoint.ALONE)):
        def gather(self, value, doing):
            return [value, [None, ["block1"]]] if doing == "writing a checkpoint" else [value, value]

    with pytest.raises(OSError, match="block1 went elsewhere. Give a folder that all hosts share"):
        checkpoint.save(tmp_path, "step-00000001", {"block0": {}}, TwoRanks())
    assert not list((tmp_path / "checkpoint").iterdir())


def test_a_checkpoint_made_anew_is_taken(tmp_path):
    """After a kill between `best-N` and that epoch's `step-…`, the run comes to `best-N` a second time."""
    for _ in range(2):
        checkpoint.save(tmp_path, "best-00000003", {"block0": {"weights": [1]}})
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["best-00000003"]


def test_the_settings_of_a_run_are_json_though_its_folder_is_a_path(tmp_path):
    config = kit.RunConfig(output=tmp_path / "run", root=tmp_path)
    assert config.plain()["output"] == str(tmp_path / "run") and config.folder == tmp_path / "run"
