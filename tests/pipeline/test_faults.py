"""Bad input and faults: a clear error or a resumed run, nothing half written, nobody left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

import kit
from kit.pipeline import PipelineFailed, launch
from kit.pipeline.launch import _explain, start_ranks
from kit.pipeline.rank import main
from kit.train import checkpoint
from tests.pipeline.ranks import ROOT, as_programs, full_disk, on_ranks, poisoned, refusals
from tests.pipeline.test_exact import SETTINGS
from tests.pipeline.test_restart import RUN, Killer, assert_whole, config, ranks, undisturbed  # noqa: F401

GREEDY = SETTINGS | {"method": "greedy", "output": None}


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"num_stages": 5}, "num_stages=5, but greedy on mlp has only 4 blocks; choose 1 to 4"),
        ({"method": "bp"}, {"num_stages": 2}, "num_stages=2, but bp on mlp has only 1 block; choose 1 to 1"),
        ({}, {"num_stages": 0}, "num_stages=0.*at least 1"),
        ({}, {"depth": 0}, "depth=0.*at least 1"),
        ({}, {"threads": "2"}, "threads='2', but it has to be a whole number of at least 1, or None"),
        ({}, {"stages": 2}, "unknown option of launch: 'stages'"),
        ({}, {"timeout": 0}, "timeout=0, but it has to be a positive number"),
        ({}, {"statistics": "globl"}, "unknown statistics 'globl': did you mean 'global'"),
    ],
)
def test_refused_before_anything_starts(changes, options, message):
    begun = time.monotonic()
    with pytest.raises(ValueError, match=message):
        launch(kit.RunConfig(**GREEDY | changes), **options)
    assert time.monotonic() - begun < 1


def test_what_the_ranks_refuse_together(tmp_path):
    deinforeg = GREEDY | {"method": "deinforeg"}
    cases = [
        (GREEDY, {}, {"lr": 0.5}, "rank 1 was started with other settings: lr=0.5 there, 0.01 on rank 0"),
        (GREEDY, {}, {"seed": 3, "epochs": 2}, "epochs=2 there, 1 on rank 0, seed=3 there, 0 on rank 0"),
        (GREEDY, {"num_replicas": 3}, {}, "num_replicas=3 with 2 ranks: choose a divisor of 2"),
        (GREEDY | {"num_blocks": 1}, {}, {}, "num_stages=2, but greedy on mlp has only 1 block"),
        (GREEDY | {"batch_size": 2}, {"num_replicas": 2}, {}, "leaves 1 of some batch to a replica, but each needs 2"),
        (deinforeg | {"batch_size": 1292}, {"num_replicas": 2}, {}, "1294 training images leaves 1 of some batch"),
    ]
    on_ranks(refusals, 2, tmp_path, cases=cases, store=str(tmp_path / "store"))


@pytest.mark.faults
def test_nan_on_one_rank_stops_all_and_the_last_checkpoint_stands(tmp_path, undisturbed):  # noqa: F811
    folder = tmp_path / "run"
    settings = RUN | {"output": str(folder)}
    with pytest.raises(
        PipelineFailed, match="rank 1: FloatingPointError: block 4: its loss term 'ce' became nan in ep"
    ):
        as_programs(poisoned, 2, tmp_path, settings=settings, step=7)
    assert not ranks()
    assert checkpoint.latest(folder).name == "step-00000006"
    launch(config(folder), num_stages=2, threads=1)
    assert_whole(folder, undisturbed)


@pytest.mark.faults
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, undisturbed):  # noqa: F811
    folder = tmp_path / "run"
    settings = RUN | {"output": str(folder)}
    with pytest.raises(PipelineFailed) as failed:
        as_programs(full_disk, 2, tmp_path, settings=settings, step=6)
    message = str(failed.value)
    assert "step-00000006 could not be written by rank 1" in message and "last complete one is" in message
    assert [path.name for path in (folder / "checkpoint").iterdir()] == ["step-00000004"]
    launch(config(folder), num_stages=2, threads=1)
    assert_whole(folder, undisturbed)


@pytest.mark.faults
def test_a_stopped_rank_is_not_waited_for_forever(tmp_path):
    killer = Killer(tmp_path, 1, number=signal.SIGSTOP)
    killer.start()
    with pytest.raises(PipelineFailed, match="PeerLost: .*[Tt]imed out|PeerLost: waited 15 s"):
        launch(config(tmp_path), num_stages=2, threads=1, timeout=15.0)
    assert not ranks()


@pytest.mark.faults
def test_only_loopback_listens_and_nobody_outlives_the_caller(tmp_path):
    """A second process launches; its sockets are looked at; it is killed with SIGKILL; its ranks end by themselves."""
    settings = json.dumps(RUN | {"epochs": 50, "output": str(tmp_path)})
    code = f"import kit, json; from kit.pipeline import launch; launch(kit.RunConfig(**json.loads({settings!r})))"
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
    me = psutil.Process(caller.pid)
    _until(lambda: checkpoint.latest(tmp_path), 90)
    family = [me, *me.children(recursive=True)]
    listening = [c.laddr.ip for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(family) >= 3 and listening
    assert set(listening) <= {"127.0.0.1", "::1"}
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    _until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family[1:]), 10)


@pytest.mark.faults
def test_two_machines_with_torchrun(tmp_path, undisturbed):  # noqa: F811
    """Two agents with a rank each, as on two machines that share a folder."""
    (tmp_path / "config.json").write_text(json.dumps(RUN | {"output": str(tmp_path / "run")}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test"]
    command = [*torchrun, "-m", "kit.pipeline", str(tmp_path / "config.json"), "--timeout", "60", "--threads", "1"]
    told = os.environ | {"KIT_SECRET": "as long as one needs at least"}
    agents = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=told)
        for _ in range(2)
    ]
    for agent in agents:
        _, errors = agent.communicate(timeout=120)
        assert agent.returncode == 0, errors.decode()[-2000:]
    assert_whole(tmp_path / "run", undisturbed)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('{"methd": "bp"}', "error: unknown setting 'methd': did you mean 'method'"),
        ("{", "error: Expecting property name"),
        (None, "error: .*No such file"),
        ("{}", "error: start the ranks with torchrun"),
    ],
)
def test_a_config_of_the_command_line_that_cannot_be_read(written, message, tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    if written is not None:
        (tmp_path / "config.json").write_text(written)
    with pytest.raises(SystemExit, match=message):
        main([str(tmp_path / "config.json")])


def test_a_rank_that_was_ended_while_it_failed_is_heard(tmp_path):
    """The launcher ends the other ranks as soon as one has failed, even one that has just written why it fails."""
    failures = {}
    for rank, (exitcode, told) in enumerate([(-signal.SIGTERM, "waited 15 s"), (1, "closed"), (-signal.SIGTERM, None)]):
        file = tmp_path / f"{rank}.json"
        if told:
            error = {"message": {"message": f"PeerLost: {told}", "extraInfo": {"timestamp": "1"}}}
            file.write_text(json.dumps(error))
        failures[rank] = ProcessFailure(rank, 1, exitcode, str(file))
    assert _explain(failures, tmp_path) == "rank 0: PeerLost: waited 15 s\nrank 1: PeerLost: closed"


def test_launch_gives_signal_handlers_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(PipelineFailed):
        start_ranks(sys.executable, ["-c", "raise SystemExit(3)"], 1, 0, str(tmp_path))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def _until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
