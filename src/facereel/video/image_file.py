"""Decode image files."""

import struct
from collections.abc import Iterator
from enum import Enum
from io import BytesIO
from pathlib import Path

import av
import av.error
import cv2
import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    ImageOps,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    SunImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL import Image as PILImage

from facereel.errors import UserError
from facereel.system.optional import import_pillow_heif
from facereel.video.detector import Image
from facereel.video.image_format import find_jpeg_end, name_format, read_webp_size, strip_filling

# A few kilobytes may decode to gigabytes. The largest cameras have 200 million pixels, 16,320 x 12,240.
_MOST_PIXELS = 200_000_000
# The largest fraction of a JPEG's blocks that may be missing at its end.
_MAY_BE_MISSING = 1 / 100
# The largest side of such a block in pixels.
_JPEG_UNIT = 16
# Number of bytes to recognize a file's format.
_HEAD_BYTES = 4096
# The maximum number of frames that are read from an animation.
_FRAMES = 10

# Pillow reports an image's size before decoding it. Its readers are called directly: Image.open has a lower limit for
# the whole process, and starts other programs for some formats.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "AVIF": AvifImagePlugin.AvifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "JPEG 2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "PNM": PpmImagePlugin.PpmImageFile,
    "Sun raster": SunImagePlugin.SunImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
}
# The exceptions of these readers for damaged files.
_DAMAGED = (
    *(OSError, ValueError, SyntaxError, EOFError, RuntimeError, IndexError, KeyError, TypeError, struct.error),
    PILImage.DecompressionBombError,
)

# TIFF tags of camera raw files. Their first image is a preview or sensor data.
_DNG_VERSION, _SUBFILE_TYPE, _PHOTOMETRIC, _SUB_IFDS = 50706, 254, 262, 330
_RAW_PHOTOMETRIC = (32803, 34892)


class Unreadable(Enum):
    """Why an image file cannot be read."""

    ABSENT = "missing image"
    EMPTY = "empty image file"
    TRUNCATED = "truncated image file"
    UNREADABLE = "image that cannot be decoded"
    TOO_LARGE = "image of more than 200 million pixels"
    REFUSED = "file that cannot be read"
    UNSUPPORTED = "image in an unsupported format"
    NEEDS_HEIF = "HEIC image that needs the package pi-heif (pip install 'facereel[heif]')"


_ADVICE = {
    Unreadable.EMPTY: "copy it again from its source",
    Unreadable.TRUNCATED: "copy it again from its source",
    Unreadable.TOO_LARGE: "save it smaller, or crop it to the face",
    Unreadable.REFUSED: "check its permissions",
}


def read_image(file: str | Path, turn: bool = True) -> Image | Unreadable:
    """Decode an image file, or the first frame of an animation.

    Args:
        file: an image file with any name.
        turn: apply the EXIF orientation. It is always applied for HEIC and AVIF files.

    Returns:
        (H, W, 3) BGR uint8, or why the file cannot be read.
    """
    content = _read(file)
    return content if isinstance(content, Unreadable) else decode_image(content, turn)


def decode_image(data: bytes | None, turn: bool = True) -> Image | Unreadable:
    """Decode the content of an image file.

    Args:
        data: bytes of the file.
        turn: apply the EXIF orientation. It is always applied for HEIC and AVIF files.

    Returns:
        (H, W, 3) BGR uint8, or why the file cannot be read.
    """
    if not data:
        return Unreadable.EMPTY
    name = name_format(data)
    if name == "HEIC":
        return _decode_heif(data)
    if name not in _READERS:
        return Unreadable.UNREADABLE if name is None else Unreadable.UNSUPPORTED
    try:
        if name == "JPEG":
            return _decode_jpeg(data, turn)
        if name == "WebP" and (size := read_webp_size(data)) is not None:
            if size[0] * size[1] > _MOST_PIXELS:
                return Unreadable.TOO_LARGE
            if not size[2]:
                return _decode_by_opencv(data, turn)
        with _open(name, data) as image:
            if isinstance(image, TiffImagePlugin.TiffImageFile) and _is_raw(image):
                return Unreadable.UNSUPPORTED
            # OpenCV ignores the orientation of AVIF files and the background of animations.
            if name in ("AVIF", "GIF", "WebP"):
                return _to_pixels(image, turn or name == "AVIF")
        return _decode_by_opencv(data, turn)
    except PILImage.DecompressionBombError:
        return Unreadable.TOO_LARGE
    except _DAMAGED:
        return Unreadable.UNREADABLE


def _open(name: str, data: bytes) -> ImageFile.ImageFile:
    """Return an image without decoding it.

    Raises:
        DecompressionBombError: if it has too many pixels.
    """
    image = _READERS[name](BytesIO(data))
    if image.width * image.height > _MOST_PIXELS:
        raise PILImage.DecompressionBombError
    return image


def _decode_jpeg(data: bytes, turn: bool) -> Image | Unreadable:
    end = find_jpeg_end(data)
    if not end.has_all_scans:
        return Unreadable.TRUNCATED
    with _open("JPEG", data):
        return _decode_by_opencv(data, turn) if end.is_marked else _complete_jpeg(data, turn)


def encode_jpeg(image: Image, quality: int = 95) -> bytes:
    """Encode an image as JPEG.

    Args:
        image: (H, W, 3) BGR uint8.
        quality: JPEG quality, 0..100.

    Returns:
        The bytes of the file.
    """
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def read_frames(file: str | Path) -> Iterator[Image]:
    """Decode at most ten evenly spaced frames of an animation after its first frame.

    Args:
        file: a GIF, WebP, PNG or AVIF file. At most 200 million pixels are decoded, from the start.

    Yields:
        (H, W, 3) BGR uint8 frames; nothing if the file is not an animation.
    """
    content = _read(file)
    name = None if isinstance(content, Unreadable) else name_format(content)
    if isinstance(content, Unreadable) or name not in ("AVIF", "GIF", "PNG", "WebP"):
        return
    try:
        with _READERS[name](BytesIO(content)) as image:
            n_frames = min(getattr(image, "n_frames", 1), _MOST_PIXELS // (image.width * image.height))
            for i in np.linspace(1, n_frames - 1, min(_FRAMES, n_frames - 1), dtype=int) if n_frames > 1 else ():
                image.seek(int(i))
                yield _to_pixels(image, turn=True)
    except _DAMAGED:
        return


def explain(file: str | Path, reason: Unreadable) -> str | None:
    """Return a line about what is wrong with an image file and what to do, or None if it may be a video.

    Args:
        file: a file that `read_image` could not read.
        reason: the result of `read_image`.
    """
    if reason is not Unreadable.UNREADABLE and reason is not Unreadable.UNSUPPORTED:
        return f"{reason.value}: {_ADVICE[reason]}" if reason in _ADVICE else reason.value
    content = _read(file)
    name = None if isinstance(content, Unreadable) else name_format(content)
    if name is None:
        return None
    if reason is Unreadable.UNREADABLE:
        return f"{name} image that cannot be decoded: copy it again, or save it as JPEG or PNG"
    kind = "RAW" if name == "TIFF" else name
    return f"{kind} file, which is not a supported image or video: save it as JPEG or PNG"


def _read(file: str | Path) -> bytes | Unreadable:
    """Return the content of an image file, or the first bytes of any other file, such as a film."""
    try:
        with Path(file).open("rb") as opened:
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


def _to_pixels(image: PILImage.Image, turn: bool) -> Image:
    if turn:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = PILImage.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    # Pillow converts premultiplied colors to RGB only through RGBA.
    image = image.convert("RGBA") if image.mode == "RGBa" else image
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])


def _complete_jpeg(data: bytes, turn: bool) -> Image | Unreadable:
    """Return the image of a JPEG without its end mark if almost no pixel is missing.

    A decoder uses whatever bytes follow as the missing data. The first pixel that depends on them is the first missing
    one.
    """
    data = strip_filling(data)
    random = np.random.default_rng(0)
    images = []
    for _ in range(2):
        with JpegImagePlugin.JpegImageFile(BytesIO(data + _fill_scan(random) + b"\xff\xd9")) as image:
            images.append(_to_pixels(image, turn=False))
    # Color is blurred one pixel beyond its units, so that their borders are not compared.
    y, x = np.nonzero((images[0] != images[1]).any(axis=2))
    is_inner = (y % _JPEG_UNIT % (_JPEG_UNIT - 1) > 0) & (x % _JPEG_UNIT % (_JPEG_UNIT - 1) > 0)
    n_across, n_down = -(-images[0].shape[1] // _JPEG_UNIT), -(-images[0].shape[0] // _JPEG_UNIT)
    first = np.min(y[is_inner] // _JPEG_UNIT * n_across + x[is_inner] // _JPEG_UNIT, initial=n_across * n_down)
    if n_across * n_down - first > max(1, _MAY_BE_MISSING * n_across * n_down):
        return Unreadable.TRUNCATED
    with JpegImagePlugin.JpegImageFile(BytesIO(data + b"\xff\xd9")) as image:
        return _to_pixels(image, turn)


def _fill_scan(random: np.random.Generator) -> bytes:
    """Return random bytes that may continue a JPEG's scan after any of its restarts."""
    return b"".join(
        random.integers(0, 255, 500, dtype=np.uint8).tobytes() + bytes([0xFF, 0xD0 + i % 8]) for i in range(16)
    )


def _is_raw(image: TiffImagePlugin.TiffImageFile) -> bool:
    tags = image.tag_v2
    return (
        _DNG_VERSION in tags
        or tags.get(_PHOTOMETRIC) in _RAW_PHOTOMETRIC
        or (tags.get(_SUBFILE_TYPE) == 1 and _SUB_IFDS in tags)
    )


def _decode_heif(data: bytes) -> Image | Unreadable:
    """Return the upright primary image of a HEIC file, or the first image of a sequence."""
    try:
        heif = import_pillow_heif()
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
    """Return the first image of a HEIC sequence without a primary image, which has the structure of a video."""
    try:
        with av.open(BytesIO(data), "r", format="mov") as container:
            stream = container.streams.video[0]
            if stream.width * stream.height > _MOST_PIXELS:
                return Unreadable.TOO_LARGE
            return np.asarray(next(container.decode(stream)).to_ndarray(format="bgr24"), np.uint8)
    except (av.error.FFmpegError, IndexError, StopIteration, ValueError):
        return Unreadable.UNREADABLE
