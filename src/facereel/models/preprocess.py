"""What happens to a picture before the encoder; it travels in the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from facereel.errors import UserError

# A checkpoint that asks for more would take a search's time and memory away.
_LARGEST = 1024

# ITU-R BT.601 luma, which OpenCV and JPEG use too.
_LUMA = (0.299, 0.587, 0.114)


class Preprocess(nn.Module):
    """Resize, make grey if asked, and normalise.

    The released DHH code subtracts a mean image that was not published; a mean and a scale per channel are ours.

    Args:
        size: side of the square input in pixels.
        grey: replace the colours by their luma, so that grey stills and colour frames look alike.
        margin: the crops' side over the face box's that the encoder is made for, recorded for whoever cuts faces for
            the model; 1.2 is the face encoders' usual alignment.
        shift: likewise, how far those crops' middle lies below that of our template, in their sides.
        mirror: encode each picture and its mirror image and take the mean of their features: twice the time, and less
            noise. Done by `VideoHasher`.
        mean: subtracted per channel, in 0..1.
        std: divided by, per channel.

    Raises:
        UserError: for a number out of range.
    """

    def __init__(
        self,
        size: int = 64,
        grey: bool = False,
        margin: float = 1.2,
        shift: float = 0.0,
        mirror: bool = False,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__()
        if type(size) is not int or not 1 <= size <= _LARGEST:
            raise UserError(f"preprocess.size={size}: must be a whole number from 1 to {_LARGEST}")
        if not (0 < margin <= 20 and -1 <= shift <= 1):
            raise UserError(f"preprocess.margin={margin}, preprocess.shift={shift}: must be in 0..20 and -1..1")
        if not (len(mean) == len(std) == 3 and all(map(math.isfinite, [*mean, *std])) and all(std)):
            raise UserError(f"preprocess.mean={mean}, preprocess.std={std}: must be three numbers each, std not 0")
        self.size = size
        self.grey = grey
        self.margin = margin
        self.shift = shift
        self.mirror = mirror
        self.register_buffer("mean", torch.tensor(list(mean)).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(3, 1, 1), persistent=False)
        self.register_buffer("luma", torch.tensor(_LUMA).view(3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        self.luma: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in 0..1 -> (B, 3, size, size)."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images must be floating point (B, 3, H, W), not {images.dtype} {tuple(images.shape)}")
        if self.grey:
            images = (images * self.luma).sum(dim=1, keepdim=True).expand_as(images)
        if images.shape[-2:] != (self.size, self.size):
            images = interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return (images - self.mean) / self.std
