"""FaceNet's network, an Inception-ResNet v1."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from facereel.errors import UserError
from facereel.models.encoders.state_dict import load_weights

_WIDTH, _EMBEDDING = 1792, 512
# In a smaller image the input of the last convolution with a stride would have sides of fewer than three pixels.
_SMALLEST = 75

# Branches of each kind of block: channels and kernel (rows, columns) of each convolution.
_BLOCK_35 = (((32, 1, 1),), ((32, 1, 1), (32, 3, 3)), ((32, 1, 1), (32, 3, 3), (32, 3, 3)))
_BLOCK_17 = (((128, 1, 1),), ((128, 1, 1), (128, 1, 7), (128, 7, 1)))
_BLOCK_8 = (((192, 1, 1),), ((192, 1, 1), (192, 1, 3), (192, 3, 1)))
# Of the blocks that halve the sides: the last convolution of each branch has a stride of 2.
_MIXED_6A = (((384, 3, 3),), ((192, 1, 1), (192, 3, 3), (256, 3, 3)))
_MIXED_7A = (((256, 1, 1), (384, 3, 3)), ((256, 1, 1), (256, 3, 3)), ((256, 1, 1), (256, 3, 3), (256, 3, 3)))


class FaceNet(nn.Module):
    """The Inception-ResNet v1 of facenet-pytorch, from 160 x 160 pixels to 512 numbers.

    The network of Szegedy, Ioffe, Vanhoucke and Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual
    Connections on Learning", AAAI 2017, as David Sandberg trained it after Schroff, Kalenichenko and Philbin,
    "FaceNet", CVPR 2015. Faces are compared by cosine similarity. Use `Preprocess` with size=160, mean=(0.5, 0.5, 0.5)
    and std=(128 / 255, 128 / 255, 128 / 255). The tests compare random weights with a second
    implementation: the original weights were not available.

    Args:
        weights: path of a state dict of facenet-pytorch's InceptionResnetV1, read with weights_only, or None for random
            weights. Its classifier `logits` is dropped. Nothing is downloaded.
        dropout: probability of zeroing a value before the last layer, in training.

    Raises:
        UserError: if the file is missing or does not fit.

    Examples:
        >>> FaceNet().eval()(torch.zeros(2, 3, 160, 160)).shape
        torch.Size([2, 512])
    """

    def __init__(self, weights: str | None = None, dropout: float = 0.6) -> None:
        super().__init__()
        self.dim = _EMBEDDING
        self.conv2d_1a = _ConvNormReLU(3, 32, (3, 3), stride=2)
        self.conv2d_2a = _ConvNormReLU(32, 32, (3, 3))
        self.conv2d_2b = _ConvNormReLU(32, 64, (3, 3), padding=(1, 1))
        self.conv2d_3b = _ConvNormReLU(64, 80, (1, 1))
        self.conv2d_4a = _ConvNormReLU(80, 192, (3, 3))
        self.conv2d_4b = _ConvNormReLU(192, 256, (3, 3), stride=2)
        self.repeat_1 = nn.Sequential(*(_Residual(256, _BLOCK_35, 0.17) for _ in range(5)))
        self.mixed_6a = _Reduction(256, _MIXED_6A)
        self.repeat_2 = nn.Sequential(*(_Residual(896, _BLOCK_17, 0.1) for _ in range(10)))
        self.mixed_7a = _Reduction(896, _MIXED_7A)
        self.repeat_3 = nn.Sequential(*(_Residual(_WIDTH, _BLOCK_8, 0.2) for _ in range(5)))
        self.block8 = _Residual(_WIDTH, _BLOCK_8, 1.0, activates=False)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(_WIDTH, self.dim, bias=False)
        self.last_bn = nn.BatchNorm1d(self.dim, eps=1e-3)
        # He initialization: with PyTorch's default the outputs of a random network nearly vanish.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if weights is not None:
            load_weights(self, weights, _without_classifier)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of images.

        Args:
            images: (B, 3, H, W) preprocessed, RGB, with sides of at least 75 pixels.

        Returns:
            (B, 512) features, not normalized.

        Raises:
            UserError: if the images are smaller.
        """
        if (side := min(images.shape[-2:])) < _SMALLEST:
            raise UserError(
                f"FaceNet needs images of at least {_SMALLEST} pixels a side, not {side}; resize them to 160"
            )
        maps = max_pool2d(self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(images))), 3, stride=2)
        maps = self.repeat_1(self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(maps))))
        maps = self.repeat_3(self.mixed_7a(self.repeat_2(self.mixed_6a(maps))))
        return self.last_bn(self.last_linear(self.dropout(self.block8(maps).mean(dim=(2, 3)))))


class _ConvNormReLU(nn.Module):
    """A convolution without bias, batch norm and ReLU."""

    def __init__(
        self, n_in: int, n_out: int, kernel: tuple[int, int], stride: int = 1, padding: tuple[int, int] = (0, 0)
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(n_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return relu(self.bn(self.conv(x)))


_Branches = tuple[tuple[tuple[int, int, int], ...], ...]


class _Residual(nn.Module):
    """Branches side by side, joined by a pointwise convolution, scaled and added to the input."""

    def __init__(self, n_channels: int, branches: _Branches, scale: float, activates: bool = True) -> None:
        super().__init__()
        self.scale, self.activates, self.n_branches = scale, activates, len(branches)
        _add_branches(self, n_channels, branches, stride=1)
        self.conv2d = nn.Conv2d(sum(branch[-1][0] for branch in branches), n_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        out = x + self.scale * self.conv2d(torch.cat(_branch_outputs(self, x), dim=1))
        return relu(out) if self.activates else out


class _Reduction(nn.Module):
    """Branches side by side and a max-pooling, all of which halve the sides of the image."""

    def __init__(self, n_channels: int, branches: _Branches) -> None:
        super().__init__()
        self.n_branches = len(branches)
        _add_branches(self, n_channels, branches, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return torch.cat([*_branch_outputs(self, x), max_pool2d(x, 3, stride=2)], dim=1)


def _add_branches(block: nn.Module, n_in: int, branches: _Branches, stride: int) -> None:
    """Add the branches by the names that the public state dicts have: a single convolution is not in a sequence."""
    for number, branch in enumerate(branches):
        layers, width = [], n_in
        for place, (n_out, *kernel) in enumerate(branch):
            make = partial(_ConvNormReLU, width, n_out, (kernel[0], kernel[1]))
            ends = place == len(branch) - 1 and stride > 1
            layers.append(make(stride) if ends else make(padding=(kernel[0] // 2, kernel[1] // 2)))
            width = n_out
        block.add_module(f"branch{number}", layers[0] if len(layers) == 1 else nn.Sequential(*layers))


def _branch_outputs(block: nn.Module, x: Tensor) -> list[Tensor]:
    return [getattr(block, f"branch{number}")(x) for number in range(int(block.n_branches))]  # type: ignore[arg-type]


def _without_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("logits.")}
