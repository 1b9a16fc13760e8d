"""Convert a decoded frame to an upright image with square pixels."""

from typing import NamedTuple, cast

import av.filter
import cv2
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from facereel.video.detector import Image


class Decoded(NamedTuple):
    """A decoded frame."""

    frame: VideoFrame
    aspect: float
    """Width of a pixel over its height."""
    declared_s: float
    """Seconds for which the frame is shown according to the file; 0 if unknown."""
    fields: str
    """Field order of an interlaced frame: tff, bff, or auto to use the frame's; empty if it is progressive."""


def to_image(decoded: Decoded, before: VideoFrame | None, after: VideoFrame | None) -> Image:
    """Deinterlace a frame, make its pixels square, and rotate and mirror it as the file states.

    Args:
        decoded: the frame.
        before: the frame before it, or None.
        after: the frame after it, or None.

    Returns:
        (H, W, 3) BGR uint8.
    """
    frame, aspect = decoded.frame, decoded.aspect
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if decoded.fields:
        frame = _deinterlaced(frame, before or after, after or before, decoded.fields)
    # One side is enlarged, so that no pixel is lost.
    width, height = (
        (round(frame.width * aspect), frame.height) if aspect > 1 else (frame.width, round(frame.height / aspect))
    )
    image = cast(
        Image, frame.to_ndarray(format="bgr24", width=width, height=height, interpolation="BICUBIC", threads=1)
    )
    return image if matrix is None else _turned(image, np.frombuffer(cast(bytes, matrix), np.int32))


def _deinterlaced(frame: VideoFrame, before: VideoFrame | None, after: VideoFrame | None, fields: str) -> VideoFrame:
    """Return a deinterlaced frame; its neighbors show what moves."""
    shape = (frame.width, frame.height, frame.format.name)
    like = [
        frame if other is None or (other.width, other.height, other.format.name) != shape else other
        for other in (before, after)
    ]
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    deinterlace = graph.add("bwdif", f"mode=send_frame:deint=all:parity={fields}")
    graph.link_nodes(source, deinterlace, graph.add("buffersink")).configure()
    for other in (like[0], frame, like[1]):
        graph.vpush(other)
    graph.vpull()
    return graph.vpull()


def _turned(image: Image, matrix: NDArray[np.int32]) -> Image:
    """Return an image rotated and mirrored by a display matrix, in steps of a quarter turn."""
    a, b, c, d = (float(matrix[place]) for place in (0, 1, 3, 4))
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = cv2.transpose(image), c, b
    if a < 0 or d < 0:
        image = cv2.flip(image, -1 if a < 0 and d < 0 else 1 if a < 0 else 0)
    return image
