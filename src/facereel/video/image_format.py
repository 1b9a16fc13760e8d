"""Recognize the format of an image file by its first bytes, and check whether a JPEG is complete."""

import re
from typing import NamedTuple

# The first bytes of each format; longer ones come before their prefixes.
_STARTS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51"),
    "Sun raster": (b"\x59\xa6\x6a\x95",),
    "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n"),
    "Photoshop": (b"8BPS",),
    "PDF": (b"%PDF",),
    "PostScript": (b"%!PS",),
    "GIMP": (b"gimp xcf",),
    "icon": (b"\0\0\1\0",),
    "OpenEXR": (b"v/1\1",),
    "Radiance HDR": (b"#?RADIANCE",),
    "DirectDraw": (b"DDS ",),
    "BPG": (b"BPG\xfb",),
    "RAW (RAF)": (b"FUJIFILMCCD-RAW",),
    "RAW (ORF)": (b"IIRO", b"IIRS", b"MMOR"),
    "RAW (RW2)": (b"IIU\0",),
    "RAW (CR2)": (b"II*\0\x10\0\0\0CR",),
    "RAW (CRW)": (b"II\x1a\0\0\0HEAPCCDR",),
    "RAW (X3F)": (b"FOVb",),
    "RAW (MRW)": (b"\0MRM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
# Formats in ISO base media files, by brand; a file without one of these brands is a video.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"),
    b"crx ": "RAW (CR3)",
    b"mif1": "HEIC",
    b"msf1": "HEIC",
}
_PNM = re.compile(rb"P[1-6f][\s#]", re.IGNORECASE)
_MARKUP = re.compile(rb"\s*(?:<\?xml|<!--|<!doctype|<svg|<html)", re.IGNORECASE)

# A JPEG marker: bytes 255, then a code. Code 0 and restart codes occur within a scan and are not markers.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# The marker of a table, a frame or an application, after which the JPEG continues.
_SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xdb\xdd\xe0-\xef]")
_START_OF_SCAN, _END_OF_IMAGE, _TEMPORARY, _START_OF_IMAGE = 0xDA, 0xD9, 0x01, 0xD8
_STARTS_OF_FRAME = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_COEFFICIENTS = 64


def name_format(data: bytes) -> str | None:
    """Name the format of an image file, readable or not.

    Args:
        data: bytes from the start of the file.

    Returns:
        The name of the format, or None if it is unknown.
    """
    if data[4:8] == b"ftyp":
        end = min(int.from_bytes(data[:4], "big"), 400)
        brands = [data[8:12], *(data[i : i + 4] for i in range(16, end, 4))]
        # mif1 and msf1 only mean one or several images; other brands name the codec.
        return next((name for brand, name in _BRANDS.items() if brand in brands), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    for name, starts in _STARTS.items():
        if data.startswith(starts):
            return name
    if _PNM.match(data):
        return "PNM"
    if _MARKUP.match(data):
        return "SVG" if b"<svg" in data[:2000].lower() else "HTML" if b"<html" in data[:2000].lower() else None
    return None


def read_webp_size(data: bytes) -> tuple[int, int, bool] | None:
    """Read the size of a WebP image from its header; decoders allocate memory before they report the size.

    Args:
        data: bytes from the start of the file.

    Returns:
        Width and height in pixels, and whether the image is animated; None if the header is damaged.
    """
    kind, header = data[12:16], data[20:30]
    if len(header) < 10:
        return None
    if kind == b"VP8X":
        width, height = (int.from_bytes(header[i : i + 3], "little") + 1 for i in (4, 7))
        return width, height, bool(header[0] & 2)
    if kind == b"VP8L":
        bits = int.from_bytes(header[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, False
    width, height = (int.from_bytes(header[i : i + 2], "little") & 0x3FFF for i in (6, 8))
    return (width, height, False) if kind == b"VP8 " else None


def strip_filling(data: bytes) -> bytes:
    """Return the data without the padding at its end that disks and downloads add."""
    return data.rstrip(b"\0\xff")


class JpegEnd(NamedTuple):
    """Whether a JPEG is complete."""

    is_marked: bool
    """Whether it has its end mark; data after the mark is not part of the image."""
    has_all_scans: bool
    """Whether each coefficient of each component is in some scan, which may be incomplete."""


def find_jpeg_end(data: bytes) -> JpegEnd:
    """Follow the markers of a JPEG to its end; embedded thumbnails and films have their own end marks.

    Args:
        data: bytes of the file.

    Returns:
        Whether the end mark and all scans are present.
    """
    # Complete coefficients by component.
    done: dict[int, set[int]] = {}
    data = strip_filling(data)
    is_progressive = is_ended = has_ended = False
    at = 2
    while (marker := _MARKER.search(data, at)) is not None:
        code, at = data[marker.end() - 1], marker.end()
        if code == _END_OF_IMAGE:
            is_ended = has_ended = True
            # A thumbnail in a segment of a wrong, too short length ends among the image's own markers.
            if not _SEGMENT.match(data, at):
                break
        if code in (_END_OF_IMAGE, _TEMPORARY, _START_OF_IMAGE):
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        segment = data[at + 2 : at + length]
        if code in _STARTS_OF_FRAME and not done:
            is_progressive = code in _PROGRESSIVE
            done = {component: set() for component in segment[6::3]}
        elif code == _START_OF_SCAN and 4 <= len(segment) == length - 2:
            is_ended = False
            first, last, bits = segment[-3:]
            if not is_progressive:
                first, last, bits = 0, _COEFFICIENTS - 1, 0
            for component in segment[1:-3:2]:
                if component in done and not bits & 15:
                    done[component] |= set(range(first, last + 1))
        at += max(length, 2)
    if is_ended:
        return JpegEnd(True, True)
    is_complete = bool(done) and all(len(some) == _COEFFICIENTS for some in done.values())
    return JpegEnd(False, is_complete and not has_ended)
