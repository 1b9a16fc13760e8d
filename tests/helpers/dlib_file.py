"""Writes the network as dlib does, byte for byte."""

from typing import Any

import torch

from facereel.models import DlibResNet
from facereel.models.encoders.dlib_resnet import Affine


def integer(value: int) -> bytes:
    size = max(1, (abs(value).bit_length() + 7) // 8)
    return bytes([size | (0x80 if value < 0 else 0)]) + abs(value).to_bytes(size, "little")


def integers(*values: int) -> bytes:
    return b"".join(map(integer, values))


def name(text: str) -> bytes:
    return integer(len(text)) + text.encode()


def tensor(values: torch.Tensor) -> bytes:
    sizes = (*values.shape, 1, 1, 1)[:4] if values.numel() else (0, 0, 0, 0)
    return integers(2, *sizes) + values.detach().contiguous().numpy().astype("<f4").tobytes()


# The multipliers of learning rates and weight decay, 1, 1, 1 and 0: mantissa and exponent.
RATES = integers(16, -4, 16, -4, 16, -4, 0, 11)
# Flags, the third of which is set where the next layer works in place, and the tensors that a cleaned network empties.
EMPTY = 3 * tensor(torch.empty(0))
STATE, COVERED = b"110" + EMPTY, b"111" + EMPTY


def convolution(layer: torch.nn.Conv2d) -> bytes:
    assert layer.bias is not None
    n_out, n_in, height, width = layer.weight.shape
    geometry = integers(n_out, height, width, *layer.stride, *layer.padding)
    views = integers(1, n_out, n_in, height, width) + integers(1, 1, n_out, 1, 1)
    return name("con_4") + tensor(torch.cat([layer.weight.flatten(), layer.bias])) + geometry + views + RATES + STATE


def affine(layer: Affine, state: bytes = COVERED) -> bytes:
    view = integers(1, 1, len(layer.weight), 1, 1)
    return name("affine_") + tensor(torch.cat([layer.weight, layer.bias])) + 2 * view + integer(0) + state


def pool(kind: str, size: int, stride: int) -> bytes:
    return name(kind) + integers(size, size, stride, stride, 0, 0) + STATE


def fully_connected(layer: torch.nn.Linear) -> bytes:
    n_out, n_in = layer.weight.shape
    views = integers(1, n_in, n_out, 1, 1) + integers(1, 0, 0, 0, 0)
    return name("fc_2") + integers(n_out, n_in) + tensor(layer.weight.t()) + views + integer(1) + RATES + STATE


def dlib_file(network: DlibResNet) -> bytes:
    relu, add = name("relu_") + STATE, name("add_prev_") + COVERED
    layers = convolution(network.stem) + integer(1) + affine(network.stem_affine) + relu + pool("max_pool_2", 3, 2)
    # Seen from the end: layers 2, the tags around a block 1, the skip 1.
    versions = [2, 2, 2, 2]
    block: Any
    for block in network.blocks:
        layers += convolution(block.conv1) + affine(block.affine1) + relu
        layers += convolution(block.conv2) + affine(block.affine2, STATE)
        down = block.stride == 2
        layers += (pool("avg_pool_2", 2, 2) if down else b"") + add + relu
        versions = [2, 2, *([2, 1, 1] if down else []), 2, 2, 2, 2, 2, 1, *versions]
    layers += pool("avg_pool_2", 0, 1) + fully_connected(network.fc)
    mean = integers(16093282, -17, 15335555, -17, 13670547, -17)
    loss = integer(1) + name("loss_metric_2") + integers(10737418, -28, 10066330, -24)
    # The fully connected layer and the pooling stand above all blocks; the first convolution is the 3.
    header = loss + integers(*[2, 2, *versions[:-1], 3])
    return header + name("input_rgb_image_sized") + mean + integers(150, 150) + layers
