"""Hashing heads that are fitted to features in one go: the baselines, and where learned rotations start from.

A still is a clip of one frame: both go through one layer, whose hyperplanes cut the unit sphere. After `fit` the layer
may be trained further like any other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from facereel.errors import UserError
from facereel.functional import linear_discriminants
from facereel.models.head import checked_bits


class FittedHead(nn.Module):
    """Normalise, project on K directions, and squash; what subclasses differ in is how `fit` finds the directions.

    Args:
        still_dim: not used; here so that all heads are built alike.
        clip_dim: length of a clip's pooled vector.
        n_bits: K, the length of a code.
    """

    pools_stills = True

    def __init__(self, still_dim: int, clip_dim: int, n_bits: int) -> None:
        super().__init__()
        self.n_bits = checked_bits(n_bits)
        self.both = nn.Linear(clip_dim, n_bits)

    def forward_stills(self, pooled: Tensor) -> Tensor:
        """(B, clip_dim) -> (B, K) in 0..1."""
        return self.forward_clips(pooled)

    def forward_clips(self, pooled: Tensor) -> Tensor:
        """(B, clip_dim) -> (B, K) in 0..1."""
        return self.both(normalize(pooled, dim=1)).sigmoid()

    @torch.no_grad()
    def fit(self, pooled: Tensor, labels: Tensor, seed: int) -> None:
        """Set the layer from training data.

        Args:
            pooled: (N, clip_dim) of clips and stills.
            labels: (N,) integer, the person of each.
            seed: of random draws.

        Raises:
            UserError: if there is too little data for so many bits.
        """
        self.check(len(pooled), len(torch.unique(labels)))
        x = normalize(pooled.cpu(), dim=1)
        directions = self.directions(x, labels.cpu(), seed)
        offset = -x.mean(dim=0) @ directions
        # The scores of a code spread over 0..1 without sitting at its ends, where distances would not tell them apart.
        scale = 1 / (x @ directions + offset).abs().mean()
        if not scale < 1e6:  # unit features differ by rounding only
            raise UserError(
                f"{type(self).__name__} cannot be fitted to one picture or clip, or several that are all alike"
            )
        self.both.weight.copy_(scale * directions.T)
        self.both.bias.copy_(scale * offset)

    def check(self, n_items: int, n_people: int) -> None:
        """Raise a UserError if so many items of so many people are too few for the bits, or the features too short."""

    def directions(self, x: Tensor, labels: Tensor, seed: int) -> Tensor:
        """(N, clip_dim) of unit length, (N,) -> (clip_dim, K) normals of the hyperplanes."""
        raise NotImplementedError


class LshHead(FittedHead):
    """Locality-sensitive hashing: random hyperplanes through the mean (Charikar 2002)."""

    def directions(self, x: Tensor, labels: Tensor, seed: int) -> Tensor:
        """(N, clip_dim), (N,) -> (clip_dim, K)."""
        return torch.randn(x.shape[1], self.n_bits, generator=torch.Generator().manual_seed(seed))


class ItqHead(FittedHead):
    """Iterative quantisation: principal components, rotated towards their signs (Gong and Lazebnik, CVPR 2011)."""

    def check(self, n_items: int, n_people: int) -> None:
        """Raise a UserError if there are fewer features or items than bits."""
        if not self.n_bits <= min(n_items, self.both.in_features):
            raise UserError(
                f"head.n_bits={self.n_bits}: ITQ has at most as many bits as features and training items, here "
                f"{self.both.in_features} and {n_items}; head=lsh has no such bound"
            )

    def directions(self, x: Tensor, labels: Tensor, seed: int) -> Tensor:
        """(N, clip_dim), (N,) -> (clip_dim, K)."""
        return itq_directions(x, self.n_bits, seed)


class WhitenedItqHead(FittedHead):
    """Linear discriminants in place of ITQ's principal components, so that bits count what tells people apart. Ours.

    Each bit flips as seldom as a hyperplane can make it where people and what each varies are Gaussian: see
    docs/accuracy.md.

    Args:
        still_dim: not used.
        clip_dim: length of a clip's pooled vector.
        n_bits: K, the length of a code.
        shrinkage: of the covariance within people, see `linear_discriminants`.
    """

    def __init__(self, still_dim: int, clip_dim: int, n_bits: int, shrinkage: float = 2.0) -> None:
        super().__init__(still_dim, clip_dim, n_bits)
        if not shrinkage >= 0:
            raise UserError(f"head.shrinkage={shrinkage}: must be at least 0")
        self.shrinkage = shrinkage

    def check(self, n_items: int, n_people: int) -> None:
        """Raise a UserError if there are fewer features than bits, no more people, or no two items of one."""
        most = min(self.both.in_features, n_people - 1)
        if n_items == n_people or self.n_bits > most:
            raise UserError(
                f"head.n_bits={self.n_bits}: linear discriminants of {self.both.in_features} features of {n_items} "
                f"training items of {n_people} people are no more than {0 if n_items == n_people else max(most, 0)}"
            )

    def directions(self, x: Tensor, labels: Tensor, seed: int) -> Tensor:
        """(N, clip_dim), (N,) -> (clip_dim, K)."""
        discriminants = linear_discriminants(x, labels, self.n_bits, shrinkage=self.shrinkage)
        components = (x - x.mean(dim=0)) @ discriminants
        return discriminants @ itq_rotation(components, seed)


def itq_directions(x: Tensor, n_bits: int, seed: int) -> Tensor:
    """The leading principal components of (N, D), rotated by `itq_rotation` -> (D, n_bits)."""
    centred = x - x.mean(dim=0)
    components = torch.linalg.svd(centred, full_matrices=False).Vh[:n_bits].T
    return components @ itq_rotation(centred @ components, seed)


def itq_rotation(components: Tensor, seed: int, n_iterations: int = 50) -> Tensor:
    """The orthogonal matrix that brings components nearest to their signs: a local optimum.

    Signs and rotation are found in turn from a random start (Gong and Lazebnik, CVPR 2011, section 2.2). Not FAISS's
    ITQMatrix: in 1.15.1 its steps do not lower the error, and its result is hardly better than a random rotation.

    Args:
        components: (N, K) centred.
        seed: of the start.
        n_iterations: 50 as in the paper.

    Returns:
        (K, K) of the dtype of components; components @ it are the rotated ones.
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
