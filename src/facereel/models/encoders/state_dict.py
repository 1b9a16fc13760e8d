"""Loading of an encoder's weights from a file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facereel.errors import UserError, first_line


def _unchanged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state


def load_weights(
    network: nn.Module,
    path: str | Path,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = _unchanged,
) -> None:
    """Load a state dict into a network, strictly and without unpickling code.

    Args:
        network: changed in place.
        path: a file written by `torch.save`.
        convert: returns a state dict with the network's names, given the one in the file.

    Raises:
        UserError: if the file is missing, is not a state dict, or does not fit.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(convert(content))
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}") from error
    except Exception as error:
        raise UserError(f"{path} is not a state dict for {type(network).__name__}: {first_line(error)}") from error
