"""Frame encoders: a face crop goes in, a feature vector comes out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from facereel.errors import UserError


class CasiaEncoder(nn.Module):
    """The ten-convolution network of the released DHH code, for 64 x 64 crops.

    Five blocks of two 3 x 3 convolutions, ReLU after each but the last, 2 x 2 max-pooling between the blocks, global
    average pooling. The released network has no batch norm; with it the network trains from scratch in minutes.

    Args:
        batch_norm: put a batch norm behind every convolution. Ours.
        width: multiplies every channel count, for quick experiments. Ours.
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
        # He initialisation: without it ten ReLU layers without batch norm start with vanishing outputs.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) preprocessed -> (B, dim)."""
        return self.layers(images).mean(dim=(2, 3))


class TorchvisionEncoder(nn.Module):
    """A classification network of torchvision, by name, with its classifier taken off.

    Any that returns a tensor in training (inception_v3 and googlenet return more) and takes pictures of the chosen
    size.

    Args:
        name: as in `torchvision.models.list_models()`, for example "resnet18".
        weights: path of a state dict for that network (read with weights_only), or None for random weights. Nothing
            is downloaded.

    Raises:
        UserError: for a name torchvision does not know, a network that does not end in a linear classifier, or a
            weight file that does not fit.
    """

    def __init__(self, name: str, weights: str | None = None) -> None:
        super().__init__()
        # It takes as long to import as torch, and a search with another encoder need not wait for it.
        import torchvision

        try:
            self.network = torchvision.models.get_model(name, weights=None)
        except ValueError as error:
            raise UserError(f"encoder.name={name}: torchvision has no such model; resnet18 is one") from error
        if weights is not None:
            load_weights(self.network, weights)
        self.dim = _remove_classifier(self.network, name)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) preprocessed -> (B, dim)."""
        return self.network(images)


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a state dict into a network, strictly and without unpickling code.

    Raises:
        UserError: if the file is absent, not a state dict, or does not fit.
    """
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}") from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} is not a state dict for {type(network).__name__}: {reason}") from error


def _remove_classifier(network: nn.Module, name: str) -> int:
    """Replace the last linear layer by the identity and return its input size."""
    parent, key, last = network, "", None
    for path, module in network.named_modules():
        if isinstance(module, nn.Linear):
            owner, _, key = path.rpartition(".")
            parent, last = network.get_submodule(owner), module
    if last is None:
        raise UserError(f"encoder.name={name}: the network has no linear classifier to take off")
    setattr(parent, key, nn.Identity())
    return last.in_features
