"""Processes that are ended at any file they write, rename or remove: the run goes on, and nothing is left of it."""

import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import tempfile
from itertools import count
from pathlib import Path

import pandas as pd
import pytest
import torch

import kit
from kit.pipeline import launch, rank
from tests.pipeline.test_exact import assert_same_state
from tests.pipeline.test_restart import FILES

RUN = dict(
    method="greedy",
    backbone="mlp",
    backbone_options={"depth": 3, "norm": "batch", "hidden": 8},
    num_blocks=3,
    epochs=2,
    batch_size=64,  # four steps an epoch
    limit=256,
    checkpoint_steps=2,
    optimizer="sgd",
    lr=0.05,
    precision="fp32",
)
EVERY = pytest.mark.parametrize("every", [13, pytest.param(1, marks=pytest.mark.faults)])
REMOVES = {"os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
PROCESSES = multiprocessing.get_context("fork")  # of this process, which has run one already: the first is slow


def end_at(number, folder, room, told=None):
    """End this process at the `number`-th file that it renames, removes, or begins to write in `folder`.

    Temporary files go into `room`; `told` is a queue that hears of each such call, so that they can be counted.
    """
    tempfile.tempdir, calls = str(room), count(1)
    torch.set_num_threads(1)

    def hook(event, arguments):
        writes = event == "open" and str(arguments[0]).startswith(str(folder)) and arguments[2] & os.O_CREAT
        if event in REMOVES or (writes and not str(arguments[0]).endswith(".lock")):
            if told:
                told.put(event)
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def one_process(number, folder, room, told=None):
    end_at(number, folder, room, told)
    kit.run(kit.RunConfig(**RUN, output=str(folder)))


def one_rank(number, folder, room, told, environment, config):
    os.environ.update(environment)
    end_at(number, folder, room, told)
    rank.main([config, "--threads", "1", "--timeout", "20"])


def launcher(fatal, folder, room):
    """Launch, and end when something is first opened in the temporary folder, or when that is to be removed."""
    tempfile.tempdir = str(room)

    def hook(event, arguments):
        counts = event == fatal and not str(arguments[0]).endswith(".lock")
        above = Path(str(arguments[0])).parents if counts else ()
        if room in above and (event == "open" or above[0] == room):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    launch(kit.RunConfig(**RUN, output=str(folder)), num_stages=2, threads=1)


def together(folder, room, num_ranks, victim=0, number=0, told=None):
    """Start the ranks of a pipeline, of which `victim` ends at its `number`-th call; return all processes."""
    store, config = room / "store", folder.parent / "config.json"
    store.unlink(missing_ok=True)
    config.write_text(json.dumps(RUN | {"output": str(folder)}))
    common = {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks), "MASTER_ADDR": str(store)}
    ranks = []
    for k in range(num_ranks):
        aimed, hears = (number, told) if k == victim else (0, None)
        arguments = (aimed, folder, room, hears, common | {"RANK": str(k)}, str(config))
        ranks.append(PROCESSES.Process(target=one_rank, args=arguments))
        ranks[-1].start()
    return ranks


def finished(processes):
    """Wait for processes; return their exit codes. Five seconds after the first that failed, all are gone."""
    running = list(processes)
    while running:
        multiprocessing.connection.wait([process.sentinel for process in running])
        running = [process for process in running if process.is_alive()]
        if any(process.exitcode for process in processes):
            for process in running:
                process.join(5)
                assert not process.is_alive(), "alive 5 s after another was killed"
            break
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("unbroken")
    kit.run(kit.RunConfig(**RUN, output=str(folder)))
    assert len(list((folder / "checkpoint").glob("best-00000002"))) == 1, "the second epoch has to replace the best"
    return folder


@pytest.fixture
def room(tmp_path):
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def assert_ended_as(unbroken, folder, room):
    assert_same_state(unbroken, folder)
    tables = [kit.History.load(path).table for path in (unbroken, folder)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert {path.name for path in folder.iterdir()} == FILES
    kept = [sorted(str(path.relative_to(at)) for path in (at / "checkpoint").rglob("*")) for at in (unbroken, folder)]
    assert kept[0] == kept[1]
    assert not list(room.iterdir())
    shutil.rmtree(folder)


def calls_of(start):
    """Return the calls at which a process can be ended: `start(queue)` runs it to its end."""
    told, calls = PROCESSES.SimpleQueue(), []
    assert set(finished(start(told))) == {0}
    while not told.empty():
        calls.append(told.get())
    return calls


@EVERY
def test_one_process_ended_anywhere(every, tmp_path, unbroken, room):
    folder = tmp_path / "run"

    def begin(number, told=None):
        process = PROCESSES.Process(target=one_process, args=(number, folder, room, told))
        process.start()
        return [process]

    calls = calls_of(lambda told: begin(0, told))
    assert len(calls) >= 40
    assert_ended_as(unbroken, folder, room)
    landed = {number for number, call in enumerate(calls, 1) if call == "shutil.rmtree"}  # the older one is there yet
    for number in sorted({*range(1, len(calls) + 1, every)} | landed):
        assert finished(begin(number)) == [-signal.SIGKILL], f"call {number} of {calls}"
        kit.run(kit.RunConfig(**RUN, output=str(folder)))
        assert_ended_as(unbroken, folder, room)


@EVERY
@pytest.mark.parametrize(("num_ranks", "victim"), [(2, 0), (2, 1), (3, 0), (3, 2)])
def test_a_rank_ended_anywhere(every, num_ranks, victim, tmp_path, unbroken, room):
    """The run is gone on with by as many ranks, or by one process: their checkpoints are the same."""
    folder = tmp_path / "run"
    calls = calls_of(lambda told: together(folder, room, num_ranks, victim, told=told))
    assert len(calls) >= (40 if victim == 0 else 6)
    (room / "store").unlink(missing_ok=True)
    assert_ended_as(unbroken, folder, room)
    for number in range(1, len(calls) + 1, every):
        codes = finished(together(folder, room, num_ranks, victim, number))
        assert codes[victim] == -signal.SIGKILL and 0 not in codes, f"call {number} of {calls}: {codes}"
        if number % 2:
            kit.run(kit.RunConfig(**RUN, output=str(folder)))
        else:
            assert set(finished(together(folder, room, num_ranks))) == {0}
        (room / "store").unlink(missing_ok=True)
        assert_ended_as(unbroken, folder, room)


@pytest.mark.faults
@pytest.mark.parametrize("fatal", ["open", "shutil.rmtree"])
def test_a_launcher_that_is_ended_leaves_nothing_for_long(fatal, tmp_path, unbroken, room, monkeypatch):
    """Ended as it begins, and as it removes its temporary folder: the next one removes what is left."""
    folder = tmp_path / "run"
    process = PROCESSES.Process(target=launcher, args=(fatal, folder, room))
    process.start()
    assert finished([process]) == [-signal.SIGKILL]
    assert list(room.iterdir()) and folder.exists() == (fatal == "shutil.rmtree")
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    launch(kit.RunConfig(**RUN, output=str(folder)), num_stages=2, threads=1)
    assert_ended_as(unbroken, folder, room)
