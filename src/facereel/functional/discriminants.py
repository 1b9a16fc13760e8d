"""Linear discriminants: directions in which classes differ most, relative to the variance within classes."""

import torch
from torch import Tensor


def linear_discriminants(x: Tensor, labels: Tensor, n_components: int, *, shrinkage: float = 0.0) -> Tensor:
    """Compute the leading linear discriminants, whitened within classes (Fisher 1936; Rao 1948).

    The within-class covariance is shrunk towards a multiple of the identity and whitened. The components are then the
    principal components of the class means. Each has a variance of about 1 within a class; the first ones vary most
    between classes.

    Args:
        x: (N, D) float, one feature vector per row.
        labels: (N,) integer, the class of each row.
        n_components: K, at most D. The means of C classes differ in at most C - 1 directions; further components do
            not separate classes.
        shrinkage: the mean of the diagonal of the within-class covariance, times this factor, is added to that
            diagonal; >= 0.

    Returns:
        (D, K) projection matrix in the dtype of x, strongest component first; multiply x by it from the right.
        Computed in float64.

    Raises:
        ValueError: if a shape is wrong, shrinkage is negative, there are fewer than two classes or no class with two
            rows, or K is not in 1..D.

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
        raise ValueError(f"need at least two classes, and one with two rows; got {len(x)} rows in {n_classes} classes")
    if not 1 <= n_components <= dim:
        raise ValueError(f"n_components={n_components}: must be 1 to {dim}, the number of features")
    rows = x.double()
    means = rows.new_zeros(n_classes, dim).index_add(0, labels, rows) / torch.bincount(labels)[:, None]
    residuals = rows - means[labels]
    within = residuals.T @ residuals / (len(rows) - n_classes)
    within.diagonal().add_(shrinkage * within.diagonal().mean())
    variances, axes = torch.linalg.eigh(within)
    # A direction without variance is dropped, since it has no scale.
    kept = variances > variances[-1].clamp_min(torch.finfo(rows.dtype).tiny) * dim * torch.finfo(rows.dtype).eps
    whitening = axes * torch.where(kept, variances, torch.inf).rsqrt()
    between = (means - means.mean(dim=0)) @ whitening
    components = torch.linalg.svd(between, full_matrices=n_components > n_classes - 1).Vh[:n_components]
    return (whitening @ components.T).to(x.dtype)
