"""Two hosts, as network namespaces with a cable between them: each has addresses of its own, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest
import torch

import kit
from kit.train import checkpoint
from tests.pipeline.ranks import ROOT
from tests.pipeline.test_aimed_kills import RUN
from tests.pipeline.test_exact import assert_same_state
from tests.pipeline.test_restart import FILES

TIMEOUT, SECRET = 15, "a text that only the two hosts of this test know"
SETTINGS = RUN | {"epochs": 15, "checkpoint_steps": 4}


def inside(host, *command):
    return ["nsenter", "-t", str(host.pid), "-U", "-n", "--preserve-credentials", *command]


def call(*command):
    subprocess.run(command, check=True, capture_output=True, text=True)


def _new(*command):
    """Start a process that holds a namespace, and wait until it has it."""
    host = subprocess.Popen([*command, "sh", "-c", "echo made; exec sleep 900"], stdout=subprocess.PIPE, text=True)
    return host, host.stdout.readline() == "made\n"


@pytest.fixture(scope="module")
def hosts():
    """Two processes, each on a host of its own: 10.77.0.1 and 10.77.0.2."""
    if missing := [tool for tool in ("unshare", "nsenter", "ip") if not shutil.which(tool)]:
        pytest.skip(f"needs {', '.join(missing)}")
    first, allowed = _new("unshare", "--user", "--map-root-user", "--net")
    second = None
    try:
        if not allowed:
            pytest.skip("this system does not let a user make network namespaces")
        second, _ = _new(*inside(first, "unshare", "--net"))
        cable = ["ip", "link", "add", "cable1", "type", "veth", "peer", "name", "cable2", "netns", str(second.pid)]
        call(*inside(first, *cable))
        for number, host in enumerate((first, second), 1):
            call(*inside(host, "ip", "address", "add", f"10.77.0.{number}/24", "dev", f"cable{number}"))
            call(*inside(host, "ip", "link", "set", f"cable{number}", "up"))
            call(*inside(host, "ip", "link", "set", "lo", "up"))
        yield first, second
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this system has no cable between namespaces: {error.stderr.strip()}")
    finally:
        for host in filter(None, (second, first)):
            host.kill()
            host.wait()


def torchrun(hosts, config, secrets=(SECRET, SECRET)):
    """Start on each host what the README says to type; what they complain of goes into files beside `config`."""
    agents = []
    for number, (host, secret) in enumerate(zip(hosts, secrets, strict=True)):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        command += ["--node-rank", str(number), "--master-addr", "10.77.0.1", "--master-port", "29500"]
        command += ["-m", "kit.pipeline", str(config), "--threads", "1", "--timeout", str(TIMEOUT)]
        environment = {name: value for name, value in os.environ.items() if name != "GLOO_SOCKET_IFNAME"}
        environment |= {"KIT_SECRET": secret} if secret else {}
        with complaints(config)[number].open("w") as errors:
            pipes = {"stdout": subprocess.DEVNULL, "stderr": errors}
            agents.append(subprocess.Popen(inside(host, *command), cwd=ROOT, env=environment, **pipes))
    return agents


def complaints(config):
    return [config.with_name(f"host-{number}") for number in (0, 1)]


def ended(agents, config):
    """Wait for both; return the exit code and the complaints of each."""
    try:
        codes = [agent.wait(timeout=300) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    return list(zip(codes, [path.read_text() for path in complaints(config)], strict=True))


@pytest.mark.faults
def test_two_hosts_train_as_one_process_though_their_cable_is_pulled(hosts, tmp_path):
    torch.set_num_threads(1)
    kit.run(kit.RunConfig(**SETTINGS, output=str(tmp_path / "one")))
    folder, config = tmp_path / "two", tmp_path / "config.json"
    config.write_text(json.dumps(SETTINGS | {"output": str(folder)}))
    agents = torchrun(hosts, config)
    while not checkpoint.latest(folder):
        assert [agent.poll() for agent in agents] == [None, None]
        time.sleep(0.01)
    ranks = [rank for agent in agents for rank in psutil.Process(agent.pid).children(recursive=True)]
    assert len(ranks) == 2
    call(*inside(hosts[0], "ip", "link", "set", "cable1", "down"))
    end = time.monotonic() + TIMEOUT + 5
    while not all("PeerLost: " in path.read_text() for path in complaints(config)):
        assert time.monotonic() < end, f"not heard within {TIMEOUT} + 5 s"
        time.sleep(0.1)
    assert not psutil.wait_procs(ranks, end - time.monotonic())[1], f"not gone within {TIMEOUT} + 5 s"
    assert all(code for code, _ in ended(agents, config))
    reached = checkpoint.latest(folder).name
    assert reached < checkpoint.latest(tmp_path / "one").name, "the cable was pulled too late to test anything"

    call(*inside(hosts[0], "ip", "link", "set", "cable1", "up"))
    for code, errors in ended(torchrun(hosts, config), config):
        assert code == 0, errors[-3000:]
    assert_same_state(tmp_path / "one", folder)
    tables = [kit.History.load(path).table for path in (tmp_path / "one", folder)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert {path.name for path in folder.iterdir()} == FILES


@pytest.mark.faults
@pytest.mark.parametrize(
    ("secrets", "words"),
    [
        ((SECRET, "another text that nobody told it"), "does not have the KIT_SECRET of rank"),
        ((SECRET, None), "KIT_SECRET has 0 characters, but ranks that meet over a network need one of at least 16"),
    ],
)
def test_a_host_without_the_secret_is_refused(secrets, words, hosts, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(SETTINGS | {"output": str(tmp_path / "run")}))
    (one, _), (other, errors) = ended(torchrun(hosts, config, secrets), config)
    assert one and other and words in errors, errors[-3000:]
    assert not (tmp_path / "run").exists()
