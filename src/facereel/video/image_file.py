"""Picture files to pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import Enum
from io import BytesIO
from pathlib import Path
from types import ModuleType

import av
import av.error
import cv2
import numpy as np
import PIL.AvifImagePlugin
import PIL.BmpImagePlugin
import PIL.GifImagePlugin
import PIL.Image
import PIL.ImageFile
import PIL.ImageOps
import PIL.Jpeg2KImagePlugin
import PIL.JpegImagePlugin
import PIL.PngImagePlugin
import PIL.PpmImagePlugin
import PIL.SunImagePlugin
import PIL.TiffImagePlugin
import PIL.WebPImagePlugin

from facereel.errors import UserError
from facereel.optional import import_pillow_heif
from facereel.video.detector import Image
from facereel.video.image_format import find_jpeg_end, name_format, read_webp_size, strip_filling

# A few kilobytes may decode to gigabytes. The largest cameras make 200 million pixels, of 16,320 x 12,240.
_MOST_PIXELS = 200_000_000
# The largest fraction of a JPEG's blocks that may be missing at its end.
_MAY_BE_MISSING = 1 / 100
# The largest side of such a block in pixels.
_JPEG_UNIT = 16
# Enough to tell a file's format.
_HEAD_BYTES = 4096
# Frames of an animation that are searched at most, spread evenly.
_FRAMES = 10

# Pillow says how large an image is before it is decoded. Its readers are called themselves: Image.open has a lower
# limit, which is the whole process's, and knows formats that have it start other programs.
_READERS: dict[str, type[PIL.ImageFile.ImageFile]] = {
    "AVIF": PIL.AvifImagePlugin.AvifImageFile,
    "BMP": PIL.BmpImagePlugin.BmpImageFile,
    "GIF": PIL.GifImagePlugin.GifImageFile,
    "JPEG": PIL.JpegImagePlugin.JpegImageFile,
    "JPEG 2000": PIL.Jpeg2KImagePlugin.Jpeg2KImageFile,
    "PNG": PIL.PngImagePlugin.PngImageFile,
    "PNM": PIL.PpmImagePlugin.PpmImageFile,
    "Sun raster": PIL.SunImagePlugin.SunImageFile,
    "TIFF": PIL.TiffImagePlugin.TiffImageFile,
    "WebP": PIL.WebPImagePlugin.WebPImageFile,
}
# What these raise on files that are damaged.
_DAMAGED = (
    *(OSError, ValueError, SyntaxError, EOFError, RuntimeError, IndexError, KeyError, TypeError, struct.error),
    PIL.Image.DecompressionBombError,
)

# TIFF tags that tell a camera's raw file from an image: the first image in a raw file is a preview or sensor data.
_DNG_VERSION, _SUBFILE_TYPE, _PHOTOMETRIC, _SUB_IFDS = 50706, 254, 262, 330
_RAW_PHOTOMETRIC = (32803, 34892)


class Unreadable(Enum):
    """What is wrong with a picture file."""

    ABSENT = "picture that is absent"
    EMPTY = "picture file of no bytes"
    CUT_SHORT = "picture file that is cut short"
    UNREADABLE = "picture that does not decode"
    TOO_LARGE = "picture of more than 200 million pixels"
    REFUSED = "file that cannot be read"
    UNSUPPORTED = "picture of a format that is not supported"
    NEEDS_HEIF = "HEIC picture that needs the package pi-heif (pip install 'facereel[heif]')"


_ADVICE = {
    Unreadable.EMPTY: "copy it again from where it came",
    Unreadable.CUT_SHORT: "copy it again from where it came",
    Unreadable.TOO_LARGE: "save it smaller, or cut out the face",
    Unreadable.REFUSED: "see to its permissions",
}


def read_picture(file: str | Path, turn: bool = True) -> Image | Unreadable:
    """Decode a picture file; of an animation the first frame.

    Args:
        file: of any name.
        turn: as its EXIF orientation says. HEIC and AVIF say it themselves, and are always turned.

    Returns:
        (H, W, 3) BGR uint8, or what is wrong with the file.
    """
    content = _read(file)
    return content if isinstance(content, Unreadable) else decode_picture(content, turn)


def decode_picture(data: bytes | None, turn: bool = True) -> Image | Unreadable:
    """Decode a picture file's content, as `read_picture`."""
    if not data:
        return Unreadable.EMPTY
    name = name_format(data)
    if name == "HEIC":
        return _decode_heif(data)
    if name not in _READERS:
        return Unreadable.UNREADABLE if name is None else Unreadable.UNSUPPORTED
    end = find_jpeg_end(data) if name == "JPEG" else None
    if end is not None and not end.has_all_scans:
        return Unreadable.CUT_SHORT
    try:
        webp = read_webp_size(data) if name == "WebP" else None
        if webp is not None:
            if webp[0] * webp[1] > _MOST_PIXELS:
                return Unreadable.TOO_LARGE
            if not webp[2]:
                return _decode_by_opencv(data, turn)
        with _READERS[name](BytesIO(data)) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                return Unreadable.TOO_LARGE
            if isinstance(picture, PIL.TiffImagePlugin.TiffImageFile) and _is_raw(picture):
                return Unreadable.UNSUPPORTED
            if end is not None and not end.is_marked:
                return _complete_jpeg(data, turn)
            # OpenCV ignores what turns an AVIF, and the background of an animation.
            if name in ("AVIF", "GIF", "WebP"):
                return _to_pixels(picture, turn or name == "AVIF")
        return _decode_by_opencv(data, turn)
    except PIL.Image.DecompressionBombError:
        return Unreadable.TOO_LARGE
    except _DAMAGED:
        return Unreadable.UNREADABLE


def read_frames(file: str | Path) -> Iterator[Image]:
    """Decode an animation's frames after its first, at most ten spread evenly; none of other files.

    Args:
        file: a GIF, WebP, PNG or AVIF file. Of a long animation of large frames only the start is looked at: no more
            than 200 million pixels are decoded.

    Yields:
        (H, W, 3) BGR uint8.
    """
    content = _read(file)
    name = None if isinstance(content, Unreadable) else name_format(content)
    if isinstance(content, Unreadable) or name not in ("AVIF", "GIF", "PNG", "WebP"):
        return
    try:
        with _READERS[name](BytesIO(content)) as picture:
            n_frames = min(getattr(picture, "n_frames", 1), _MOST_PIXELS // (picture.width * picture.height))
            for i in np.linspace(1, n_frames - 1, min(_FRAMES, n_frames - 1), dtype=int) if n_frames > 1 else ():
                picture.seek(int(i))
                yield _to_pixels(picture, turn=True)
    except _DAMAGED:
        return


def explain(file: str | Path, reason: Unreadable) -> str | None:
    """Say in one line what is wrong with a picture file and what to do; None if it may be a video.

    Args:
        file: that `read_picture` did not read.
        reason: that it gave.
    """
    if reason is not Unreadable.UNREADABLE and reason is not Unreadable.UNSUPPORTED:
        return f"{reason.value}: {_ADVICE[reason]}" if reason in _ADVICE else reason.value
    content = _read(file)
    name = None if isinstance(content, Unreadable) else name_format(content)
    if name is None:
        return None
    if reason is Unreadable.UNREADABLE:
        return f"{name} picture that does not decode: copy it again, or save it as JPEG or PNG"
    kind = "RAW" if name == "TIFF" else name
    return f"{kind} file, neither a picture nor a video that can be read: save it as JPEG or PNG"


def _read(file: str | Path) -> bytes | Unreadable:
    """Read an image file; of a file that is not an image, such as a film, only the start."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(_HEAD_BYTES)
            return head if name_format(head) is None else head + opened.read()
    except FileNotFoundError:
        return Unreadable.ABSENT
    except OSError:
        return Unreadable.REFUSED


def _decode_by_opencv(data: bytes, turn: bool) -> Image | Unreadable:
    flags = cv2.IMREAD_COLOR | (0 if turn else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    return Unreadable.UNREADABLE if image is None else image


def _to_pixels(picture: PIL.Image.Image, turn: bool) -> Image:
    if turn:
        picture = PIL.ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        picture = PIL.Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    # What is premultiplied has no way to RGB but this.
    picture = picture.convert("RGBA") if picture.mode == "RGBa" else picture
    return np.ascontiguousarray(np.asarray(picture.convert("RGB"))[:, :, ::-1])


def _complete_jpeg(data: bytes, turn: bool) -> Image | Unreadable:
    """Decode a JPEG without its end mark, if hardly a pixel is missing.

    A decoder takes whatever comes next for what is missing. So from the first pixel on that differs by that, all are.
    """
    data = strip_filling(data)
    random = np.random.default_rng(0)
    images = []
    for _ in range(2):
        with PIL.JpegImagePlugin.JpegImageFile(BytesIO(data + _fill_scan(random) + b"\xff\xd9")) as picture:
            images.append(_to_pixels(picture, turn=False))
    # Colour is blurred by a pixel beyond the units that it is stored in: their borders say nothing.
    y, x = np.nonzero((images[0] != images[1]).any(axis=2))
    is_inner = (y % _JPEG_UNIT % (_JPEG_UNIT - 1) > 0) & (x % _JPEG_UNIT % (_JPEG_UNIT - 1) > 0)
    n_across, n_down = -(-images[0].shape[1] // _JPEG_UNIT), -(-images[0].shape[0] // _JPEG_UNIT)
    first = np.min(y[is_inner] // _JPEG_UNIT * n_across + x[is_inner] // _JPEG_UNIT, initial=n_across * n_down)
    if n_across * n_down - first > max(1, _MAY_BE_MISSING * n_across * n_down):
        return Unreadable.CUT_SHORT
    with PIL.JpegImagePlugin.JpegImageFile(BytesIO(data + b"\xff\xd9")) as picture:
        return _to_pixels(picture, turn)


def _fill_scan(random: np.random.Generator) -> bytes:
    """Draw bytes that a JPEG's scan may go on with, at whichever of its restarts it is."""
    return b"".join(
        random.integers(0, 255, 500, dtype=np.uint8).tobytes() + bytes([0xFF, 0xD0 + i % 8]) for i in range(16)
    )


def _is_raw(picture: PIL.TiffImagePlugin.TiffImageFile) -> bool:
    tags = picture.tag_v2
    return (
        _DNG_VERSION in tags
        or tags.get(_PHOTOMETRIC) in _RAW_PHOTOMETRIC
        or (tags.get(_SUBFILE_TYPE) == 1 and _SUB_IFDS in tags)
    )


def _decode_heif(data: bytes) -> Image | Unreadable:
    """Decode the primary image of a HEIC file, or the first of a sequence; libheif turns it as the file says."""
    try:
        heif: ModuleType = import_pillow_heif()
    except UserError:
        return Unreadable.NEEDS_HEIF
    try:
        file = heif.open_heif(BytesIO(data))
        if file.size[0] * file.size[1] > _MOST_PIXELS:
            return Unreadable.TOO_LARGE
        return _to_pixels(file.to_pillow(), turn=False)
    except _DAMAGED:
        return _first_of_sequence(data)


def _first_of_sequence(data: bytes) -> Image | Unreadable:
    """Decode the first image of a HEIC sequence without a primary image: it is built as a video is."""
    try:
        with av.open(BytesIO(data), "r", format="mov") as container:
            stream = container.streams.video[0]
            if stream.width * stream.height > _MOST_PIXELS:
                return Unreadable.TOO_LARGE
            return np.asarray(next(container.decode(stream)).to_ndarray(format="bgr24"), np.uint8)
    except (av.error.FFmpegError, IndexError, StopIteration, ValueError):
        return Unreadable.UNREADABLE
