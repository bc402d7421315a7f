"""Muon: PyTorch's own for matrices, PyTorch's AdamW for vectors, as one optimizer of a block."""

import copy

import pytest
import torch
from torch import nn

import kit
from kit.compute.muon import Muon
from kit.train import checkpoint

DRAWS = torch.Generator().manual_seed(0)
X, Y = torch.randn(8, 6, generator=DRAWS), torch.arange(8) % 3


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))


def test_it_is_pytorchs_muon_and_pytorchs_adamw():
    ours, theirs = model(), model()
    matrices, vectors = ([p for p in theirs.parameters() if p.ndim == n] for n in (2, 1))
    alone = [
        torch.optim.Muon(matrices, 0.02, 0.1, 0.9, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(vectors, 0.02, (0.9, 0.95), 1e-10, 0.1),
    ]
    for net, optimizers in ((ours, [Muon(ours.parameters(), 0.02, 0.1, 0.9)]), (theirs, alone)):
        for _ in range(4):
            nn.functional.cross_entropy(net(X), Y).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    for name, value in ours.state_dict().items():
        # both orthogonalise in bfloat16, where the order of the products shows
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=0, atol=1e-6 if value.ndim == 1 else 2e-3)


def test_a_copy_steps_alike():
    nets = [kit.decouple([model()], "greedy", 3, X, optimizer="muon", lr=0.02)]
    nets[0].step(X, Y)
    nets.append(copy.deepcopy(nets[0]))
    for net in nets:
        net.step(X, Y)
    assert all(map(torch.equal, nets[0].parameters(), nets[1].parameters()))


@pytest.mark.parametrize("optimizer", ["nadam", "muon"])
def test_a_run_goes_on_from_a_checkpoint(tmp_path, optimizer):
    settings = {"backbone": "mlp", "width": 0.125, "method": "ddg", "num_blocks": 2, "limit": 200, "epochs": 3}
    settings |= {"precision": "fp32", "optimizer": optimizer}
    configs = [kit.RunConfig(**settings, output=str(tmp_path / name)) for name in "ab"]
    kit.run(configs[0])
    with pytest.raises(KeyboardInterrupt):
        kit.run(configs[1], on_epoch=lambda epoch, net: epoch == 2 and _interrupt())
    kit.run(configs[1])
    one, other = (checkpoint.weights(config.folder, "step") for config in configs)
    assert all(torch.equal(one[name], other[name]) for name in one)


def _interrupt():
    raise KeyboardInterrupt
