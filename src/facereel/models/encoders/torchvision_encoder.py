"""An encoder made from any torchvision classification network."""

from torch import Tensor, nn

from facereel.errors import UserError
from facereel.models.encoders.state_dict import load_weights


class TorchvisionEncoder(nn.Module):
    """A torchvision classification network without its classifier.

    The network must return a tensor in training (inception_v3 and googlenet do not) and accept images of the chosen
    size.

    Args:
        name: a name in `torchvision.models.list_models()`, for example "resnet18".
        weights: path of a state dict for the network, read with weights_only, or None for random weights. Nothing is
            downloaded.

    Raises:
        UserError: if torchvision has no such network, it does not end in a linear classifier, or the weights do not
            fit.
    """

    def __init__(self, name: str, weights: str | None = None) -> None:
        super().__init__()
        import torchvision  # slow to import, and other encoders do not need it

        try:
            self.network = torchvision.models.get_model(name, weights=None)
        except ValueError as error:
            raise UserError(f"name={name}: torchvision has no such model; use for example resnet18") from error
        if weights is not None:
            load_weights(self.network, weights)
        self.dim = _remove_classifier(self.network, name)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) preprocessed -> (B, dim)."""
        return self.network(images)


def _remove_classifier(network: nn.Module, name: str) -> int:
    """Replace the last linear layer by the identity.

    Returns:
        The input size of that layer.

    Raises:
        UserError: if there is no linear layer.
    """
    parent, key, last = network, "", None
    for path, module in network.named_modules():
        if isinstance(module, nn.Linear):
            owner, _, key = path.rpartition(".")
            parent, last = network.get_submodule(owner), module
    if last is None:
        raise UserError(f"name={name}: the network has no linear classifier to remove")
    setattr(parent, key, nn.Identity())
    return last.in_features
