"""The residual networks of ArcFace and AdaFace."""

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from facereel.errors import UserError
from facereel.models.encoders.state_dict import load_weights

# Number of blocks in each of the four layers, by name.
_BLOCKS = {"r18": (2, 2, 2, 2), "r34": (3, 4, 6, 3), "r50": (3, 4, 14, 3), "r100": (3, 13, 30, 3)}
_CHANNELS = (64, 128, 256, 512)
_LAYOUTS = ("arcface", "adaface")
_SIDE, _MAP_SIDE, _EMBEDDING = 112, 7, 512

# AdaFace's names of a block's parts, and those of InsightFace.
_BLOCK_PARTS = {
    "res_layer.0": "bn1",
    "res_layer.1": "conv1",
    "res_layer.2": "bn2",
    "res_layer.3": "prelu",
    "res_layer.4": "conv2",
    "res_layer.5": "bn3",
    "shortcut_layer.0": "downsample.0",
    "shortcut_layer.1": "downsample.1",
}
# The same for the parts before and after the blocks.
_OTHER_PARTS = {
    "input_layer.0": "conv1",
    "input_layer.1": "bn1",
    "input_layer.2": "prelu",
    "output_layer.0": "bn2",
    "output_layer.3": "fc",
    "output_layer.4": "features",
}


class IResNet(nn.Module):
    """The improved residual network of ArcFace and AdaFace, from 112 x 112 pixels to 512 numbers.

    Each block is batch norm, convolution, batch norm, PReLU, convolution and batch norm (Deng, Guo, Xue and Zafeiriou,
    "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019). Faces are compared by cosine
    similarity. Use `Preprocess` with size=112, mean=(0.5, 0.5, 0.5) and std=(0.5, 0.5, 0.5), and faces aligned by five
    points at margin 1.2. The tests compare random weights with a second implementation: the original weights were not
    available.

    Args:
        name: "r18", "r34", "r50" or "r100". AdaFace's IR-18, IR-50 and IR-101 are r18, r50 and r100.
        layout: "arcface" for state dicts of InsightFace's arcface_torch; "adaface" for those of AdaFace (Kim, Jain and
            Liu, "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022). AdaFace's first block has no
            convolution in its shortcut, and its networks read BGR, so the weights of the first convolution are
            reversed when they are read: this class always takes RGB.
        weights: path of such a state dict, or of this class's own, read with weights_only; or None for random weights.
            Nothing is downloaded.
        dropout: probability of zeroing a value before the linear layer, in training.

    Raises:
        UserError: if an argument is unknown, or the file is missing or does not fit.

    Examples:
        >>> IResNet("r18").eval()(torch.zeros(2, 3, 112, 112)).shape
        torch.Size([2, 512])
    """

    def __init__(
        self, name: str = "r50", layout: str = "arcface", weights: str | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if name not in _BLOCKS:
            raise UserError(f"name={name}: must be one of {', '.join(_BLOCKS)}")
        if layout not in _LAYOUTS:
            raise UserError(f"layout={layout}: must be one of {', '.join(_LAYOUTS)}")
        self.dim = _EMBEDDING
        self.conv1 = nn.Conv2d(3, _CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_CHANNELS[0])
        self.prelu = nn.PReLU(_CHANNELS[0])
        n_in = _CHANNELS[0]
        layers: list[nn.Module] = []
        for n_out, n_blocks in zip(_CHANNELS, _BLOCKS[name], strict=True):
            # All layers halve the sides of the image, the first one too.
            projects = n_in != n_out or layout == "arcface"
            layer = [_Block(n_in, n_out, 2, projects), *(_Block(n_out, n_out, 1, False) for _ in range(n_blocks - 1))]
            layers.append(nn.Sequential(*layer))
            n_in = n_out
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.bn2 = nn.BatchNorm2d(n_in)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(n_in * _MAP_SIDE**2, self.dim)
        self.features = nn.BatchNorm1d(self.dim)
        # As in arcface_torch: a scale per feature would change the angles between faces.
        self.features.weight.requires_grad_(False)
        self._randomize(sum(_BLOCKS[name]))
        if weights is not None:
            load_weights(self, weights, self._converted)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of images.

        Args:
            images: (B, 3, 112, 112) preprocessed, RGB.

        Returns:
            (B, 512) features, not normalized.

        Raises:
            UserError: if the images have another size.
        """
        if any(side != _SIDE for side in images.shape[-2:]):
            size = " x ".join(map(str, images.shape[-2:]))
            raise UserError(f"IResNet needs images of {_SIDE} x {_SIDE} pixels, not {size}; resize them")
        maps = self.prelu(self.bn1(self.conv1(images)))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = layer(maps)
        return self.features(self.fc(self.dropout(self.bn2(maps).flatten(1))))

    def _converted(self, state: dict[str, Any]) -> dict[str, Tensor]:
        # Lightning's checkpoints have the weights under this key.
        inner = state.get("state_dict", state)
        return _from_adaface(inner) if any("input_layer.0." in key for key in inner) else inner

    def _randomize(self, n_blocks: int) -> None:
        """Apply He initialization, and scale the blocks down so that their sum does not grow with their number."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.25)
            elif isinstance(module, _Block):
                nn.init.constant_(module.bn3.weight, 1 / math.sqrt(n_blocks))


class _Block(nn.Module):
    """Two convolutions and their shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int, projects: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.prelu = nn.PReLU(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.stride = stride
        self.downsample: nn.Module | None = None
        if projects:
            self.downsample = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        out = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        around = x[:, :, :: self.stride, :: self.stride] if self.downsample is None else self.downsample(x)
        return out + around


def _from_adaface(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of AdaFace's backbone to InsightFace's names and to RGB.

    Args:
        state: with or without the prefix `model.`; other entries, such as the classifier `head.kernel`, are dropped.

    Returns:
        A state dict for `IResNet` with layout="adaface".

    Raises:
        ValueError: if it is not a state dict of a backbone of AdaFace.
    """
    prefix = "model." if any(key.startswith("model.") for key in state) else ""
    own = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    numbers = sorted({int(key.split(".")[1]) for key in own if re.match(r"body\.\d+\.", key)})
    places = _places([f"body.{number}.shortcut_layer.0.weight" in own for number in numbers])
    found: dict[str, Tensor] = {}
    for key, value in own.items():
        part, _, name = key.rpartition(".")
        if (block := re.fullmatch(r"body\.(\d+)\.(.+)", part)) and block[2] in _BLOCK_PARTS:
            found[f"{places[int(block[1])]}.{_BLOCK_PARTS[block[2]]}.{name}"] = value
        elif part in _OTHER_PARTS:
            found[f"{_OTHER_PARTS[part]}.{name}"] = value
        elif not prefix:
            raise ValueError(f"it contains {key!a}")
    if "conv1.weight" not in found or "fc.bias" not in found:
        raise ValueError("it has no input_layer or output_layer")
    found["conv1.weight"] = found["conv1.weight"].flip(1)
    # AdaFace's last batch norm has neither a scale nor a shift.
    found["features.weight"] = torch.ones_like(found["fc.bias"])
    found["features.bias"] = torch.zeros_like(found["fc.bias"])
    return found


def _places(projects: list[bool]) -> list[str]:
    """Return the layer and place of each block: a projection in the shortcut starts each layer but the first."""
    layer, place = 1, -1
    places = []
    for starts in projects:
        layer, place = (layer + 1, 0) if starts else (layer, place + 1)
        places.append(f"layer{layer}.{place}")
    return places
