"""Hashing heads that are fitted to features in closed form, as baselines or as initial weights for training.

Stills and clips share one layer; its hyperplanes divide the unit sphere. After `fit`, the layer can be trained.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from facereel.errors import UserError
from facereel.functional import linear_discriminants
from facereel.models.heads.linear import OneHead


class FittedHead(OneHead):
    """Normalize, project on K directions, and take the sigmoid. A subclass defines how `fit` finds the directions.

    Args:
        still_dim: not used; all heads take it.
        clip_dim: length of a clip's pooled vector.
        n_bits: K, the length of a code.
        length: length to which pooled vectors are scaled, > 0. The codes do not depend on it, but further training
            does: a longer input acts like a higher learning rate.

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
        """Compute the scores of clips.

        Args:
            pooled: (B, clip_dim) pooled clips.

        Returns:
            (B, K) scores in 0..1.
        """
        return self.both(self.length * normalize(pooled, dim=1)).sigmoid()

    @torch.no_grad()
    def fit(self, pooled: Tensor, labels: Tensor, seed: int) -> None:
        """Set the layer from training data.

        Args:
            pooled: (N, clip_dim) pooled clips and stills.
            labels: (N,) integer, the person of each row.
            seed: random seed.

        Raises:
            UserError: if there is too little data for K bits.
        """
        self.check(len(pooled), len(torch.unique(labels)))
        x = normalize(pooled.cpu(), dim=1)
        directions = self.directions(x, labels.cpu(), seed)
        offset = -x.mean(dim=0) @ directions
        # With this scale scores spread over 0..1; near 0 and 1, real-valued distances would hardly differ.
        scale = 1 / (x @ directions + offset).abs().mean()
        if not scale < 1e6:  # the unit features differ only by rounding
            raise UserError(f"{type(self).__name__} cannot be fitted to a single image or clip, or to identical ones")
        self.both.weight.copy_(scale / self.length * directions.T)
        self.both.bias.copy_(scale * offset)

    def check(self, n_items: int, n_people: int) -> None:
        """Check that there are enough items, people and features for K bits; raise a UserError if not.

        Args:
            n_items: number of training items.
            n_people: number of people.
        """

    def directions(self, x: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Compute the normals of the hyperplanes.

        Args:
            x: (N, clip_dim) unit vectors.
            labels: (N,) integer, the person of each.
            seed: random seed.

        Returns:
            (clip_dim, K) normals, in the dtype of x.
        """
        raise NotImplementedError


class LshHead(FittedHead):
    """Locality-sensitive hashing: random hyperplanes through the mean (Charikar 2002)."""

    def directions(self, x: Tensor, labels: Tensor, seed: int) -> Tensor:
        """(N, clip_dim), (N,) -> (clip_dim, K)."""
        return torch.randn(x.shape[1], self.n_bits, generator=torch.Generator().manual_seed(seed))


class ItqHead(FittedHead):
    """Iterative quantization: principal components, rotated towards their signs (Gong and Lazebnik, CVPR 2011)."""

    def check(self, n_items: int, n_people: int) -> None:
        """Check that there are at least as many features and items as bits.

        Args:
            n_items: number of training items.
            n_people: not used.

        Raises:
            UserError: if there are too few.
        """
        if not self.n_bits <= min(n_items, self.both.in_features):
            raise UserError(
                f"n_bits={self.n_bits}: ITQ needs at least as many features ({self.both.in_features}) and training "
                f"items ({n_items}) as bits; use fewer bits, or LshHead, which has no such limit"
            )

    def directions(self, x: Tensor, labels: Tensor, seed: int) -> Tensor:
        """(N, clip_dim), (N,) -> (clip_dim, K)."""
        return itq_directions(x, self.n_bits, seed)


class LdaItqHead(FittedHead):
    """Linear discriminants, followed by the rotation of ITQ. Our combination.

    For Gaussian people with Gaussian variation, no hyperplane gives a bit that flips more rarely:
    docs/explanation/accuracy.md.

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
        """Check that K is at most the number of features and the number of people minus one.

        Args:
            n_items: number of training items.
            n_people: number of people.

        Raises:
            UserError: if K is larger, or no person has two items.
        """
        most = 0 if n_items == n_people else max(0, min(self.both.in_features, n_people - 1))
        if self.n_bits > most:
            raise UserError(
                f"n_bits={self.n_bits}: {self.both.in_features} features of {n_items} training items of {n_people} "
                f"people have at most {most} linear discriminants; use fewer bits or more people"
            )

    def directions(self, x: Tensor, labels: Tensor, seed: int) -> Tensor:
        """(N, clip_dim), (N,) -> (clip_dim, K)."""
        discriminants = linear_discriminants(x, labels, self.n_bits, shrinkage=self.shrinkage)
        components = (x - x.mean(dim=0)) @ discriminants
        return discriminants @ itq_rotation(components, seed)


def itq_directions(x: Tensor, n_bits: int, seed: int, n_iterations: int = 50) -> Tensor:
    """Compute the leading principal components, rotated by `itq_rotation`.

    Args:
        x: (N, D) float.
        n_bits: K, number of components.
        seed: random seed of the rotation.
        n_iterations: number of iterations of `itq_rotation`.

    Returns:
        (D, K) in the dtype of x.
    """
    centered = x - x.mean(dim=0)
    components = torch.linalg.svd(centered, full_matrices=False).Vh[:n_bits].T
    return components @ itq_rotation(centered @ components, seed, n_iterations)


def itq_rotation(components: Tensor, seed: int, n_iterations: int = 50) -> Tensor:
    """Find an orthogonal matrix that brings components close to their signs: a local optimum.

    Signs and rotation are optimized alternately from a random start (Gong and Lazebnik, CVPR 2011, section 2.2). The
    ITQMatrix of FAISS cannot replace it: in version 1.15.1 its steps do not reduce the error.

    Args:
        components: (N, K) float, centered.
        seed: random seed of the initial rotation.
        n_iterations: number of iterations; 50 as in the paper.

    Returns:
        (K, K) in the dtype of `components`; multiply components by it from the right.
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
