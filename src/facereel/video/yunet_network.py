"""The network of YuNet in PyTorch, which searches many images at once on any device. OpenCV runs it on the CPU."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, max_pool2d, pad

from facereel.system.optional import import_onnx_reader

# Sides in pixels of the cells in which the network looks for faces. Images are padded to a multiple of the largest.
_STRIDES = (8, 16, 32)
# As in OpenCV's FaceDetectorYN: of two boxes with a larger intersection over union, the better one is kept.
_MAX_OVERLAP = 0.3
_MOST_BOXES = 5000

_Operation = Callable[..., Tensor]
_Attributes = dict[str, Any]
_OPERATIONS: dict[str, _Operation] = {
    "Add": lambda at, x, y: x + y,
    "Conv": lambda at, x, weight, bias: conv2d(x, weight, bias, at["strides"], at["pads"][:2], 1, at["group"]),
    "MaxPool": lambda at, x: max_pool2d(x, at["kernel_shape"], at["strides"]),
    "Relu": lambda at, x: x.relu(),
    # Of (B, H, W, C), as one image has it.
    "Reshape": lambda at, x, *shape: x.flatten(1, 2),
    "Resize": lambda at, x, *scale: interpolate(x, scale_factor=2, mode="nearest"),
    "Sigmoid": lambda at, x: x.sigmoid(),
    "Transpose": lambda at, x: x.permute(at["perm"]),
}


class YuNetNetwork:
    """YuNet (Wu, Peng and Yu 2023), read from an ONNX file with quantized weights.

    Args:
        file: the file, whose content is known: other files may have other operations.
        device: device to compute on.

    Raises:
        UserError: if the package onnx is not installed.
    """

    def __init__(self, file: Path, device: torch.device | str) -> None:
        onnx = import_onnx_reader()
        graph = onnx.load(str(file)).graph
        constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
        self._nodes: list[tuple[_Operation, _Attributes, list[str], str]] = []
        for node in graph.node:
            attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
            values = [constants[name] for name in node.input if name in constants]
            if node.op_type == "DequantizeLinear":
                constants[node.output[0]] = _dequantize(attributes, *values)
            elif node.op_type == "Reshape" and len(values) == 2:
                constants[node.output[0]] = values[0].reshape(values[1])
            else:
                self._nodes.append((_OPERATIONS[node.op_type], attributes, [*node.input], node.output[0]))
        self._device = torch.device(device)
        self._constants = {
            name: torch.tensor(value, device=device) for name, value in constants.items() if value.dtype == np.float32
        }
        self._input, self._outputs = graph.input[0].name, [one.name for one in graph.output]

    @torch.inference_mode()
    def find(self, images: Sequence[NDArray[np.uint8]], min_score: float) -> list[NDArray[np.float32]]:
        """Find faces.

        Args:
            images: (H, W, 3) BGR uint8 each, all of one size.
            min_score: faces with a lower score are dropped.

        Returns:
            For each image (N, 15) as from OpenCV's FaceDetectorYN: left, top, width and height, x and y of five
            landmarks, and the score.
        """
        batch = torch.from_numpy(np.stack(images)).to(self._device).permute(0, 3, 1, 2).float()
        height, width = batch.shape[2:]
        batch = pad(batch, (0, -width % _STRIDES[-1], 0, -height % _STRIDES[-1]))
        values = {**self._constants, self._input: batch}
        for operation, attributes, inputs, output in self._nodes:
            values[output] = operation(attributes, *(values[name] for name in inputs if name in values))
        columns = batch.shape[3]
        rows = torch.cat([_decode(values, stride, columns // stride) for stride in _STRIDES], dim=1)
        likely = rows[..., 14] >= min_score
        found = rows[likely].cpu().numpy()
        ends = likely.sum(dim=1).cumsum(0).tolist()
        return [_without_overlaps(part, min_score) for part in np.split(found, ends[:-1])]


def _dequantize(
    attributes: _Attributes, x: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None = None
) -> NDArray[np.float32]:
    """Return the weights of an operation DequantizeLinear, whose scale is one for all or for each block of an axis."""
    shift = np.zeros_like(scale) if zero is None else zero.astype(np.float32)
    if scale.ndim:
        axis = attributes.get("axis", 1)
        places = np.arange(x.shape[axis]) // attributes["block_size"]
        scale, shift = scale.take(places, axis), shift.take(places, axis)
    return np.asarray((x.astype(np.float32) - shift) * scale, np.float32)


def _decode(values: dict[str, Tensor], stride: int, n_columns: int) -> Tensor:
    """Return (B, N, 15) in pixels, for the N cells of a stride."""
    chance, face, box, points = (values[f"{name}_{stride}"] for name in ("cls", "obj", "bbox", "kps"))
    cells = torch.arange(box.shape[1], device=box.device)
    corner = torch.stack([cells % n_columns, cells // n_columns], dim=1)
    size = box[..., 2:].exp()
    left_top = corner + box[..., :2] - size / 2
    score = (chance.clamp(0, 1) * face.clamp(0, 1)).sqrt()
    return torch.cat([left_top * stride, size * stride, (points + corner.repeat(1, 5)) * stride, score], dim=2)


def _without_overlaps(rows: NDArray[np.float32], min_score: float) -> NDArray[np.float32]:
    """Return the best of boxes that overlap."""
    boxes = rows[:, :4].astype(np.int64).tolist()  # truncated, as by FaceDetectorYN
    kept = cv2.dnn.NMSBoxes(boxes, rows[:, 14].tolist(), min_score, _MAX_OVERLAP, top_k=_MOST_BOXES)
    return rows[np.array(kept, np.int64).reshape(-1)]
