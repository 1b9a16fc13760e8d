"""Linear discriminants: the directions in which people differ most, measured in what each of them varies."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_discriminants(x: Tensor, labels: Tensor, n_components: int, *, shrinkage: float = 0.0) -> Tensor:
    """Project on the leading linear discriminants, whitened within classes (Fisher 1936; Rao 1948).

    The covariance within classes, shrunk towards a multiple of the identity, is whitened; the components are then the
    principal ones of the classes' means. Of K such components each varies by about 1 within a class, and the first ones
    most between classes.

    Args:
        x: (N, D) float.
        labels: (N,) integer, the class of each.
        n_components: K, at most D and the number of classes less one.
        shrinkage: times the mean of its diagonal is added to the diagonal of the covariance within classes, >= 0.

    Returns:
        (D, K) of x's dtype; x @ it are the components, the strongest first. Computed in float64.

    Raises:
        ValueError: for wrong shapes, a negative shrinkage, fewer than two classes, no class with two members, or more
            components than there are.

    Examples:
        >>> x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0], [3.0, 2.0]])
        >>> linear_discriminants(x, torch.tensor([0, 0, 1, 1]), 1, shrinkage=0.1).abs().round(decimals=3)
        tensor([[3.1620],
                [0.0000]])
    """
    if x.ndim != 2 or labels.shape != x.shape[:1]:
        raise ValueError(f"x must be (N, D) and labels (N,), not {tuple(x.shape)} and {tuple(labels.shape)}")
    if not shrinkage >= 0:
        raise ValueError(f"shrinkage={shrinkage}: must be at least 0")
    classes, labels = torch.unique(labels, return_inverse=True)
    n_classes, dim = len(classes), x.shape[1]
    if n_classes < 2 or n_classes == len(x):
        raise ValueError(
            f"{len(x)} rows of {n_classes} classes: at least two classes, and one with two rows, are needed"
        )
    if not 1 <= n_components <= min(dim, n_classes - 1):
        raise ValueError(
            f"{n_components} components of {dim} features and {n_classes} classes: there are no more than "
            f"{min(dim, n_classes - 1)}"
        )
    rows = x.double()
    means = rows.new_zeros(n_classes, dim).index_add(0, labels, rows) / torch.bincount(labels)[:, None]
    residuals = rows - means[labels]
    within = residuals.T @ residuals / (len(rows) - n_classes)
    within.diagonal().add_(shrinkage * within.diagonal().mean())
    variances, axes = torch.linalg.eigh(within)
    # A direction in which nothing varies has no scale: it is left out rather than blown up.
    kept = variances > variances[-1].clamp_min(torch.finfo(rows.dtype).tiny) * dim * torch.finfo(rows.dtype).eps
    whitening = axes * torch.where(kept, variances, torch.inf).rsqrt()
    between = (means - means.mean(dim=0)) @ whitening
    components = torch.linalg.svd(between, full_matrices=False).Vh[:n_components]
    return (whitening @ components.T).to(x.dtype)
