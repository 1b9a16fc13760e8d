"""The parts of a model as ONNX files, and how near they come to PyTorch.

A part is a function of tensors whose first sizes are free: of the encoder how many pictures, of the pooling how many
clips and frames. What PyTorch's exporter has no operators for, the eigenvectors in covariance pooling, stays out.
"""

from __future__ import annotations

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
from facereel.errors import UserError
from facereel.models import GaussianPooling, LogCovariancePooling, SqrtCovariancePooling, VideoHasher
from facereel.optional import import_onnx

ENCODER, POOLING, STILL_HEAD, CLIP_HEAD = "encoder", "pooling", "still_head", "clip_head"

# Scores lie in 0..1. Other kernels change the last digits; a part that is off by more than this is another network.
TOLERANCE = 1e-3
# Clips whose pictures are compared, evenly spaced in the data set, and pictures that are encoded at once.
N_CLIPS = 60
_AT_ONCE = 32
# onnxruntime's word for errors; its warnings speak to developers.
_ERRORS_ONLY = 3

# Runs a part: arrays in, an array out.
Run = Callable[..., np.ndarray[Any, Any]]


class Part(NamedTuple):
    """A function of the model that becomes a file."""

    module: nn.Module
    inputs: Mapping[str, tuple[Tensor, tuple[str, ...]]]
    """By name an example, and the names of its sizes that are free, from the first on."""
    output: str


@dataclass
class Parity:
    """How near the ONNX files come to PyTorch on some faces."""

    faces: str
    """Which."""
    n_stills: int
    n_clips: int
    differences: dict[str, float] = field(default_factory=dict)
    """By a part the largest absolute difference of its output, the parts before it being ONNX too where they are."""
    magnitudes: dict[str, float] = field(default_factory=dict)
    """By a part the largest absolute value of PyTorch's."""
    equal_bits: dict[str, float] = field(default_factory=dict)
    """By kind the share of bits of the codes that are equal, 0..1."""


class _Call(nn.Module):
    """A method of a part of the model as a module."""

    def __init__(self, owner: nn.Module, method: Callable[..., Tensor]) -> None:
        super().__init__()
        self.owner = owner
        self.method = method

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.method(*inputs)


def parts_of(model: VideoHasher) -> dict[str, Part]:
    """What is exported of a model, with example inputs."""
    size, dim, pooled_dim = model.preprocess.size, model.encoder.dim, model.pooling.out_dim
    pooled = {"pooled": (torch.zeros(2, pooled_dim), ("clips",))}
    # A still that is pooled enters its head as a clip of one frame does.
    still = pooled if model.head.pools_stills else {"features": (torch.zeros(2, dim), ("stills",))}
    frames = {
        "features": (torch.rand(2, 3, dim), ("clips", "frames")),
        "mask": (torch.ones(2, 3, dtype=torch.bool), ("clips", "frames")),
    }
    return {
        ENCODER: Part(
            _Call(model, model.features), {"images": (torch.rand(2, 3, size, size), ("pictures",))}, "features"
        ),
        POOLING: Part(_Call(model.pooling, model.pooling), frames, "pooled"),
        STILL_HEAD: Part(_Call(model.head, model.head.forward_stills), still, "scores"),
        CLIP_HEAD: Part(_Call(model.head, model.head.forward_clips), pooled, "scores"),
    }


def obstacle(model: VideoHasher, part: str) -> str | None:
    """Why ONNX cannot hold a part, where that is known beforehand."""
    matrices = (LogCovariancePooling, SqrtCovariancePooling, GaussianPooling)
    if part == POOLING and isinstance(model.pooling, matrices):
        return (
            "ONNX has no operator for the eigenvectors of a symmetric matrix, which covariance pooling takes: compute "
            "it with facereel between the encoder and the head"
        )
    return None


def export_part(part: Part, about: dict[str, str]) -> bytes:
    """Make an ONNX file.

    Args:
        part: what it computes.
        about: goes into the file's metadata.

    Returns:
        Its content. Nothing in it tells where on this machine the code lies.

    Raises:
        UserError: if PyTorch's exporter cannot express the part, in one line.
    """
    onnx, _ = import_onnx()
    sizes = {name: torch.export.Dim(name) for _, free in part.inputs.values() for name in free}
    shapes = tuple({i: sizes[name] for i, name in enumerate(free)} for _, free in part.inputs.values())
    try:
        with _quiet():
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
    except (ValueError, onnx.checker.ValidationError) as error:  # a file of Protocol Buffers has at most 2 GB
        raise UserError(str(error).strip().splitlines()[0]) from error
    return content


def runner(content: bytes) -> Run:
    """Run an ONNX file's content by onnxruntime on the CPU."""
    _, onnxruntime = import_onnx()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]


@torch.inference_mode()
def check_parity(model: VideoHasher, files: dict[str, bytes], faces: FaceSet, name: str) -> Parity:
    """Compare ONNX with PyTorch on a data set's clips, and on their frames as stills.

    Args:
        model: in evaluation mode, on the CPU.
        files: contents by part; what is absent is computed by PyTorch.
        faces: real ones.
        name: of the data set.

    Raises:
        UserError: if a score differs by more than `TOLERANCE`.
    """
    clips = [faces.clips[i] for i in evenly_spaced(range(len(faces.clips)), N_CLIPS)]
    rows = [list(clip.rows) for clip in clips] or [[still.row] for still in faces.stills[:N_CLIPS]]
    flat = [row for its in rows for row in its]
    ours = {part: runner(content) for part, content in files.items()}
    found = Parity(name, len(flat), len(rows))

    def compare(part: str, expected: Tensor, *inputs: Tensor) -> Tensor:
        """What ONNX makes of inputs, or PyTorch where there is no file, in batches of 1 and of many."""
        if part not in ours:
            return expected
        sizes = [1, *[_AT_ONCE] * (len(expected) // _AT_ONCE + 1)]
        ends = np.minimum(np.cumsum(sizes), len(expected)).tolist()
        pairs = [(start, end) for start, end in pairwise([0, *ends]) if end > start]
        batches = [[x[start:end].numpy() for x in inputs] for start, end in pairs]
        result = torch.from_numpy(np.concatenate([ours[part](*batch) for batch in batches]))
        found.differences[part] = float((result - expected).abs().max())
        found.magnitudes[part] = float(expected.abs().max())
        return result

    images = torch.cat([_sized(faces.pictures(flat[i : i + _AT_ONCE]), model) for i in range(0, len(flat), _AT_ONCE)])
    expected = torch.cat([model.features(images[i : i + _AT_ONCE]) for i in range(0, len(flat), _AT_ONCE)])
    made = compare(ENCODER, expected, images)
    mask = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.bool)
    for n, its in enumerate(rows):
        mask[n, : len(its)] = True
    padded = [x.new_zeros(*mask.shape, x.shape[1]).masked_scatter(mask[..., None], x) for x in (expected, made)]
    pooled = model.pooling(padded[0], mask)
    made_pooled = compare(POOLING, pooled, padded[1], mask) if POOLING in ours else model.pooling(padded[1], mask)
    stills = model.pooling(made[:, None]) if model.head.pools_stills else made
    scores = {
        "stills": (STILL_HEAD, model.hash_stills(expected), stills),
        "clips": (CLIP_HEAD, model.hash_pooled(pooled), made_pooled),
    }
    for kind, (head, theirs, given) in scores.items():
        if head not in ours:
            continue
        by_onnx = compare(head, theirs, given)
        found.equal_bits[kind] = float(((theirs > 0.5) == (by_onnx > 0.5)).double().mean())
        if not (worst := float((theirs - by_onnx).abs().max())) <= TOLERANCE:
            raise UserError(
                f"under onnxruntime scores of {kind} of {name} differ by {worst:.2g} from PyTorch's, more than "
                f"{TOLERANCE:g}: give --no-onnx, and tell us of it"
            )
    return found


def _sized(pictures: Tensor, model: VideoHasher) -> Tensor:
    """(B, 3, H, W) uint8 -> (B, 3, S, S) in 0..1: the one step of preprocessing that is not in the encoder's file."""
    images = pictures.float() / 255
    size = (model.preprocess.size,) * 2
    if images.shape[-2:] == size:
        return images
    return interpolate(images, size, mode="bilinear", antialias=True)


def _strip(model: Any) -> None:
    """Take out what the exporter notes for developers, paths of this machine among it."""
    noted: list[Any] = [model, *model.functions, model.graph]
    while noted:
        item = noted.pop()
        item.ClearField("doc_string")
        if hasattr(item, "metadata_props"):
            item.ClearField("metadata_props")
        for name in ("node", "input", "output", "value_info", "initializer", "attribute"):
            parts = getattr(item, name, ())
            noted += [part for part in parts if hasattr(part, "doc_string")]  # a node's inputs are names
        if hasattr(item, "g") and item.HasField("g"):
            noted.append(item.g)


def _reason(error: BaseException) -> str:
    """The first cause in one line: what wraps it is advice to developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, its remarks and its advice from the user's terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
