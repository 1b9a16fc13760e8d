"""Writes small recognition networks as ONNX files."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def onnx_network(
    shape: tuple[Any, ...] = ("n", 3, 112, 112),
    dim: int = 16,
    before: tuple[tuple[str, float], ...] = (),
    kind: int = onnx.TensorProto.FLOAT,
    name_weights_as_inputs: bool = False,
) -> Any:
    """A model of ONNX: strided convolution, global average pooling and a linear layer, from random numbers.

    Args:
        shape: shape of the input, with names for free axes; (N, H, W, 3) is transposed first.
        dim: length of the features.
        before: operations with a number, such as ("Sub", 127.5), before the convolution.
        kind: type of the numbers.
        name_weights_as_inputs: list the weights as graph inputs too, as old exporters do.
    """
    random = np.random.default_rng(0)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weights = {
        "kernel": random.normal(size=(8, 3, 8, 8)) / 14,
        "bias": random.normal(size=8),
        "matrix": random.normal(size=(8, dim)),
        **{f"number{i}": np.array(number) for i, (_, number) in enumerate(before)},
    }
    initializers = [numpy_helper.from_array(array.astype(dtype), name) for name, array in weights.items()]
    nodes, last = [], "faces"
    if shape[3] == 3:
        nodes.append(helper.make_node("Transpose", [last], ["first"], perm=[0, 3, 1, 2]))
        last = "first"
    for i, (operation, _) in enumerate(before):
        nodes.append(helper.make_node(operation, [last, f"number{i}"], [f"step{i}"]))
        last = f"step{i}"
    nodes += [
        helper.make_node("Conv", [last, "kernel", "bias"], ["maps"], strides=[8, 8]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["features"]),
    ]
    inputs = [helper.make_tensor_value_info("faces", kind, shape)]
    if name_weights_as_inputs:
        inputs += [helper.make_tensor_value_info(t.name, kind, list(t.dims)) for t in initializers]
    outputs = [helper.make_tensor_value_info("features", kind, [shape[0], dim])]
    graph = helper.make_graph(nodes, "faces", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def reference_features(model: Any, values: Any) -> Any:
    """Features of (N, 3, H, W) by the weights of `onnx_network`, without onnxruntime; `before` is not applied."""
    arrays = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    n, _, height, width = values.shape
    blocks = values.reshape(n, 3, height // 8, 8, width // 8, 8).astype(np.float64)
    maps = np.einsum("ncyixj,kcij->nkyx", blocks, arrays["kernel"]) + arrays["bias"][:, None, None]
    return np.maximum(maps, 0).mean(axis=(2, 3)) @ arrays["matrix"]
