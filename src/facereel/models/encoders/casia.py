"""The convolutional network of the released DHH code."""

from torch import Tensor, nn


class CasiaEncoder(nn.Module):
    """The ten-convolution network of the released DHH code, for 64 x 64 crops.

    Five blocks of two 3 x 3 convolutions, with a ReLU after all but the last, 2 x 2 max-pooling between the blocks, and
    global average pooling. The released network has no batch norm; with it the network trains from scratch in minutes.

    Args:
        batch_norm: add a batch norm after every convolution. Our addition.
        width: factor of every channel count, for quick experiments. Our addition.
    """

    CHANNELS = ((32, 64), (64, 128), (96, 192), (128, 256), (160, 320))

    def __init__(self, batch_norm: bool = False, width: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in = 3
        plan = [max(1, round(width * n_out)) for block in self.CHANNELS for n_out in block]
        for i, n_out in enumerate(plan):
            layers.append(nn.Conv2d(n_in, n_out, 3, padding=1, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(n_out))
            if i < len(plan) - 1:
                layers.append(nn.ReLU(inplace=True))
                if i % 2:
                    layers.append(nn.MaxPool2d(2))
            n_in = n_out
        self.layers = nn.Sequential(*layers)
        self.dim = n_in
        # He initialization: otherwise the outputs of ten ReLU layers without batch norm nearly vanish at the start.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) preprocessed -> (B, dim)."""
        return self.layers(images).mean(dim=(2, 3))
