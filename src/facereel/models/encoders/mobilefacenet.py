"""MobileFaceNet, a small encoder for aligned faces."""

from collections import OrderedDict
from functools import partial

from torch import Tensor, nn

from facereel.errors import UserError
from facereel.models.encoders.state_dict import load_weights

# For each group of inverted residuals: expansion, channels, number of blocks, stride of the first block.
_GROUPS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))

# Channels before the embedding, and its length.
_WIDTH, _EMBEDDING = 512, 128

# Image sides for which the last maps are 7 x 7, the size of the global depthwise convolution.
_SIDES = range(97, 113)


class MobileFaceNet(nn.Module):
    """The mobile face encoder of Chen, Liu, Gao and Han, "MobileFaceNets", CCBR 2018, for 112 x 112 crops.

    The parameters have the names of the public weights of github.com/foamliu/MobileFaceNet (Apache-2.0, trained on
    MS-Celeb-1M). These weights expect ImageNet's mean and standard deviation, and faces aligned by five points at
    margin 1.2.

    Args:
        weights: path of such a state dict, read with weights_only, or None for random weights.
        embedding: return the 128-d embedding; False returns the 512-d features before its projection, which give
            better short codes (our addition).

    Raises:
        UserError: if the file is missing or does not fit.
    """

    def __init__(self, weights: str | None = None, embedding: bool = True) -> None:
        super().__init__()
        # Slow to import, and other encoders do not need it.
        from torchvision.models.mobilenetv2 import InvertedResidual
        from torchvision.ops import Conv2dNormActivation

        conv_relu6 = partial(Conv2dNormActivation, activation_layer=nn.ReLU6)
        self.dim = _EMBEDDING if embedding else _WIDTH
        self.conv1 = conv_relu6(3, 64, 3, stride=2)
        self.dw_conv = _DepthwiseSeparable(64, 64)
        blocks: list[nn.Module] = []
        n_in = 64
        for expansion, n_out, repeats, first_stride in _GROUPS:
            for i in range(repeats):
                blocks.append(InvertedResidual(n_in, n_out, first_stride if i == 0 else 1, expansion))
                n_in = n_out
        self.features = nn.Sequential(*blocks)
        self.conv2 = conv_relu6(n_in, _WIDTH, 1)
        # A depthwise convolution over the whole map instead of global average pooling: the main idea of the paper.
        self.gdconv = nn.Sequential(
            OrderedDict(depthwise=nn.Conv2d(_WIDTH, _WIDTH, 7, groups=_WIDTH, bias=False), bn=nn.BatchNorm2d(_WIDTH))
        )
        self.conv3 = nn.Conv2d(_WIDTH, _EMBEDDING, 1)
        self.bn = nn.BatchNorm1d(_EMBEDDING)
        if weights is not None:
            load_weights(self, weights)
        if not embedding:
            self.conv3, self.bn = nn.Identity(), nn.Identity()  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of images.

        Args:
            images: (B, 3, 112, 112) preprocessed; sides of 97 to 112 pixels are accepted.

        Returns:
            (B, dim) features.

        Raises:
            UserError: if a side of the images is not in 97..112 pixels.
        """
        if any(side not in _SIDES for side in images.shape[-2:]):
            size = " x ".join(map(str, images.shape[-2:]))
            raise UserError(f"MobileFaceNet needs images of 97 to 112 pixels a side, not {size}; resize them to 112")
        maps = self.conv2(self.features(self.dw_conv(self.conv1(images))))
        return self.bn(self.conv3(self.gdconv(maps)).flatten(1))


class _DepthwiseSeparable(nn.Sequential):
    """A 3 x 3 depthwise convolution, then a pointwise one, each with batch norm and ReLU."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(
            OrderedDict(
                depthwise=nn.Conv2d(n_in, n_in, 3, padding=1, groups=n_in, bias=False),
                bn1=nn.BatchNorm2d(n_in),
                relu1=nn.ReLU(inplace=True),
                pointwise=nn.Conv2d(n_in, n_out, 1, bias=False),
                bn2=nn.BatchNorm2d(n_out),
                relu2=nn.ReLU(inplace=True),
            )
        )
