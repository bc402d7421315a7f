"""Killed ranks: the run goes on from the last complete checkpoint and ends as if nothing had happened."""

import os
import random
import signal
import threading
import time

import pandas as pd
import psutil
import pytest
import torch

import kit
from kit.pipeline import PipelineFailed, launch
from kit.train import checkpoint
from tests.pipeline.test_exact import SETTINGS, assert_same_state

KILLS = int(os.environ.get("KIT_KILLS", 2))  # 10 for the long version
RUN = SETTINGS | {"method": "greedy", "checkpoint_steps": 2, "optimizer": "sgd", "lr": 0.05, "epochs": max(3, KILLS)}
FILES = {".lock", "checkpoint", "config.json", "costs.parquet", "history.parquet"}


def config(folder, method="greedy"):
    return kit.RunConfig(**RUN | {"method": method}, output=str(folder))


def ranks():
    """The ranks that this process started, by number."""
    found = {}
    for child in psutil.Process().children(recursive=True):
        try:
            if "kit.pipeline" in child.cmdline():
                found[int(child.environ()["RANK"])] = child
        except psutil.Error:
            continue
    return found


class Killer(threading.Thread):
    """Sends a signal to a random rank at a random moment after each of the next `kills` new checkpoints."""

    def __init__(self, folder, kills, seed=0, number=signal.SIGKILL):
        super().__init__(daemon=True)
        self.folder, self.kills, self.draw, self.number, self.hit = folder, kills, random.Random(seed), number, []

    def run(self):
        while len(self.hit) < self.kills:
            newest = self.newest()
            while self.newest() == newest or not ranks():
                time.sleep(0.01)
            time.sleep(self.draw.uniform(0, 0.3))
            running = ranks()
            rank = self.draw.choice(sorted(running))
            running[rank].send_signal(self.number)
            self.hit.append((rank, self.newest().name))

    def newest(self):
        return checkpoint.latest(self.folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("undisturbed")
    kit.run(config(folder))
    return folder


def assert_whole(folder, undisturbed):
    assert_same_state(undisturbed, folder)
    tables = [kit.History.load(path).table for path in (undisturbed, folder)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert {path.name for path in folder.iterdir()} == FILES
    assert not [path.name for path in (folder / "checkpoint").iterdir() if path.name.startswith(".")]
    assert not ranks()


@pytest.mark.faults
def test_killed_ranks_are_started_again_and_the_end_is_the_same(tmp_path, undisturbed):
    killer = Killer(tmp_path, KILLS, seed=random.randrange(10**6))
    killer.start()
    history = launch(config(tmp_path), num_stages=2, threads=1, max_restarts=KILLS)
    print("killed (rank, after):", killer.hit)
    assert len(killer.hit) == KILLS, "it finished before it was killed"
    assert history.table.equals(kit.History.load(undisturbed).table)
    assert_whole(tmp_path, undisturbed)


@pytest.mark.faults
@pytest.mark.parametrize("method", ["fdg", "ddg", "fr"])
def test_gradients_under_way_survive_a_kill(tmp_path, method):
    torch.set_num_threads(1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    kit.run(config(whole, method))
    killer = Killer(killed, 1, seed=random.randrange(10**6))
    killer.start()
    launch(config(killed, method), num_stages=2, threads=1, max_restarts=1)
    assert killer.hit, "it finished before it was killed"
    assert_whole(killed, whole)


@pytest.mark.faults
def test_a_run_goes_on_with_fewer_ranks(tmp_path, undisturbed):
    for num_stages in (4, 2):
        killer = Killer(tmp_path, 1, seed=num_stages)
        killer.start()
        begun = time.monotonic()
        with pytest.raises(PipelineFailed, match="rank .*: killed by SIGKILL"):
            launch(config(tmp_path), num_stages=num_stages, threads=1)
        assert time.monotonic() - begun < 60
        assert not ranks()
        assert checkpoint.latest(tmp_path)
    launch(config(tmp_path), num_stages=1, threads=1)
    assert_whole(tmp_path, undisturbed)
