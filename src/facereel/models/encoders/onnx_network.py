"""A network in an ONNX file, run by onnxruntime. The file is untrusted."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facereel.errors import UserError, first_line
from facereel.system.optional import import_onnxruntime

# The largest networks for faces have some hundred megabytes; Protocol Buffers are limited to 2 GB.
LARGEST = 2**30
# Images that are run at once, if the network accepts several.
_BATCH_SIZE = 32
# The side for a network that accepts any.
USUAL_SIDE, _LARGEST_SIDE = 112, 1024
# onnxruntime's log level for errors only.
_ERRORS_ONLY = 3

# Operations that pass the image on, and those with a constant that normalize it.
_PASSING, _NORMALIZING = ("Cast", "Identity", "Transpose"), ("Add", "Div", "Mul", "Sub")


@dataclass(frozen=True)
class OnnxGraph:
    """What a graph says about its input and output.

    Args:
        content: the file, without graph inputs that name weights, which onnxruntime would not optimize.
        input: name of the input.
        output: name of the first output.
        side: side of the square images in pixels; None if the graph accepts any.
        channels_first: whether images are (3, H, W), not (H, W, 3).
        any_batch: whether the graph accepts any number of images, not only one.
        half: whether images are float16, not float32.
        normalizes: whether the graph begins by subtracting or scaling, so that it takes values in 0..255.
    """

    content: bytes
    input: str
    output: str
    side: int | None
    channels_first: bool
    any_batch: bool
    half: bool
    normalizes: bool


def read_graph(path: str | Path) -> OnnxGraph:
    """Read and check a file; see `inspect_graph`.

    Args:
        path: the file.

    Returns:
        The description.

    Raises:
        UserError: if the file cannot be read, is too large, or is not a network for face images.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}") from error
    if len(content) > LARGEST:
        raise UserError(f"{path} is larger than {LARGEST:,} bytes")
    try:
        return inspect_graph(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def inspect_graph(content: bytes) -> OnnxGraph:
    """Check the content of a file, and find out what its network expects. Nothing is run.

    Args:
        content: the file.

    Returns:
        The description.

    Raises:
        UserError: if onnx or onnxruntime is missing, or the file is damaged, refers to other files, contains loops, or
            is not a network of one color image.
    """
    onnx, _ = import_onnxruntime()
    try:
        model = onnx.load_model_from_string(content)
        _refuse_unsafe(onnx, model)
        graph = model.graph
        weights = {tensor.name for tensor in graph.initializer}
        made = weights | {name for node in graph.node for name in node.output}
        read = {name for node in graph.node for name in node.input}
        # Old exporters list weights as inputs too, and quantization leaves their names there.
        named = [value for value in graph.input if value.name in made or value.name not in read]
        for value in named:
            graph.input.remove(value)
        if len(graph.input) != 1 or not graph.output:
            raise ValueError(
                f"it has {len(graph.input)} inputs and {len(graph.output)} outputs, not an image and features"
            )
        image, kind = graph.input[0], graph.input[0].type.tensor_type
        if kind.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
            raise ValueError("its input is not float32 or float16")
        n_images, side, channels_first = _image_shape(kind.shape)
        return OnnxGraph(
            content=model.SerializeToString() if named else content,
            input=image.name,
            output=graph.output[0].name,
            side=side,
            channels_first=channels_first,
            any_batch=n_images is None,
            half=kind.elem_type == onnx.TensorProto.FLOAT16,
            normalizes=_normalizes(graph, image.name, weights),
        )
    except Exception as error:  # the bytes of an untrusted file may lead onnx to any error
        raise UserError(f"it is not an ONNX network for face images: {first_line(error)}") from error


def _image_shape(shape: Any) -> tuple[int | None, int | None, bool]:
    """Return the number of images and their side, None for a free one, and whether the channels are first."""
    sizes = [axis.dim_value if axis.HasField("dim_value") and axis.dim_value > 0 else None for axis in shape.dim]
    if len(sizes) != 4 or 3 not in (sizes[1], sizes[3]) or sizes[0] not in (None, 1):
        raise ValueError(f"its input has the shape {_listed(sizes)}, not (1 or any, 3, side, side)")
    channels_first = sizes[1] == 3
    height, width = sizes[2:] if channels_first else sizes[1:3]
    if height != width or (height is not None and height > _LARGEST_SIDE):
        raise ValueError(f"its images have {_listed([height, width])} pixels, not a square of at most {_LARGEST_SIDE}")
    return sizes[0], height, channels_first


def _listed(sizes: list[int | None]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in sizes) + ")"


def _refuse_unsafe(onnx: Any, model: Any) -> None:
    """Refuse references to other files, and operations that may run without end.

    Raises:
        ValueError: if there are any.
    """
    tensors = list(model.graph.initializer)
    for sparse in model.graph.sparse_initializer:
        tensors += [sparse.values, sparse.indices]
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise ValueError(f"it contains the operation {node.op_type!a}, a loop or a branch")
            tensors += [attribute.t, *attribute.tensors]
            for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
                tensors += [sparse.values, sparse.indices]
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data for tensor in tensors):
        raise ValueError("its weights are in another file; save it with its weights in one file")


def _nodes(model: Any) -> Iterator[Any]:
    yield from model.graph.node
    for function in model.functions:
        yield from function.node


def _normalizes(graph: Any, image: str, weights: set[str]) -> bool:
    """Return whether the first operation on the image, other than a conversion, adds or multiplies a constant."""
    constants = weights | {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    for node in graph.node:
        if image not in node.input:
            continue
        if node.op_type not in _PASSING:
            return node.op_type in _NORMALIZING and all(name in constants for name in node.input if name != image)
        image = node.output[0]
    return False


class OnnxSession:
    """A session of onnxruntime on the CPU.

    Args:
        graph: the network.
        size: side of the images for a network that accepts any, in pixels; None takes 112.

    Raises:
        UserError: if onnxruntime cannot run the network.
    """

    def __init__(self, graph: OnnxGraph, size: int | None = None) -> None:
        _, onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = torch.get_num_threads()
        # Between two runs its threads would otherwise wait busily.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.graph = replace(graph, content=b"")  # onnxruntime has it
        self.side = graph.side or size or USUAL_SIDE
        try:
            self._session = onnxruntime.InferenceSession(graph.content, options, providers=["CPUExecutionProvider"])
            blank = np.zeros((1, 3, self.side, self.side), np.float32)
            self.dim = self._run_at_once(blank).shape[1]
        except Exception as error:  # onnxruntime's errors have no common class
            raise UserError(f"onnxruntime cannot run it: {first_line(error)}") from error
        self._at_once = _BATCH_SIZE if graph.any_batch and self._runs_several(blank) else 1

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute features.

        Args:
            images: (B, 3, side, side), normalized, in the network's order of colors.

        Returns:
            (B, dim) features.

        Raises:
            UserError: if onnxruntime fails.
        """
        if not len(images):
            return np.zeros((0, self.dim), np.float32)
        chunks = [images[start : start + self._at_once] for start in range(0, len(images), self._at_once)]
        try:
            return np.concatenate([self._run_at_once(chunk) for chunk in chunks])
        except Exception as error:
            raise UserError(f"onnxruntime cannot run the encoder: {first_line(error)}") from error

    def _runs_several(self, blank: NDArray[np.float32]) -> bool:
        """Return whether the network accepts several images: some graphs only claim that they do."""
        try:
            return self._run_at_once(np.repeat(blank, 2, axis=0)).shape == (2, self.dim)
        except Exception:  # onnxruntime's errors have no common class
            return False

    def _run_at_once(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        array: NDArray[Any] = images if self.graph.channels_first else images.transpose(0, 2, 3, 1)
        array = np.ascontiguousarray(array, np.float16 if self.graph.half else np.float32)
        (features,) = self._session.run([self.graph.output], {self.graph.input: array})
        return np.asarray(features, np.float32).reshape(len(images), -1)
