"""What travels between ranks, and how much of it at once."""

import pytest
import torch
import torch.distributed as dist

from kit.pipeline.exceptions import PeerLost, waiting
from kit.pipeline.placement import runs
from kit.pipeline.transport import Sender, Wire, pack, unpack
from kit.signal import Signal, dense

Y = torch.arange(4)


@pytest.mark.parametrize(
    "h",
    [
        torch.randn(4, 6),
        torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last).to(torch.bfloat16),
        torch.randn(5, 4, 6).transpose(0, 1),
        torch.randn(4, 8, 1, 1).to(memory_format=torch.channels_last),
        torch.randn(9, 4, 2)[3:8].permute(1, 2, 0),
    ],
)
def test_a_tensor_arrives_as_it_lay_in_memory(h):
    signal = Signal(h, Y, context=(torch.randn(4, 2), torch.randn(4, 3)))
    arrived = unpack(*pack(signal))
    for sent, got in zip((h, Y, *signal.context), (arrived.h, arrived.y, *arrived.context), strict=True):
        assert got.dtype == sent.dtype and got.stride() == sent.stride() and torch.equal(got, sent)


def test_only_what_is_asked_for_travels():
    layouts, flat = pack(Signal(torch.randn(4, 6), Y))
    assert [layout.field for layout in layouts] == ["h", "y"]
    layouts, flat = pack(Signal(torch.randn(4, 6).bfloat16(), Y, x=torch.randn(4, 1, 2, 2)))
    assert [(layout.field, data.nbytes) for layout, data in zip(layouts, flat, strict=True)] == [
        ("h", 4 * 6 * 2),
        ("y", 4 * 8),
        ("x", 4 * 4 * 4),
    ]


def test_a_part_of_a_larger_tensor_is_sent_without_the_rest():
    token = torch.randn(4, 7, 6)[:, 0]
    assert dense(token).is_contiguous() and torch.equal(dense(token), token)
    whole = torch.randn(4, 6)
    assert dense(whole) is whole


class Transfer:
    """A transfer that ends when it is waited for."""

    def __init__(self, log):
        self.log = log
        log.append(1)

    def wait(self, timeout):
        self.log.append(-1)


def test_no_more_signals_are_under_way_than_depth_allows(monkeypatch):
    log, sent = [], []
    monkeypatch.setattr(dist, "isend", lambda data, to, *_: sent.append(data) or Transfer(log))
    sender = Sender(Wire(1, timeout=1.0), depth=2)
    for size in (4, 4, 4, 4, 3):
        sender.put(Signal(torch.randn(size, 6), Y[:size]))
    under_way = torch.tensor(log).cumsum(0)
    assert under_way.max() == 2 * 2 + 2  # two tensors each, and the two that tell the first one of its shapes
    assert sum(data.dtype == torch.uint8 for data in sent) == 2, (
        "shapes are told once per size of batch: how long, and what"
    )
    with pytest.raises(ValueError, match="signals of one batch size differ"):
        sender.put(Signal(torch.randn(4, 7), Y))
    sender.drain()
    assert sum(log) == 0
    sender.put(Signal(torch.randn(4, 7), Y))  # another pass


def test_a_lost_peer_is_named():
    with (
        pytest.raises(PeerLost, match="a signal from rank 3: Connection closed by peer"),
        waiting("a signal from rank 3"),
    ):
        raise RuntimeError("[/somewhere/pair.cc:534] Connection closed by peer")


def test_blocks_are_dealt_out_so_that_the_slowest_rank_is_as_fast_as_can_be():
    assert runs([5, 1, 1, 1], 2) == [range(0, 1), range(1, 4)]
    assert runs([1, 1, 1, 5], 2) == [range(0, 3), range(3, 4)]
    assert runs([1.0] * 4, 4) == [range(k, k + 1) for k in range(4)]
    assert runs([3, 2, 2, 3], 1) == [range(0, 4)]
