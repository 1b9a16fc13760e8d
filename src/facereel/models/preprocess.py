"""Preprocessing of images for the encoder, saved with the model."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from facereel.errors import UserError
from facereel.functional.luma import LUMA_WEIGHTS

# An untrusted checkpoint must not request images that exhaust memory.
_LARGEST = 1024


class Preprocess(nn.Module):
    """Resize images, optionally convert them to grayscale, and normalize them.

    The released DHH code subtracts a mean image that was not published; a mean and a scale per channel are our choice.

    Args:
        size: side of the square input, in pixels.
        grayscale: replace the colors by their luma, so that gray stills and color frames look the same.
        margin: side of the crops that the encoder expects, as a multiple of the side of the face box; 1.2 is the usual
            alignment. Used by the code that crops faces for the model.
        vertical_offset: how far the center of those crops is below the center of our template, as a fraction of the
            side of the crop. Used like `margin`.
        flip_tta: average the features of each image and its mirror image, which doubles the time and reduces noise.
            Applied by `VideoHasher`.
        mean: subtracted from each channel, in 0..1.
        std: divisor of each channel, in 0..1.

    Raises:
        UserError: if a number is out of range.
    """

    def __init__(
        self,
        size: int = 64,
        grayscale: bool = False,
        margin: float = 1.2,
        vertical_offset: float = 0.0,
        flip_tta: bool = False,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__()
        if type(size) is not int or not 1 <= size <= _LARGEST:
            raise UserError(f"size={size}: must be a whole number from 1 to {_LARGEST}")
        if not (0 < margin <= 20 and -1 <= vertical_offset <= 1):
            raise UserError(f"margin={margin}, vertical_offset={vertical_offset}: must be in 0..20 and in -1..1")
        if not (len(mean) == len(std) == 3 and all(map(math.isfinite, [*mean, *std])) and all(std)):
            raise UserError(f"mean={mean}, std={std}: each must be three numbers, and std must not contain 0")
        self.size = size
        self.grayscale = grayscale
        self.margin = margin
        self.vertical_offset = vertical_offset
        self.flip_tta = flip_tta
        self.register_buffer("mean", torch.tensor(list(mean)).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(3, 1, 1), persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA_WEIGHTS).view(3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        self.luma: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Preprocess images.

        Args:
            images: (B, 3, H, W) float in 0..1, RGB.

        Returns:
            (B, 3, size, size) float, normalized.

        Raises:
            ValueError: if the shape or type is wrong.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images must be floating point (B, 3, H, W), not {images.dtype} {tuple(images.shape)}")
        if self.grayscale:
            images = (images * self.luma).sum(dim=1, keepdim=True).expand_as(images)
        if images.shape[-2:] != (self.size, self.size):
            images = interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return (images - self.mean) / self.std
