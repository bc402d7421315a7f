"""What a block's output is like: pure functions of features (N, D) and labels (N,), as tensors or arrays."""

import numpy as np
import sklearn  # its parts are loaded when first used
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits  # scikit-learn brings it

from kit.errors import check_name

PROJECTIONS = ("pca", "tsne")

_ALONE = threadpool_limits.wrap(limits=1)  # small matrices are slower on two threads, far slower on a busy machine


@_ALONE
def spectrum(features: ArrayLike, centre: bool = True) -> np.ndarray:
    """Return the singular values of `features` (N, D), centred or not, largest first: few large ones are a collapse."""
    z = _rows(features)
    return np.linalg.svd(z - z.mean(0) if centre else z, compute_uv=False)


def effective_rank(features: ArrayLike, centre: bool = True) -> float:
    """Return exp(entropy) of singular values' shares (Roy & Vetterli, EUSIPCO 2007): r if r are equal, else less."""
    values = spectrum(features, centre)
    values = values[values > values.max(initial=0) * 1e-12]
    share = values / values.sum()
    return float(np.exp(-(share * np.log(share)).sum())) if len(values) else 0.0


def cka(a: ArrayLike, b: ArrayLike) -> float:
    """Return the linear CKA of two representations (N, D1) and (N, D2) of the same N samples, in [0, 1].

    ‖AᵀB‖² / (‖AᵀA‖ ‖BᵀB‖) of centred features, in Frobenius norms (Kornblith et al., ICML 2019): 1 for a rotated and
    rescaled copy, 0 where one side is constant. Computed from N×N Gram matrices where those are smaller.
    """
    a, b = _rows(a), _rows(b)
    if len(a) != len(b):
        raise ValueError(f"CKA compares representations of the same samples, but there are {len(a)} and {len(b)}")
    a, b = a - a.mean(0), b - b.mean(0)
    if len(a) < max(a.shape[1], b.shape[1]):
        a, b = a @ a.T, b @ b.T
        cross, own = (a * b).sum(), np.linalg.norm(a) * np.linalg.norm(b)
    else:
        cross, own = np.linalg.norm(a.T @ b) ** 2, np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    return float(np.clip(cross / own, 0, 1)) if own > 0 else 0.0


@_ALONE
def cka_matrix(first: list[ArrayLike], second: list[ArrayLike] | None = None) -> np.ndarray:
    """Return the CKA of every representation in `first` with every one in `second` (by default `first` again)."""
    return np.array([[cka(a, b) for b in (first if second is None else second)] for a in first])


def class_separation(features: ArrayLike, labels: ArrayLike) -> float:
    """Return 1 − (mean cosine distance within a class) / (mean cosine distance overall), at most 1.

    1: each class points one way. 0: classes overlap entirely. Classes weigh the same, whatever their numbers
    (Kornblith et al., NeurIPS 2021, class separation R²). 0 where all features point the same way.
    """
    z, y = _labelled(features, labels)
    unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    means = np.stack([unit[y == label].mean(0) for label in np.unique(y)])
    within, total = 1 - (means**2).sum(1).mean(), 1 - (means.mean(0) ** 2).sum()
    return float(1 - within / total) if total > 1e-12 else 0.0


@_ALONE
def linear_probe(features: ArrayLike, labels: ArrayLike, seed: int = 0) -> float:
    """Return the accuracy that a linear classifier reaches on frozen features: what they still say about the class.

    A stratified half of the samples, drawn by `seed`, fits a logistic regression (L2 with C = 1, features standardised
    on that half); the accuracy is that on the other. Raises ValueError for fewer than two samples of a class.
    """
    z, y = _labelled(features, labels)
    classes, counts = np.unique(y, return_counts=True)
    if counts.min() < 2:
        raise ValueError(
            "a linear probe fits one half and scores the other, so it takes 2 samples of each class or more; here are "
            f"{len(y)} samples of {len(classes)} classes, {counts.min()} of the rarest. Take more samples"
        )
    z, test_z, y, test_y = sklearn.model_selection.train_test_split(z, y, test_size=0.5, random_state=seed, stratify=y)
    classifier = sklearn.linear_model.LogisticRegression(max_iter=300)
    probe = sklearn.pipeline.make_pipeline(sklearn.preprocessing.StandardScaler(), classifier)
    return float(probe.fit(z, y).score(test_z, test_y))


@_ALONE
def linear_reconstruction(features: ArrayLike, images: ArrayLike, seed: int = 0) -> tuple[float, np.ndarray]:
    """Return how much of the `images` (N, …) a linear map reads off frozen `features` (N, D), and what it reads.

    Half of the samples, drawn by `seed`, fit a ridge regression (α of 1 to 10⁵, chosen by leaving one out). The share,
    at most 1, is that of the other half's variance which it explains; 0 is no better than the mean image. The pictures
    (N, …) are of all samples, fitted ones among them.
    """
    z, x = _rows(features), np.asarray(images, dtype=np.float64)
    if len(z) != len(x) or len(z) < 4:
        raise ValueError(f"{len(z)} samples and {len(x)} images: give one image per sample, and at least 4")
    flat = x.reshape(len(x), -1)
    fit, test = sklearn.model_selection.train_test_split(np.arange(len(z)), test_size=0.5, random_state=seed)
    # Standardised on all: a feature that is constant on one half only would explode on the other.
    z = sklearn.preprocessing.StandardScaler().fit_transform(z)
    read = sklearn.linear_model.RidgeCV(np.logspace(0, 5, 6)).fit(z[fit], flat[fit]).predict(z)
    error, spread = ((read - flat)[test] ** 2).sum(), ((flat[test] - flat[fit].mean(0)) ** 2).sum()
    return float(1 - error / spread), read.reshape(x.shape)


@_ALONE
def project(features: ArrayLike, method: str = "pca", perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """Return a map (N, 2) of `features` (N, D): `pca`, or `tsne` (van der Maaten & Hinton 2008) begun from PCA.

    PCA keeps distances as well as a plane can; t-SNE keeps neighbours, and its distances and sizes mean nothing. Raises
    ValueError for another method, fewer than 3 points, or a perplexity (neighbours of a point) not below their number.
    """
    z = _rows(features)
    check_name("projection", method, PROJECTIONS)
    if len(z) < 3:
        raise ValueError(f"a map takes at least 3 points, but there are {len(z)}")
    if method == "tsne" and not 0 < perplexity < len(z):
        raise ValueError(
            f"perplexity={perplexity:g} with {len(z)} points: a point cannot have that many neighbours; "
            f"choose less than {len(z)}, a third of it or so"
        )
    z = np.pad(z, ((0, 0), (0, max(0, 2 - z.shape[1]))))
    if method == "pca":
        return sklearn.decomposition.PCA(2, random_state=seed).fit_transform(z)
    tsne = sklearn.manifold.TSNE(2, perplexity=perplexity, init="pca", max_iter=500, random_state=seed)
    return tsne.fit_transform(z / max(z.std(), 1e-12))  # t-SNE has a scale of its own


def _rows(features: ArrayLike) -> np.ndarray:
    z = np.asarray(features, dtype=np.float64)
    if z.ndim != 2 or min(z.shape) < 1:
        raise ValueError(f"features have shape {z.shape}, expected (samples, features)")
    if not np.isfinite(z).all():
        raise ValueError("the features are not all finite: the network diverged. Try a smaller lr")
    return z


def _labelled(features: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    z, y = _rows(features), np.asarray(labels)
    if len(z) != len(y):
        raise ValueError(f"{len(z)} samples, but {len(y)} labels")
    if len(np.unique(y)) < 2:
        raise ValueError(f"{len(z)} samples of {len(np.unique(y))} classes: take samples of at least 2 classes")
    return z, y
