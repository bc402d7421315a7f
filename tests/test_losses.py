"""Each term against a reference written another way, a case computed by hand, and inputs it refuses."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kit import losses

SHAPES = [(8, 5), (5, 64), (16, 16)]


def numpy_correlation(rows):
    return np.corrcoef(rows.double().numpy())


@pytest.fixture(params=SHAPES, ids=str)
def batch(request):
    torch.manual_seed(sum(request.param))
    size, width = request.param
    return torch.randn(size, width) * 3 + 1, torch.arange(size) % 4


def test_correlation_is_numpys(batch):
    z, _ = batch
    assert np.allclose(losses.correlation(z), numpy_correlation(z), atol=1e-6)


def test_label_correlation_is_that_of_one_hot_rows(batch):
    _, y = batch
    expected = numpy_correlation(F.one_hot(y, 4).float())
    assert np.allclose(losses.label_correlation(y, 4), expected, atol=1e-6)


def test_invariance_is_the_mean_squared_difference_of_both(batch):
    z, y = batch
    expected = ((numpy_correlation(F.one_hot(y, 4).float()) - numpy_correlation(z)) ** 2).mean()
    assert losses.invariance(z, y, 4).item() == pytest.approx(expected, abs=1e-6)


def test_variance_is_the_mean_hinge_of_the_unbiased_deviation(batch):
    z, _ = batch
    z = z / 5
    deviation = np.sqrt(z.double().numpy().var(axis=0, ddof=1) + 1e-7)
    hinge = np.maximum(0, 1 - deviation).mean()
    assert losses.variance(z).item() == pytest.approx(hinge / len(z), abs=1e-6)
    assert losses.variance(z, per_batch=False).item() == pytest.approx(hinge, abs=1e-6)


@pytest.mark.parametrize("ddof", [0, 1])
def test_covariance_is_the_mean_of_squared_off_diagonals(batch, ddof):
    z, _ = batch
    cov = np.cov(z.double().numpy(), rowvar=False, ddof=ddof)
    expected = (cov**2).sum() - (np.diag(cov) ** 2).sum()
    assert losses.covariance(z, ddof).item() == pytest.approx(expected / z.shape[1], rel=1e-6)


@pytest.mark.parametrize("term", [losses.covariance, losses.variance, lambda z: losses.invariance(z, Y, 3)])
def test_gradients_are_those_of_finite_differences(term):
    torch.manual_seed(1)
    z = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(term, (z,))


Y = torch.tensor([0, 1, 2, 0, 1, 2])


def test_by_hand():
    # Rows (1, 0), (0, 1): correlation -1 off the diagonal, as labels 0 and 1 of two classes have: invariance 0.
    z, y = torch.eye(2), torch.tensor([0, 1])
    assert losses.invariance(z, y, 2).item() == pytest.approx(0, abs=1e-7)
    # With equal labels the target is 1 everywhere: two of four entries are off by 2, so 4 * 2 / 4.
    assert losses.invariance(z, torch.tensor([0, 0]), 2).item() == pytest.approx(2, abs=1e-6)
    # Each feature is 1 once and 0 once: unbiased variance 1/2, hinge 1 - sqrt(1/2), halved by B = 2.
    assert losses.variance(z, eps=0).item() == pytest.approx((1 - math.sqrt(0.5)) / 2, abs=1e-7)
    # Centred rows (.5, -.5), (-.5, .5): Cov = ((.25, -.25), (-.25, .25)), off-diagonal squares 2/16, over D = 2.
    assert losses.covariance(z).item() == pytest.approx(1 / 16, abs=1e-7)


def test_deinforeg_paper_normalises_rows_and_scaled_does_not():
    torch.manual_seed(0)
    p, y = torch.randn(12, 7) * 4, torch.arange(12) % 3
    paper, scaled = losses.deinforeg(p, y, 3), losses.deinforeg(p, y, 3, "scaled")
    z = p / p.norm(dim=1, keepdim=True)
    for name, term in {
        "invariance": losses.invariance(z, y, 3),
        "variance": losses.variance(z),
        "covariance": losses.covariance(z),
    }.items():
        assert paper[name].item() == pytest.approx(term.item(), abs=1e-6)
    assert scaled["covariance"].item() == pytest.approx(losses.covariance(p, ddof=1).item(), rel=1e-6)
    assert scaled["variance"].item() == pytest.approx(losses.variance(p, 1e-4, per_batch=False).item(), abs=1e-7)
    torch.testing.assert_close(losses.deinforeg(p * 9, y, 3)["covariance"], paper["covariance"])


def test_the_papers_variance_and_covariance_hardly_move():
    """METHODS.md, fact (a): at D = 2048 and B = 128 they stay within .0076 to .0078 and below 5e-4."""
    torch.manual_seed(0)
    y = torch.arange(128) % 10
    for p in (torch.randn(128, 2048), torch.randn(128, 1) * torch.ones(1, 2048) + 0.01 * torch.randn(128, 2048)):
        terms = losses.deinforeg(p, y, 10)
        assert 0.0076 <= terms["variance"].item() <= 0.00782
    assert losses.deinforeg(torch.randn(128, 2048), y, 10)["covariance"].item() < 5e-4


def test_constant_rows_give_finite_losses_and_gradients():
    p = torch.ones(4, 6, requires_grad=True)
    for variant in losses.VARIANTS:
        total = sum(losses.deinforeg(p, torch.tensor([0, 1, 0, 1]), 2, variant).values())
        total.backward()
        assert torch.isfinite(total)
        assert torch.isfinite(p.grad).all()


def test_supervised_contrast_is_the_papers_sum(batch):
    """Khosla et al., eq. 2, by loops in float64."""
    z, y = batch
    unit = (z.double() / z.double().norm(dim=1, keepdim=True)).numpy()
    anchors = []
    for i in range(len(y)):
        others = [a for a in range(len(y)) if a != i]
        total = sum(np.exp(unit[i] @ unit[a] / 0.5) for a in others)
        same = [np.log(np.exp(unit[i] @ unit[p] / 0.5) / total) for p in others if y[p] == y[i]]
        anchors += [-np.mean(same)] if same else []
    assert losses.supervised_contrast(z, y, 0.5).item() == pytest.approx(np.mean(anchors), rel=1e-6)


def test_supervised_contrast_by_hand_and_without_pairs():
    # Two of one class at right angles, one opposite the first: exp(0), exp(-1) and exp(0) are what they see.
    z, y = torch.tensor([[1.0, 0], [0, 1], [-1, 0]]), torch.tensor([0, 0, 1])
    expected = (math.log(1 + math.exp(-1)) + math.log(2)) / 2
    assert losses.supervised_contrast(z, y, 1.0).item() == pytest.approx(expected, abs=1e-6)
    z.requires_grad_()
    loss = losses.supervised_contrast(z, torch.tensor([0, 1, 2]))
    loss.backward()
    assert loss.item() == 0
    assert (z.grad == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.covariance(torch.randn(1, 4)), r"shape \(1, 4\).*B of at least 2"),
        (lambda: losses.variance(torch.randn(4, 3, 2)), r"shape \(4, 3, 2\)"),
        (
            lambda: losses.invariance(torch.randn(4, 3), torch.zeros(3, dtype=torch.long), 2),
            r"shape \(3,\).*one per row",
        ),
        (lambda: losses.invariance(torch.randn(4, 3), torch.zeros(4, dtype=torch.long), 1), "num_classes=1"),
        (lambda: losses.deinforeg(torch.randn(4, 3), torch.zeros(4), 2, "papre"), "unknown variant 'papre'.*paper"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
