"""Files that are no use, too large, or named to do harm: one clear sentence each, and the page lives on."""

import struct
import zlib
from pathlib import Path

import cv2
import pytest
from films import make_film
from search_page import status, upload

MB = 1024**2


def alive(page, photo) -> None:
    upload(page, photo("Anna", width=640, height=480, file="afterwards.jpg"))
    status(page, "Probably in 2 videos")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int = 30_000) -> bytes:
    """A PNG file of a few kB that announces, and holds, side x side black pixels of one bit."""
    packer = zlib.compressobj(9)
    line = bytes(1 + side // 8)
    rows = b"".join(packer.compress(line) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://192.0.2.1/secret.ts\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("notes.txt", b"Dear diary\n" * 100, "not a supported image or video"),
        ("empty.jpg", b"", "Empty image file"),
        ("paper.pdf", b"%PDF-1.7\n" + b"\0" * 5000, "not a supported image or video"),
        (
            "drawing.svg",
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            "not a supported image",
        ),
        ("photo.cr3", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(5000), "RAW (CR3) file, which is not a supported"),
        ("half.png", b"\x89PNG\r\n\x1a\n" + bytes(5000), "PNG image that cannot be decoded: copy it again"),
        ("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(5000), "HEIC image that cannot be decoded"),
        # FFmpeg would fetch what a playlist names.
        ("list.m3u8", PLAYLIST, "not a supported image or video"),
        ("list.mp4", PLAYLIST, "not a supported image or video"),
        ("broken.mp4", b"\0\0\0\x18ftypmp42" + b"\0" * 5000, "cannot be decoded"),
    ],
)
def test_wrong_files(open_page, address, photo, tmp_path, file, content, sentence):
    page = open_page(address)
    (tmp_path / file).write_bytes(content)
    upload(page, tmp_path / file)
    said = status(page, sentence)
    assert said.count(".") <= 1, said
    assert "/tmp" not in said
    alive(page, photo)


def test_a_heic_photo_is_taken(open_page, address, photo, tmp_path):
    heif = pytest.importorskip("pillow_heif")
    page = open_page(address)
    image = cv2.imread(str(photo("Anna", width=640, height=480)))
    heif.from_bytes("BGR", (640, 480), image.tobytes()).save(tmp_path / "photo.heic")
    assert ".heic" in page.locator("input[type=file]").get_attribute("accept")
    upload(page, tmp_path / "photo.heic")
    status(page, "Probably in 2 videos")


def test_an_image_without_a_face(open_page, address, photo):
    page = open_page(address)
    upload(page, photo())
    status(page, "No face found in this image")
    alive(page, photo)


def test_an_image_cut_short(open_page, address, photo):
    page = open_page(address)
    path = photo("Anna")
    path.write_bytes(path.read_bytes()[:3000])
    upload(page, path)
    status(page, "truncated")
    alive(page, photo)


def test_a_decompression_bomb(open_page, address, photo, tmp_path):
    page = open_page(address)
    (tmp_path / "bomb.png").write_bytes(bomb())
    upload(page, tmp_path / "bomb.png")
    status(page, "choose another file")
    alive(page, photo)


def test_a_video_that_is_too_long(open_page, address, tmp_path, photo):
    page = open_page(address)
    upload(page, make_film(tmp_path / "long.avi", seconds=70, fps=2))
    status(page, "longer than 60 seconds")
    alive(page, photo)


def test_fifty_megabytes_are_taken_and_more_are_not(open_page, address, photo, tmp_path):
    page = open_page(address)
    assert "Up to 50 MB" in page.locator(".drop").inner_text()
    # What follows a JPEG's end is not looked at.
    content = photo("Anna", width=640, height=480).read_bytes()
    large = tmp_path / "large.jpg"
    large.write_bytes(content + bytes(50 * MB - len(content)))
    upload(page, large)
    status(page, "Probably in 2 videos")
    large.write_bytes(content + bytes(50 * MB - len(content) + 1))
    upload(page, large)
    status(page, "large.jpg was rejected: larger than 50 MB.")
    alive(page, photo)


@pytest.mark.parametrize(
    "name",
    [
        "<img src=x onerror=window.broken=1>.jpg",
        "<script>window.broken=1<&sol;script>.jpg",
        "${window.broken=1}{{ 7*7 }}`.jpg",
        "..\\..\\etc\\passwd.jpg",
    ],
)
def test_names_are_text(open_page, address, tmp_path, name):
    page = open_page(address)
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(51 * MB)
    upload(page, path)
    # Where the name is shown longest: the refusal of a file that is too large.
    said = status(page, "was rejected")
    assert Path(name).name in said
    assert page.evaluate("window.broken") is None


def test_nothing_that_was_sent_is_kept(open_page, address, photo, temporary):
    (folder,) = temporary.glob("facereel-*")
    page = open_page(address)
    upload(page, photo("Anna", width=640, height=480))
    status(page, "Probably in 2 videos")
    assert list(folder.iterdir()) == []
