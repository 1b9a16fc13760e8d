"""Export the parts of a model to ONNX, and compare them with PyTorch.

A part is a function of tensors with dynamic leading dimensions: the number of images, clips and frames. Covariance
pooling is not exported, since ONNX has no operator for eigenvectors.
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from facereel.data import FaceSet
from facereel.data.select import evenly_spaced
from facereel.errors import UserError, first_line
from facereel.models import (
    GaussianPooling,
    LogCovariancePooling,
    OnnxEncoder,
    ProjectedPooling,
    SqrtCovariancePooling,
    VideoHasher,
)
from facereel.system.optional import import_onnx

ENCODER, POOLING, STILL_HEAD, CLIP_HEAD = "encoder", "pooling", "still_head", "clip_head"

# Maximum difference of scores, which are in 0..1. Other kernels only change the last digits.
TOLERANCE = 1e-3
# Number of clips to compare, evenly spaced in the data set, and of images in a batch.
N_CLIPS = 60
_AT_ONCE = 32
# onnxruntime's log level for errors only.
_ERRORS_ONLY = 3

# Runs a part: arrays in, an array out.
Run = Callable[..., np.ndarray[Any, Any]]


class Part(NamedTuple):
    """A part of a model that is exported to one file."""

    module: nn.Module
    inputs: Mapping[str, tuple[Tensor, tuple[str, ...]]]
    """An example, and the names of its dynamic leading dimensions, by input name."""
    output: str


@dataclass
class Parity:
    """Comparison of the ONNX files with PyTorch on faces."""

    faces: str
    """Name of the data set."""
    n_stills: int
    n_clips: int
    differences: dict[str, float] = field(default_factory=dict)
    """Largest absolute difference of each part's output; its input comes from the ONNX files of earlier parts."""
    magnitudes: dict[str, float] = field(default_factory=dict)
    """Largest absolute value of each part's output in PyTorch."""
    equal_bits: dict[str, float] = field(default_factory=dict)
    """Fraction of equal bits in the codes of stills and of clips, in 0..1."""


class _Call(nn.Module):
    """A method of a module, as a module."""

    def __init__(self, owner: nn.Module, method: Callable[..., Tensor]) -> None:
        super().__init__()
        self.owner = owner
        self.method = method

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.method(*inputs)


def parts_of(model: VideoHasher) -> dict[str, Part]:
    """Return the parts of a model to export by name, with example inputs."""
    size, dim, pooled_dim = model.preprocess.size, model.encoder.dim, model.pooling.out_dim
    pooled = {"pooled": (torch.zeros(2, pooled_dim), ("clips",))}
    # A head with `pools_stills` treats a still as a pooled clip of one frame.
    still = pooled if model.head.pools_stills else {"features": (torch.zeros(2, dim), ("stills",))}
    frames = {
        "features": (torch.rand(2, 3, dim), ("clips", "frames")),
        "mask": (torch.ones(2, 3, dtype=torch.bool), ("clips", "frames")),
    }
    return {
        ENCODER: Part(
            _Call(model, model.features), {"images": (torch.rand(2, 3, size, size), ("images",))}, "features"
        ),
        POOLING: Part(_Call(model.pooling, model.pooling), frames, "pooled"),
        STILL_HEAD: Part(_Call(model.head, model.head.forward_stills), still, "scores"),
        CLIP_HEAD: Part(_Call(model.head, model.head.forward_clips), pooled, "scores"),
    }


def obstacle(model: VideoHasher, part: str) -> str | None:
    """Return why ONNX cannot express a part of a model, or None."""
    if part == ENCODER and isinstance(model.encoder, OnnxEncoder):
        return "the encoder is an ONNX file already: use that file, with the preprocessing in model.json"
    matrices = (LogCovariancePooling, SqrtCovariancePooling, GaussianPooling)
    pooling = model.pooling.pooling if isinstance(model.pooling, ProjectedPooling) else model.pooling
    if part == POOLING and isinstance(pooling, matrices):
        return (
            "ONNX has no operator for the eigenvectors of a symmetric matrix in covariance pooling: compute it with "
            "facereel between the encoder and the head"
        )
    return None


def export_part(part: Part, about: dict[str, str]) -> bytes:
    """Export a part to ONNX.

    Args:
        part: the part.
        about: metadata of the file.

    Returns:
        The content of the file, without paths of this machine.

    Raises:
        UserError: if PyTorch's exporter cannot express the part.
    """
    onnx, _ = import_onnx()
    sizes = {name: torch.export.Dim(name) for _, free in part.inputs.values() for name in free}
    shapes = tuple({i: sizes[name] for i, name in enumerate(free)} for _, free in part.inputs.values())
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                part.module.eval(),
                tuple(example for example, _ in part.inputs.values()),
                input_names=list(part.inputs),
                output_names=[part.output],
                dynamic_shapes={"inputs": shapes},
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            made = program.model_proto
            _strip(made)
            onnx.helper.set_model_props(made, about)
            content: bytes = made.SerializeToString()
        onnx.checker.check_model(content)
    except torch.onnx.OnnxExporterError as error:
        raise UserError(_reason(error)) from error
    except (ValueError, onnx.checker.ValidationError) as error:  # Protocol Buffers are limited to 2 GB
        raise UserError(first_line(error)) from error
    return content


def runner(content: bytes) -> Run:
    """Return a function that runs the content of an ONNX file with onnxruntime on the CPU."""
    _, onnxruntime = import_onnx()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]


@torch.inference_mode()
def check_parity(model: VideoHasher, files: dict[str, bytes], faces: FaceSet, name: str) -> Parity:
    """Compare ONNX with PyTorch on the clips of a data set, and on their frames as stills.

    Args:
        model: model in evaluation mode, on the CPU.
        files: content of the files by part; PyTorch computes the other parts.
        faces: data set of real faces.
        name: name of the data set.

    Returns:
        The differences.

    Raises:
        UserError: if a score differs by more than `TOLERANCE`.
    """
    clips = [faces.clips[i] for i in evenly_spaced(range(len(faces.clips)), N_CLIPS)]
    rows = [list(clip.rows) for clip in clips] or [[still.row] for still in faces.stills[:N_CLIPS]]
    flat = [row for its in rows for row in its]
    runs = {part: runner(content) for part, content in files.items()}
    found = Parity(name, len(flat), len(rows))

    def compare(part: str, expected: Tensor, *inputs: Tensor) -> Tensor:
        """Return the output of a part in batches of 1 and of many; without a file, return PyTorch's output."""
        if part not in runs:
            return expected
        sizes = [1, *[_AT_ONCE] * (len(expected) // _AT_ONCE + 1)]
        ends = np.minimum(np.cumsum(sizes), len(expected)).tolist()
        pairs = [(start, end) for start, end in pairwise([0, *ends]) if end > start]
        batches = [[x[start:end].numpy() for x in inputs] for start, end in pairs]
        result = torch.from_numpy(np.concatenate([runs[part](*batch) for batch in batches]))
        found.differences[part] = float((result - expected).abs().max())
        found.magnitudes[part] = float(expected.abs().max())
        return result

    images = torch.cat([_sized(faces.images(flat[i : i + _AT_ONCE]), model) for i in range(0, len(flat), _AT_ONCE)])
    expected = torch.cat([model.features(images[i : i + _AT_ONCE]) for i in range(0, len(flat), _AT_ONCE)])
    made = compare(ENCODER, expected, images)
    mask = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.bool)
    for n, its in enumerate(rows):
        mask[n, : len(its)] = True
    padded = [x.new_zeros(*mask.shape, x.shape[1]).masked_scatter(mask[..., None], x) for x in (expected, made)]
    pooled = model.pooling(padded[0], mask)
    made_pooled = compare(POOLING, pooled, padded[1], mask) if POOLING in runs else model.pooling(padded[1], mask)
    stills = model.pooling(made[:, None]) if model.head.pools_stills else made
    scores = {
        "stills": (STILL_HEAD, model.hash_stills(expected), stills),
        "clips": (CLIP_HEAD, model.hash_pooled(pooled), made_pooled),
    }
    for kind, (head, theirs, given) in scores.items():
        if head not in runs:
            continue
        by_onnx = compare(head, theirs, given)
        found.equal_bits[kind] = float(((theirs > 0.5) == (by_onnx > 0.5)).double().mean())
        if not (worst := float((theirs - by_onnx).abs().max())) <= TOLERANCE:
            raise UserError(
                f"the scores of {kind} of {name} from onnxruntime differ by {worst:.2g} from PyTorch's, more than "
                f"{TOLERANCE:g}: export without ONNX, and report this as a bug"
            )
    return found


def _sized(inputs: Tensor, model: VideoHasher) -> Tensor:
    """Return (B, 3, S, S) in 0..1 from (B, 3, H, W) uint8: the preprocessing that is not in the encoder's file."""
    images = inputs.float() / 255
    size = (model.preprocess.size,) * 2
    if images.shape[-2:] == size:
        return images
    return interpolate(images, size, mode="bilinear", antialias=True)


def _strip(model: Any) -> None:
    """Remove the exporter's debug information, which contains paths of this machine."""
    items: list[Any] = [model, *model.functions, model.graph]
    while items:
        item = items.pop()
        item.ClearField("doc_string")
        if hasattr(item, "metadata_props"):
            item.ClearField("metadata_props")
        for name in ("node", "input", "output", "value_info", "initializer", "attribute"):
            parts = getattr(item, name, ())
            items += [part for part in parts if hasattr(part, "doc_string")]  # a node's inputs are names
        if hasattr(item, "g") and item.HasField("g"):
            items.append(item.g)


def _reason(error: BaseException) -> str:
    """Return the first cause in one line, without the exporter's advice to developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Suppress the output and log of the exporter."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
