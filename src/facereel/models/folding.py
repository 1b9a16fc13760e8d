"""Encoders for inference: batch norms folded into the convolutions before them."""

import copy
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn

from facereel.models.encoders.dlib_resnet import Affine

# Largest difference that rounding makes, relative to the largest feature.
_TOLERANCE = 1e-3

_Norm = nn.BatchNorm1d | nn.BatchNorm2d | Affine
_Linear = nn.Conv2d | nn.Linear


class FoldedEncoder:
    """The copy of an encoder that `fold_batch_norms` makes, until a weight of the encoder changes."""

    def __init__(self) -> None:
        self._copy: nn.Module | None = None
        self._state: list[tuple[int, int]] | None = None

    def prepare(
        self, encoder: nn.Module, make_images: Callable[[], Tensor], memory_format: torch.memory_format
    ) -> None:
        """Make the copy, unless there is one of the same weights or the encoder is in training mode.

        Args:
            encoder: the encoder.
            make_images: returns images for `fold_batch_norms`.
            memory_format: layout of the copy.
        """
        state = _state(encoder)
        if encoder.training or state is None or state == self._state:
            return
        with torch.inference_mode(False), torch.no_grad():
            copied = fold_batch_norms(encoder, make_images())
        self._copy = None if copied is encoder else copied.to(memory_format=memory_format)
        self._state = state

    def choose(self, encoder: nn.Module) -> nn.Module:
        """Return the copy if it has the weights of the encoder, otherwise the encoder; an outdated copy is dropped."""
        if self._copy is None:
            return encoder
        if self._state != _state(encoder):
            self._copy = self._state = None
            return encoder
        return self._copy

    def __getstate__(self) -> dict[str, None]:
        return {"_copy": None, "_state": None}


def _state(encoder: nn.Module) -> list[tuple[int, int]] | None:
    """Return the address and version of each weight, by which a change is noticed; None if they have no version."""
    tensors = list(chain(encoder.parameters(), encoder.buffers()))
    if any(tensor.is_inference() for tensor in tensors):
        return None
    return [(tensor.data_ptr(), tensor._version) for tensor in tensors]


@torch.no_grad()
def fold_batch_norms(encoder: nn.Module, images: Tensor) -> nn.Module:
    """Make a copy of an encoder for inference, in which batch norms are folded into the layers before them.

    A batch norm, or dlib's `Affine`, is folded if its input is the unchanged output of a convolution or a linear layer,
    and both run once. The copy is compared with the encoder, and is not used if it differs by more than rounding.

    Args:
        encoder: not changed.
        images: (B, 3, H, W) preprocessed, to find out which layers follow each other.

    Returns:
        The copy in evaluation mode, without gradients; or the encoder itself if there is nothing to fold.
    """
    if not any(isinstance(module, _Norm) for module in encoder.modules()):
        return encoder
    folded = copy.deepcopy(encoder).eval().requires_grad_(False)
    expected = folded(images)
    pairs = _pairs(folded, images)
    if not pairs:
        return encoder
    names = {module: name for name, module in folded.named_modules()}
    for layer, norm in pairs:
        scale, shift = _scale_and_shift(norm)
        layer.weight.copy_(layer.weight * scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias * scale + shift, requires_grad=False)
        owner, _, name = names[norm].rpartition(".")
        setattr(folded.get_submodule(owner), name, nn.Identity())
    difference = (folded(images) - expected).abs().max()
    return folded if difference <= _TOLERANCE * expected.abs().max() else encoder


def _pairs(network: nn.Module, images: Tensor) -> list[tuple[_Linear, _Norm]]:
    """Return layers and the norms that follow them in a run of the network."""
    # Outputs are kept, with their versions: a later tensor must not get the identity of an earlier one, and an
    # activation in place changes the version.
    made: dict[int, tuple[_Linear, Tensor, int]] = {}
    pairs: list[tuple[_Linear, _Norm]] = []
    runs: dict[nn.Module, int] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        runs[module] = runs.get(module, 0) + 1
        if isinstance(module, _Linear):
            made[id(output)] = (module, output, output._version)
        elif getattr(module, "running_mean", ...) is None:
            pass  # it normalizes by the images at hand
        elif (found := made.get(id(inputs[0]))) is not None and found[2] == inputs[0]._version:
            pairs.append((found[0], module))  # type: ignore[arg-type]

    handles = [m.register_forward_hook(record) for m in network.modules() if isinstance(m, _Linear | _Norm)]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    layers = [layer for layer, _ in pairs]
    return [(a, b) for a, b in pairs if runs[a] == runs[b] == layers.count(a) == 1]


def _scale_and_shift(norm: _Norm) -> tuple[Tensor, Tensor]:
    """Return what a norm multiplies each channel by, and adds to it."""
    if isinstance(norm, Affine):
        return norm.weight, norm.bias
    assert norm.running_mean is not None, "a batch norm without statistics"
    assert norm.running_var is not None, "a batch norm without statistics"
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift + norm.bias if norm.affine else shift
