import pytest
import torch
from torch import nn

from kit import heads
from kit.shapes import Shape

SHAPES = {"vector": (24,), "tokens": (5, 24), "map": (16, 8, 8), "channels-last map": Shape((8, 8, 16), axis=2)}


@pytest.mark.parametrize("kind", [kind for kind in heads.AUX_NETS if kind[0].isdigit()])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_aux_nets_answer_any_features(kind, shape):
    net = heads.aux_net(kind, shape, out=10, widest=64)
    assert net(torch.randn(4, *shape)).shape == (4, 10)
    num_linears = sum(isinstance(m, nn.Linear) for m in net)
    convs = [m for m in net if isinstance(m, nn.Conv2d)]
    if shape == SHAPES["map"]:
        assert f"{len(convs)}c{num_linears}f" == kind


def test_aux_convolutions_double_up_to_the_widest_and_then_keep_their_size():
    convs = [m for m in heads.aux_net("2c2f", (32, 8, 8), 10, widest=64) if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.stride[0]) for c in convs] == [(32, 64, 2), (64, 64, 1)]


def test_global_pool_averages_places_and_keeps_channels():
    maps = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    torch.testing.assert_close(heads.GlobalPool((3, 4, 4))(maps), maps.mean((2, 3)))
    torch.testing.assert_close(heads.GlobalPool(Shape((4, 4, 3), axis=2))(maps.movedim(1, -1)), maps.mean((2, 3)))
    torch.testing.assert_close(heads.GlobalPool((3, 16))(maps.flatten(2)), maps.flatten(2).mean(1))


def test_pool_shrinks_the_projectors_first_layer():
    h = torch.randn(2, 256, 16, 16)
    whole, pooled = heads.projector((256, 16, 16), (8, 8, 4)), heads.projector((256, 16, 16), (8, 8, 4), pool=2)
    assert whole[1].in_features == 65536
    assert pooled[1].in_features == 1024
    assert whole(h).shape == pooled(h).shape == (2, 4)
    torch.testing.assert_close(pooled[0](h), nn.functional.adaptive_avg_pool2d(h, 2).flatten(1))
    assert heads.projector((256, 1, 1), (8,), pool=2)[1].in_features == 256


def test_projectors_of_vgg_hold_the_papers_count():
    """METHODS.md, fact (c): 256.7 M parameters beside VGG's flattened maps, for 100 classes."""
    maps = [(256, 16, 16), (512, 8, 8), (512, 4, 4), (512, 2, 2)]
    with torch.device("meta"):
        nets = [heads.projector(shape) for shape in maps]
        answers = [nn.Sequential(nn.BatchNorm1d(2048), nn.Linear(2048, 100)) for _ in maps]
    total = sum(p.numel() for net in [*nets, *answers] for p in net.parameters())
    assert total == pytest.approx(256.7e6, rel=0.005)


def test_unknown_aux_net():
    with pytest.raises(ValueError, match="unknown auxiliary net '3c1f'.*0c1f.*2c2f"):
        heads.aux_net("3c1f", (8, 4, 4), 10, 64)


def test_decoder_lays_tokens_out_as_a_map_without_the_class_token():
    decoder = heads.Decoder((10, 6), (3, 12, 12)).eval()  # a class token and 3 × 3 patches
    h = torch.randn(2, 10, 6)
    images = decoder(h)
    assert images.shape == (2, 3, 12, 12)
    changed = h.clone()
    changed[:, 0] += 1
    assert torch.equal(decoder(changed), images)
    last = h.clone()
    last[:, -1] += 1  # the patch at the lower right
    moved = (decoder(last) - images).abs().amax((0, 1))
    assert moved[-1, -1] > 0
    assert moved[:4, :4].max() == 0
