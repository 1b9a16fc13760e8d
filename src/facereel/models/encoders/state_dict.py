"""Loading of an encoder's weights from a file."""

from pathlib import Path

import torch
from torch import nn

from facereel.errors import UserError


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a state dict into a network, strictly and without unpickling code.

    Args:
        network: changed in place.
        path: a file written by `torch.save`.

    Raises:
        UserError: if the file is missing, is not a state dict, or does not fit.
    """
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}") from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} is not a state dict for {type(network).__name__}: {reason}") from error
