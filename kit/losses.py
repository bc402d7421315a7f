"""Local losses as pure functions of tensors.

Shape suffixes: B batch, C classes, D embedding width. Every function takes one batch and gives a scalar. All raise
ValueError or TypeError for embeddings, labels and numbers of classes that are none.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Variant = Literal["paper", "scaled"]
VARIANTS = get_args(Variant)
Contrast = Literal["supcon", "all-anchors", "scpl"]
CONTRASTS = get_args(Contrast)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy, in fp32, of `logits` (B, C) and labels `y` (B,)."""
    if logits.ndim != 2:
        raise ValueError(f"logits of shape {tuple(logits.shape)}, but a classifier answers (B, C): one row per sample")
    check_class_numbers(y, len(logits), logits.shape[1])
    return F.cross_entropy(logits.float(), y)


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
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(f"num_classes={num_classes!r}, but correlating labels takes at least 2 classes")
    check_class_numbers(y, len(y), num_classes)
    same = y[:, None] == y[None, :]
    return torch.where(same, 1.0, -1.0 / (num_classes - 1)).to(dtype)


def invariance(z: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return the mean squared difference of S(onehot(y)) and S(z), for `z` (B, D) and labels `y` (B,).

    Range [0, 4]. Correlation ignores the length of a row, so normalised and raw embeddings give the same value.
    Source: DeInfoReg (arXiv 2506.18193), invariance term; with a convolution's output as `z`, PredSim's sim loss.
    """
    _check_rows(z)
    check_class_numbers(y, len(z))
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
    if not 0 <= ddof < batch:
        raise ValueError(f"ddof={ddof}, but covariances of {batch} rows divide by {batch} - ddof: choose 0 or 1")
    z = z - z.mean(dim=0)
    # The squared entries of z'z (D, D) and of zz' (B, B) have the same sum: take the smaller matrix.
    gram = z @ z.T if batch < width else z.T @ z
    off_diagonal = gram.square().sum() - z.square().sum(dim=0).square().sum()
    return off_diagonal / ((batch - ddof) ** 2 * width)


def deinforeg(p: Tensor, y: Tensor, num_classes: int, variant: Variant = "paper") -> dict[str, Tensor]:
    """Return DeInfoReg's three terms, unweighted, for projections `p` (B, D) and labels `y` (B,).

    `variant="paper"`: on rows scaled to unit length, variance divided by B, covariance over B (arXiv 2506.18193).
    `variant="scaled"`: variance and covariance on `p` as it is, as VICReg does, so that they weigh something.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    _check_rows(p)
    if variant == "paper":
        z = F.normalize(p, dim=1)
        spread, redundancy = variance(z), covariance(z)
    else:
        spread, redundancy = variance(p, eps=1e-4, per_batch=False), covariance(p, ddof=1)
    return {"invariance": invariance(p, y, num_classes), "variance": spread, "covariance": redundancy}


def supervised_contrast(z: Tensor, y: Tensor, temperature: float = 0.1, contrast: Contrast = "supcon") -> Tensor:
    """Return the supervised contrastive loss of embeddings `z` (B, D), scaled to unit length, and labels `y` (B,).

    Each anchor is drawn to its positives, the others of its class, and away from all others; anchors without negatives
    would only be drawn together, and add nothing. `contrast` says how: "supcon", the mean over an anchor's positives,
    then over the anchors that have some (Khosla et al. 2020, eq. 2, the sum outside the log); "all-anchors", then over
    all anchors, as InfoPro's code does; "scpl", the sum over positives divided by one more than there are, then over
    all anchors, as SCPL's does. A batch of one class, or without any pair, gives 0.
    """
    _check_rows(z)
    check_class_numbers(y, len(z))
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not temperature > 0:
        raise ValueError(f"temperature={temperature!r}, but it has to be a positive number; SupCon's is 0.1")
    if contrast not in CONTRASTS:
        raise ValueError(f"unknown contrast {contrast!r}: choose one of {', '.join(CONTRASTS)}")
    z = F.normalize(z, dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    similarity = (z @ z.T / temperature).masked_fill(itself, float("-inf"))
    log_share = similarity - similarity.logsumexp(dim=1, keepdim=True)
    positives = (y[:, None] == y[None, :]) & ~itself
    num_positives = positives.sum(dim=1)
    divisor = num_positives + 1 if contrast == "scpl" else num_positives.clamp(min=1)
    drawn = -log_share.masked_fill(~positives, 0).sum(dim=1) / divisor
    drawn = drawn * (num_positives < len(z) - 1)
    return drawn.sum() / ((num_positives > 0).sum().clamp(min=1) if contrast == "supcon" else len(z))


def reconstruction(images: Tensor, x: Tensor) -> Tensor:
    """Return the binary cross-entropy of reconstructed `images` and the input `x`, both (B, C, H, W) in [0, 1].

    NaN where an image holds one. Source: InfoPro (ICLR 2021), section 3.3: a bound on what features still tell of the
    input.
    """
    if images.shape != x.shape:
        raise ValueError(f"images of shape {tuple(images.shape)} for inputs of shape {tuple(x.shape)}: they must agree")
    broken = images.isnan().any()  # PyTorch's loss refuses NaN: with a message about ranges, on a GPU for good
    try:
        loss = F.binary_cross_entropy(torch.where(broken, 0.5, images), x)
    except RuntimeError as error:
        raise ValueError(f"{error}: reconstruction takes images in [0, 1], which pixels= of decouple makes") from error
    return torch.where(broken, torch.nan, loss)


def associated(guess: Tensor, code: Tensor, decoded: Tensor, before: Tensor) -> dict[str, Tensor]:
    """Return associated learning's two terms: how far the features' `guess` (B, D) is from the label's `code` (B, D),
    and how far what is `decoded` from it is from the code `before` (B, D'), each a mean squared error.

    The code is a target for the guess, not a partner: the first term teaches it nothing. Source: AL (Kao & Chen 2021).
    """
    return {"association": F.mse_loss(guess, code.detach()), "decoding": F.mse_loss(decoded, before)}


def check_class_numbers(y: Tensor, count: int, num_classes: int | None = None, what: str = "labels") -> None:
    """Raise ValueError unless `y` (count,) are int64 class numbers, on the processor 0 to `num_classes` - 1."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{what} as {type(y).__name__}, expected a tensor (B,) of int64 class numbers: torch.as_tensor")
    if y.dtype != torch.int64 or y.shape != (count,):
        raise ValueError(
            f"{what} of shape {tuple(y.shape)} and {y.dtype} for {count} samples, expected ({count},) int64 class "
            "numbers, one per row: y.long(), or y.argmax(1) of one-hot rows"
        )
    if num_classes is None or not count or y.device.type != "cpu":  # a look at a GPU would wait for its queue
        return
    low, high = torch.aminmax(y)
    if low.item() < 0 or high.item() >= num_classes:
        k = int(((y < 0) | (y >= num_classes)).nonzero()[0])
        raise ValueError(
            f"{what}: {y[k]} at position {k}, but {num_classes} classes are numbered 0 to {num_classes - 1}: renumber "
            "them, raise num_classes, or look whether the file is the right one"
        )


def _check_rows(z: Tensor) -> None:
    if not isinstance(z, Tensor):
        raise TypeError(f"embeddings as {type(z).__name__}, expected a tensor (B, D): torch.as_tensor makes one")
    if z.ndim != 2 or len(z) < 2 or not z.is_floating_point():
        raise ValueError(
            f"embeddings of shape {tuple(z.shape)} and {z.dtype}, but batch statistics take (B, D) with B of at least "
            "2, floating-point"
        )
