"""Image files by their first bytes: which format, and whether a JPEG is complete."""

from __future__ import annotations

import re
from typing import NamedTuple

# A format by how its files start; what is longer comes first.
_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"\0\0\0\x0cjP  \r\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\x59\xa6\x6a\x95": "Sun raster",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n": "JPEG XL",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"gimp xcf": "GIMP",
    b"\0\0\1\0": "icon",
    b"v/1\1": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"DDS ": "DirectDraw",
    b"BPG\xfb": "BPG",
    b"FUJIFILMCCD-RAW": "RAW (RAF)",
    b"IIRO": "RAW (ORF)",
    b"IIRS": "RAW (ORF)",
    b"MMOR": "RAW (ORF)",
    b"IIU\0": "RAW (RW2)",
    b"II*\0\x10\0\0\0CR": "RAW (CR2)",
    b"II\x1a\0\0\0HEAPCCDR": "RAW (CRW)",
    b"FOVb": "RAW (X3F)",
    b"\0MRM": "RAW (MRW)",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
# A file of the ISO base media format by its brands; one that is in no still image's list is a video.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"),
    b"crx ": "RAW (CR3)",
    b"mif1": "HEIC",
    b"msf1": "HEIC",
}
_PNM = re.compile(rb"P[1-6f][\s#]", re.IGNORECASE)
_MARKUP = re.compile(rb"\s*(?:<\?xml|<!--|<!doctype|<svg|<html)", re.IGNORECASE)

# A JPEG marker: any number of bytes 255, then a code. Code 0 and restart codes occur within a scan and are not markers.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# The marker of a table, a frame or an application, with which only a JPEG continues.
_SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xdb\xdd\xe0-\xef]")
_START_OF_SCAN, _END_OF_IMAGE, _TEMPORARY, _START_OF_IMAGE = 0xDA, 0xD9, 0x01, 0xD8
_STARTS_OF_FRAME = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_COEFFICIENTS = 64


def name_format(data: bytes) -> str | None:
    """Name the format of an image file's content, whether it can be read or not; None if the format is unknown."""
    if data[4:8] == b"ftyp":
        end = min(int.from_bytes(data[:4], "big"), 400)
        brands = [data[8:12], *(data[i : i + 4] for i in range(16, end, 4))]
        # mif1 and msf1 say only that it is an image, or several: what codes it is in the others.
        return next((name for brand, name in _BRANDS.items() if brand in brands), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    for start, name in _STARTS.items():
        if data.startswith(start):
            return name
    if _PNM.match(data):
        return "PNM"
    if _MARKUP.match(data):
        return "SVG" if b"<svg" in data[:2000].lower() else "HTML" if b"<html" in data[:2000].lower() else None
    return None


def read_webp_size(data: bytes) -> tuple[int, int, bool] | None:
    """Read the width and height of a WebP file, and whether it is animated: its decoders take memory before they say.

    Args:
        data: the file's content.

    Returns:
        None if the header is damaged.
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
    """Take off what disks and downloads fill a file up with."""
    return data.rstrip(b"\0\xff")


class JpegEnd(NamedTuple):
    """How far a JPEG goes."""

    is_marked: bool
    """Whether it has its end mark; what follows that is no part of the image."""
    has_all_scans: bool
    """Whether each coefficient of each component is in some scan, if perhaps not to that scan's end."""


def find_jpeg_end(data: bytes) -> JpegEnd:
    """Follow the markers of a JPEG to its end; thumbnails within it, and films after it, have ends of their own."""
    # By component: which of its coefficients have had all their bits.
    done: dict[int, set[int]] = {}
    data = strip_filling(data)
    is_progressive = is_ended = has_ended = False
    at = 2
    while (marker := _MARKER.search(data, at)) is not None:
        code, at = data[marker.end() - 1], marker.end()
        if code == _END_OF_IMAGE:
            is_ended = has_ended = True
            # A thumbnail in a segment that gives too short a length ends amid the image's own markers.
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
