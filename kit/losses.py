"""Local losses as pure functions of tensors.

Shape suffixes: B batch, C classes, D embedding width. Every function takes one batch and gives a scalar.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

VARIANTS = ("paper", "scaled")


def correlation(z: Tensor) -> Tensor:
    """Return S(z) (B, B): Pearson correlations between the rows of `z` (B, D), in [-1, 1].

    A constant row correlates 0 with every row. Source: DeInfoReg (arXiv 2506.18193), similarity matrix; PredSim.
    """
    _check_rows(z)
    rows = F.normalize(z - z.mean(dim=1, keepdim=True), dim=1)
    return (rows @ rows.T).clamp(-1, 1)


def label_correlation(y: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return S(onehot(y)) (B, B) for labels `y` (B,): 1 where two labels agree, else -1 / (C - 1).

    This is `correlation(one_hot(y))` in closed form. Raises ValueError for fewer than two classes.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}, but correlating labels takes at least 2 classes")
    same = y[:, None] == y[None, :]
    return torch.where(same, 1.0, -1.0 / (num_classes - 1)).to(dtype)


def invariance(z: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return the mean squared difference of S(onehot(y)) and S(z), for `z` (B, D) and labels `y` (B,).

    Range [0, 4]. Correlation ignores the length of a row, so normalised and raw embeddings give the same value.
    Source: DeInfoReg (arXiv 2506.18193), invariance term; with a convolution's output as `z`, PredSim's sim loss.
    """
    _check_labels(z, y)
    return F.mse_loss(correlation(z), label_correlation(y, num_classes, z.dtype))


def variance(z: Tensor, eps: float = 1e-7, per_batch: bool = True) -> Tensor:
    """Return mean over features of relu(1 - sqrt(Var + eps)), for `z` (B, D); Var is unbiased, over the batch.

    `per_batch` divides by B, as DeInfoReg does (arXiv 2506.18193); without it this is VICReg's hinge
    (Bardes et al. 2022, eq. 1 and 2). Range [0, 1].
    """
    _check_rows(z)
    hinge = F.relu(1 - torch.sqrt(z.var(dim=0) + eps)).mean()
    return hinge / len(z) if per_batch else hinge


def covariance(z: Tensor, ddof: int = 0) -> Tensor:
    """Return the sum of the squared off-diagonal covariances of the features of `z` (B, D), divided by D.

    Covariances divide by B - `ddof`: 0 in DeInfoReg (arXiv 2506.18193), 1 in VICReg (eq. 3 and 4).
    """
    _check_rows(z)
    batch, width = z.shape
    z = z - z.mean(dim=0)
    # The squared entries of z'z (D, D) and of zz' (B, B) have the same sum: take the smaller matrix.
    gram = z @ z.T if batch < width else z.T @ z
    off_diagonal = gram.square().sum() - z.square().sum(dim=0).square().sum()
    return off_diagonal / ((batch - ddof) ** 2 * width)


def deinforeg(p: Tensor, y: Tensor, num_classes: int, variant: str = "paper") -> dict[str, Tensor]:
    """Return DeInfoReg's three terms, unweighted, for projections `p` (B, D) and labels `y` (B,).

    `variant="paper"`: on rows scaled to unit length, variance divided by B, covariance over B (arXiv 2506.18193).
    `variant="scaled"`: variance and covariance on `p` as it is, as VICReg does, so that they weigh something.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    if variant == "paper":
        z = F.normalize(p, dim=1)
        spread, redundancy = variance(z), covariance(z)
    else:
        spread, redundancy = variance(p, eps=1e-4, per_batch=False), covariance(p, ddof=1)
    return {"invariance": invariance(p, y, num_classes), "variance": spread, "covariance": redundancy}


def supervised_contrast(z: Tensor, y: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the supervised contrastive loss of embeddings `z` (B, D), scaled to unit length, and labels `y` (B,).

    Each sample is drawn to those of its class in the batch and away from all others; samples without a companion have
    no say, and a batch without any pair gives 0. Source: SupCon (Khosla et al. 2020), eq. 2 (the sum outside the log).
    Raises ValueError for a batch of one class: with nobody to be drawn away from, all samples would become one.
    """
    _check_rows(z)
    _check_labels(z, y)
    if (y == y[0]).all():
        raise ValueError(
            f"all {len(y)} labels of the batch are {y[0].item()}, but contrast takes samples of at least two classes: "
            "shuffle the samples, take larger batches, or a batch_size that leaves no tiny last one"
        )
    z = F.normalize(z, dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    similarity = (z @ z.T / temperature).masked_fill(itself, float("-inf"))
    log_share = similarity - similarity.logsumexp(dim=1, keepdim=True)
    companions = (y[:, None] == y[None, :]) & ~itself
    num_companions = companions.sum(dim=1)
    drawn = -log_share.masked_fill(~companions, 0).sum(dim=1) / num_companions.clamp(min=1)
    return drawn.sum() / (num_companions > 0).sum().clamp(min=1)


def reconstruction(images: Tensor, x: Tensor) -> Tensor:
    """Return the binary cross-entropy of reconstructed `images` and the input `x`, both (B, C, H, W) in [0, 1].

    Source: InfoPro (ICLR 2021), section 3.3: a bound on what features still tell of the input.
    """
    return F.binary_cross_entropy(images, x)


def associated(guess: Tensor, code: Tensor, decoded: Tensor, before: Tensor) -> dict[str, Tensor]:
    """Return associated learning's two terms: how far the features' `guess` (B, D) is from the label's `code` (B, D),
    and how far what is `decoded` from it is from the code `before` (B, D'), each a mean squared error.

    The code is a target for the guess, not a partner: the first term teaches it nothing. Source: AL (Kao & Chen 2021).
    """
    return {"association": F.mse_loss(guess, code.detach()), "decoding": F.mse_loss(decoded, before)}


def _check_rows(z: Tensor) -> None:
    if z.ndim != 2 or len(z) < 2:
        raise ValueError(f"embeddings of shape {tuple(z.shape)}, but batch statistics take (B, D) with B of at least 2")


def _check_labels(z: Tensor, y: Tensor) -> None:
    if y.shape != z.shape[:1]:
        raise ValueError(f"labels of shape {tuple(y.shape)} for embeddings of shape {tuple(z.shape)}: give one per row")
