"""Hashing heads that are fitted to features in closed form: the baselines, and a start for training.

Stills and clips share one layer, whose hyperplanes divide the unit sphere. After `fit` the layer can be trained.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from facereel.errors import UserError
from facereel.functional import linear_discriminants
from facereel.models.heads.linear import OneHead


class FittedHead(OneHead):
    """Normalize, project on K directions, and take the sigmoid. A subclass says how `fit` finds the directions.

    Args:
        still_dim: not used; all heads take it.
        clip_dim: length of a clip's pooled vector.
        n_bits: K, the length of a code.
        length: pooled vectors are scaled to it, > 0. The codes do not depend on it, but further training does: a longer
            input is a higher learning rate.

    Raises:
        UserError: if n_bits < 1 or length is not > 0.
    """

    def __init__(self, still_dim: int, clip_dim: int, n_bits: int, length: float = 1.0) -> None:
        super().__init__(n_bits)
        if not length > 0:
            raise UserError(f"length={length}: must be > 0")
        self.length = length
        self.both = nn.Linear(clip_dim, n_bits)

    def forward_clips(self, pooled: Tensor) -> Tensor:
        """(B, clip_dim) -> (B, K) in 0..1."""
        return self.both(self.length * normalize(pooled, dim=1)).sigmoid()

    @torch.no_grad()
    def fit(self, pooled: Tensor, labels: Tensor, seed: int) -> None:
        """Set the layer from training data.

        Args:
            pooled: (N, clip_dim) of clips and stills.
            labels: (N,) integer, the person of each.
            seed: random seed.

        Raises:
            UserError: if there is too little data for K bits.
        """
        self.check(len(pooled), len(torch.unique(labels)))
        x = normalize(pooled.cpu(), dim=1)
        directions = self.directions(x, labels.cpu(), seed)
        offset = -x.mean(dim=0) @ directions
        # Scores then spread over 0..1; near 0 and 1 real-valued distances would hardly differ.
        scale = 1 / (x @ directions + offset).abs().mean()
        if not scale < 1e6:  # unit features differ by rounding only
            raise UserError(f"{type(self).__name__} cannot be fitted to one image or clip, or to equal ones")
        self.both.weight.copy_(scale / self.length * directions.T)
        self.both.bias.copy_(scale * offset)

    def check(self, n_items: int, n_people: int) -> None:
        """Raise a UserError if there are too few items, people or features for K bits."""

    def directions(self, x: Tensor, labels: Tensor, seed: int) -> Tensor:
        """(N, clip_dim) of unit length, (N,) -> (clip_dim, K) normals of the hyperplanes."""
        raise NotImplementedError


class LshHead(FittedHead):
    """Locality-sensitive hashing: random hyperplanes through the mean (Charikar 2002)."""

    def directions(self, x: Tensor, labels: Tensor, seed: int) -> Tensor:
        """(N, clip_dim), (N,) -> (clip_dim, K)."""
        return torch.randn(x.shape[1], self.n_bits, generator=torch.Generator().manual_seed(seed))


class ItqHead(FittedHead):
    """Iterative quantization: principal components, rotated towards their signs (Gong and Lazebnik, CVPR 2011)."""

    def check(self, n_items: int, n_people: int) -> None:
        """Raise a UserError if there are fewer features or items than bits."""
        if not self.n_bits <= min(n_items, self.both.in_features):
            raise UserError(
                f"n_bits={self.n_bits}: ITQ has at most as many bits as features ({self.both.in_features}) and "
                f"training items ({n_items}); use fewer bits, or LshHead, which has no such limit"
            )

    def directions(self, x: Tensor, labels: Tensor, seed: int) -> Tensor:
        """(N, clip_dim), (N,) -> (clip_dim, K)."""
        return itq_directions(x, self.n_bits, seed)


class LdaItqHead(FittedHead):
    """Linear discriminants, then the rotation of ITQ. Our combination.

    For Gaussian people with Gaussian variation no hyperplane gives a bit that flips more rarely: docs/accuracy.md.

    Args:
        still_dim: not used; all heads take it.
        clip_dim: length of a clip's pooled vector.
        n_bits: K, the length of a code.
        shrinkage: shrinkage of the covariance within people, >= 0; see `linear_discriminants`.
        length: see `FittedHead`.

    Raises:
        UserError: if n_bits < 1, shrinkage < 0 or length is not > 0.
    """

    def __init__(self, still_dim: int, clip_dim: int, n_bits: int, shrinkage: float = 2.0, length: float = 1.0) -> None:
        super().__init__(still_dim, clip_dim, n_bits, length)
        if not shrinkage >= 0:
            raise UserError(f"shrinkage={shrinkage}: must be at least 0")
        self.shrinkage = shrinkage

    def check(self, n_items: int, n_people: int) -> None:
        """Raise a UserError if K exceeds the features or the people less one, or no person has two items."""
        most = 0 if n_items == n_people else max(0, min(self.both.in_features, n_people - 1))
        if self.n_bits > most:
            raise UserError(
                f"n_bits={self.n_bits}: {self.both.in_features} features of {n_items} training items of {n_people} "
                f"people have at most {most} linear discriminants; use fewer bits, or more people"
            )

    def directions(self, x: Tensor, labels: Tensor, seed: int) -> Tensor:
        """(N, clip_dim), (N,) -> (clip_dim, K)."""
        discriminants = linear_discriminants(x, labels, self.n_bits, shrinkage=self.shrinkage)
        components = (x - x.mean(dim=0)) @ discriminants
        return discriminants @ itq_rotation(components, seed)


def itq_directions(x: Tensor, n_bits: int, seed: int) -> Tensor:
    """The leading principal components of (N, D), rotated by `itq_rotation` -> (D, n_bits)."""
    centered = x - x.mean(dim=0)
    components = torch.linalg.svd(centered, full_matrices=False).Vh[:n_bits].T
    return components @ itq_rotation(centered @ components, seed)


def itq_rotation(components: Tensor, seed: int, n_iterations: int = 50) -> Tensor:
    """Find an orthogonal matrix that brings components near to their signs: a local optimum.

    Signs and rotation are optimized in turn from a random start (Gong and Lazebnik, CVPR 2011, section 2.2). FAISS's
    ITQMatrix is no substitute: in 1.15.1 its steps do not lower the error.

    Args:
        components: (N, K) centered.
        seed: random seed of the start.
        n_iterations: 50 as in the paper.

    Returns:
        (K, K) of the dtype of `components`, to be multiplied from the right.
    """
    n_bits = components.shape[1]
    values = components.double()
    start = torch.randn(n_bits, n_bits, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rotation = torch.linalg.qr(start).Q
    for _ in range(n_iterations):
        signs = torch.where(values @ rotation > 0, 1.0, -1.0).double()
        left, _, right = torch.linalg.svd(values.T @ signs)
        rotation = left @ right
    return rotation.to(components.dtype)
