"""Who is let in, by which interface, and what ranks may tell each other."""

import ast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore

import kit.pipeline
from kit.pipeline.exceptions import PeerLost
from kit.pipeline.options import Options
from kit.pipeline.rendezvous import address_to, interface_of, joined, trusted

SECRETS = ("a secret of this test", "another one of this test")


def meet(store, secrets, own=("127.0.0.1", "10.0.0.2")):
    """Let ranks with these secrets meet at the same time; return what each got, or why it would not."""
    with ThreadPoolExecutor() as pool:
        ranks = [pool.submit(trusted, store, secret, k, len(secrets), own[k]) for k, secret in enumerate(secrets)]
    return [rank.exception() or rank.result() for rank in ranks]


def test_ranks_of_one_secret_meet_and_tell_their_addresses():
    (one, told), (other, heard) = meet(HashStore(), [SECRETS[0]] * 2)
    assert told == heard == ["127.0.0.1", "10.0.0.2"]
    one.set("word", "here")
    assert other.get("word") == b"here"


def test_a_rank_of_another_secret_is_refused_by_name():
    store = HashStore()
    for k, error in enumerate(meet(store, SECRETS)):
        assert isinstance(error, ValueError)
        assert f"rank {1 - k} does not have the KIT_SECRET of rank {k}: start all ranks with the same" in str(error)


def test_no_secret_travels_and_none_is_used_twice():
    told = []

    class Heard(HashStore):
        def set(self, key, value):
            told.append((key, value))
            super().set(key, value)

    for _ in range(2):
        assert all(isinstance(got, tuple) for got in meet(Heard(), [SECRETS[0]] * 2))
    proofs = [value for key, value in told if key.startswith("proof")]
    assert len({*proofs}) == 4 and not any(SECRETS[0] in str(value) for _, value in told)


@pytest.mark.parametrize("secret", [None, "short"])
def test_over_a_network_a_secret_is_needed(secret, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KIT_SECRET", secret) if secret else monkeypatch.delenv("KIT_SECRET", raising=False)
    message = f"KIT_SECRET has {len(secret or '')} characters, .* one of at least 16.*openssl rand -hex 16"
    with pytest.raises(ValueError, match=message), joined(torch.device("cpu"), Options(timeout=5.0)):
        pass


def test_where_nobody_comes_the_message_says_what_to_set(monkeypatch, tmp_path):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": str(tmp_path / "store")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    message = r"Were all started\? Between hosts, set GLOO_SOCKET_IFNAME on each .*now lo; `ip -brief address`"
    with pytest.raises(PeerLost, match=message), joined(torch.device("cpu"), Options(timeout=1.0)):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.1", "localhost"])
def test_the_way_to_this_machine_is_loopback(host):
    """Debian and Ubuntu let a host's own name stand for 127.0.1.1, which no interface has."""
    assert interface_of(address_to(host)).startswith("lo") and interface_of(host) in (None, interface_of("127.0.0.1"))


def test_nothing_between_ranks_is_pickled():
    names = set()
    for path in Path(kit.pipeline.__file__).parent.glob("*.py"):
        names |= {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert {"all_gather", "broadcast"} <= names
    assert not {name for name in names if name.endswith("_object") or "object_list" in name or "pickle" in name}
