"""Writes an `SFaceEncoder` as OpenCV Zoo's ONNX file has it, in float or with int8 weights in blocks."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import nn

from facereel.models import SFaceEncoder


def sface_file(network: SFaceEncoder, block_size: int | None = None) -> bytes:
    """Content of the file; with a block size, the weights of convolutions and of the linear layer are int8."""
    graph = _Graph(block_size)
    graph.add("Sub", graph.constant(np.array([127.5], np.float32)))
    graph.add("Mul", graph.constant(np.array([1 / 128], np.float32)))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            pads, strides = [*module.padding] * 2, [*module.stride]
            graph.add("Conv", graph.weight(module.weight), pads=pads, strides=strides, group=module.groups)
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            tensors = (module.weight, module.bias, module.running_mean, module.running_var)
            graph.add("BatchNormalization", *map(graph.constant, tensors), epsilon=module.eps)
        elif isinstance(module, nn.PReLU):
            graph.add("PRelu", graph.constant(module.weight[:, None, None]))
        elif isinstance(module, nn.Linear):
            graph.add("Dropout")
            graph.add("Flatten")
            graph.add("Gemm", graph.weight(module.weight), graph.constant(module.bias), transB=1)
    return graph.model().SerializeToString()


class _Graph:
    """Nodes, each on the output of the one before."""

    def __init__(self, block_size: int | None) -> None:
        self.block_size = block_size
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.last = "data"

    def add(self, kind: str, *names: str, **attributes: Any) -> None:
        self.last = self.node(kind, self.last, *names, **attributes)

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, values: Any) -> str:
        array = values if isinstance(values, np.ndarray) else values.detach().numpy()
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, tensor: Any) -> str:
        array = tensor.detach().numpy()
        if self.block_size is None:
            return self.constant(array)
        rows = array.reshape(len(array), -1)
        blocks = [rows[:, i : i + self.block_size] for i in range(0, rows.shape[1], self.block_size)]
        # Zero is within each block's range, as the zero point must be one of the int8 values.
        low = np.stack([block.min(axis=1, initial=0) for block in blocks], axis=1)
        high = np.stack([block.max(axis=1, initial=0) for block in blocks], axis=1)
        scale = np.maximum(high - low, 1e-6).astype(np.float32) / 255
        zero_point = np.clip(np.round(-128 - low / scale), -128, 127)
        wide = (np.repeat(values, self.block_size, axis=1)[:, : rows.shape[1]] for values in (scale, zero_point))
        quantized = np.clip(np.round(rows / next(wide)) + next(wide), -128, 127)
        names = map(self.constant, (quantized.astype(np.int8), scale, zero_point.astype(np.int8)))
        dequantized = self.node("DequantizeLinear", *names, axis=1, block_size=self.block_size)
        return self.node("Reshape", dequantized, self.constant(np.array(array.shape, np.int64)))

    def model(self) -> Any:
        inputs = [helper.make_tensor_value_info("data", onnx.TensorProto.FLOAT, [1, 3, 112, 112])]
        outputs = [helper.make_tensor_value_info(self.last, onnx.TensorProto.FLOAT, [1, 128])]
        graph = helper.make_graph(self.nodes, "sface", inputs, outputs, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
