"""Photos in all formats that cameras, phones and browsers write, complete and damaged."""

import subprocess
import sys
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from drawn_people import draw_background, draw_image
from films import make_film

from facereel.video import image_file
from facereel.video.image_file import Unreadable, decode_image, explain, read_frames, read_image
from facereel.video.image_format import find_jpeg_end

PERSON = draw_image("Anna", width=320, height=240)
OTHER = draw_image("Bert", width=320, height=240)
ROOM = draw_background(320, 240)
# What EXIF's orientation makes of an image.
TURNED = {
    1: PERSON,
    2: PERSON[:, ::-1],
    3: PERSON[::-1, ::-1],
    4: PERSON[::-1],
    5: PERSON.transpose(1, 0, 2),
    6: np.rot90(PERSON, -1),
    7: PERSON[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PERSON),
}


def pillow(image):
    return PIL.Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]))


def encode(kind, *images, orientation=None, mode="RGB", **how):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if orientation is not None:
        exif = PIL.Image.Exif()
        exif[0x112] = orientation
        how["exif"] = exif.tobytes()
    if len(images) > 1:
        how |= {"save_all": True, "append_images": [pillow(image) for image in images[1:]]}
    file = BytesIO()
    pillow(images[0]).convert(mode).save(file, kind, **how)
    return file.getvalue()


def error(found, image):
    assert not isinstance(found, Unreadable), found
    assert found.shape == image.shape
    return float(np.abs(found.astype(int) - image).mean())


def pixels(data):
    found = decode_image(data)
    assert not isinstance(found, Unreadable), found
    return found


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_once(kind, orientation):
    data = encode(kind, PERSON, orientation=orientation)
    assert error(decode_image(data), TURNED[orientation]) < 3
    assert pixels(data).flags.c_contiguous


def test_heic_of_any_bit_depth_and_number_of_images_is_read(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    # Of several images the primary one.
    data = encode("HEIF", OTHER, PERSON, primary_index=1)
    assert error(decode_image(data), PERSON) < 3
    assert error(decode_image(encode("HEIF", PERSON, mode="RGBA")), PERSON) < 3
    for mode, image in (("RGB;16", PERSON[:, :, ::-1]), ("I;16", PERSON[:, :, 0])):
        deep = BytesIO()
        heif.from_bytes(mode, (320, 240), (image.astype(np.uint16) * 257).tobytes()).save(deep)
        wanted = PERSON if mode == "RGB;16" else np.repeat(PERSON[:, :, :1], 3, axis=2)
        assert error(decode_image(deep.getvalue()), wanted) < 3
    (tmp_path / "photo.jpg").write_bytes(data)  # whatever its name
    assert error(read_image(tmp_path / "photo.jpg"), PERSON) < 3


# A separate process: pillow-heif's x265, once used, can break PyAV's.
WRITE_HEVC = """
import sys, av, numpy
with av.open(sys.argv[1], "w") as container:
    stream = container.add_stream("libx265", rate=5, options={"x265-params": "log-level=none"})
    stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
    for image in numpy.frombuffer(sys.stdin.buffer.read(), numpy.uint8).reshape(-1, 240, 320, 3):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
    container.mux(stream.encode())
"""


def test_first_image_of_a_heic_sequence_is_read(tmp_path):
    images = PERSON.tobytes() + OTHER.tobytes()
    subprocess.run([sys.executable, "-c", WRITE_HEVC, str(tmp_path / "film.mp4")], input=images, check=True)
    data = (tmp_path / "film.mp4").read_bytes()
    data = data[:4] + b"ftypmsf1" + data[12:16] + b"msf1hevc" + data[24:]
    assert error(decode_image(data.replace(b"vide", b"pict")), PERSON) < 5


def test_heic_without_its_package_names_the_package(monkeypatch, tmp_path):
    data = encode("HEIF", PERSON)
    (tmp_path / "photo.heic").write_bytes(data)
    for name in ("pillow_heif", "pi_heif"):
        monkeypatch.setitem(sys.modules, name, None)
    assert read_image(tmp_path / "photo.heic") is Unreadable.NEEDS_HEIF
    line = explain(tmp_path / "photo.heic", Unreadable.NEEDS_HEIF)
    assert "HEIC" in line
    assert "pip install 'facereel[heif]'" in line


def test_data_after_a_jpeg_is_ignored():
    """An embedded video has arbitrary bytes; 200 of them must not decide whether a photo is complete."""
    jpeg, random = encode("JPEG", PERSON), np.random.default_rng(0)
    whole = pixels(jpeg)
    for i in range(200):
        film = b"\0\0\0\x18ftypmp42" + random.integers(0, 256, 3000 + i, dtype=np.uint8).tobytes() + b"\xff\xda\0\x08"
        assert np.array_equal(pixels(jpeg + film), whole)
        assert find_jpeg_end(jpeg + film).is_marked
    for trailer in (b"\xff\xff\xff", b"\0" * 99, encode("JPEG", OTHER), encode("JPEG", OTHER)[:500], b"\xff\xda\0\x0c"):
        assert np.array_equal(pixels(jpeg + trailer), whole)
    # A thumbnail in a segment, with its own scan and end mark.
    thumbnail = encode("JPEG", OTHER[::4, ::4])
    inside = jpeg[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + jpeg[2:]
    assert np.array_equal(pixels(inside), whole)
    assert decode_image(inside[: len(thumbnail) + 1500]) is Unreadable.TRUNCATED
    assert error(decode_image(encode("MPO", PERSON, OTHER)), PERSON) < 3


KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "many restarts": {"restart_marker_blocks": 1},
    "full color": {"subsampling": 0},
    "grayscale": {"mode": "L"},
    "progressive gray": {"mode": "L", "progressive": True},
    "CMYK": {"mode": "CMYK"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_jpeg_without_end_mark_is_read_but_truncated_jpeg_is_not(kind):
    jpeg = encode("JPEG", PERSON, orientation=6, **KINDS[kind])
    whole = decode_image(jpeg)
    # 3: the mark, and a byte at which the last pixels have their share.
    for cut in (jpeg[:-1], jpeg[:-2], jpeg[:-3], jpeg[:-2] + b"\0" * 4096):
        assert error(decode_image(cut), whole) < 2
    # Also where restarts or scans begin.
    start, end = jpeg.index(b"\xff\xda") + 20, len(jpeg) - len(jpeg) // 8
    for length in range(start, end, max(1, (end - start) // 60)):
        assert decode_image(jpeg[:length]) is Unreadable.TRUNCATED
        assert decode_image(jpeg[:length] + b"\0" * 4096) is Unreadable.TRUNCATED
    assert decode_image(jpeg[:100]) is Unreadable.TRUNCATED
    # Padding must not be taken for the header of the last scan.
    last = jpeg.rindex(b"\xff\xda")
    for length in range(last, last + 14):
        assert decode_image(jpeg[:length] + b"\0" * 4096) is Unreadable.TRUNCATED


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("JPEG", {"mode": "CMYK"}),
        ("PNG", {"mode": "RGBA"}),
        ("PNG", {"mode": "P"}),
        ("WEBP", {"mode": "RGBA"}),
        ("TIFF", {"mode": "CMYK"}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("JPEG2000", {}),
        ("AVIF", {"mode": "RGBA"}),
    ],
)
def test_every_format_is_decoded(kind, how):
    assert error(decode_image(encode(kind, PERSON, **how)), PERSON) < 20


def test_16_bit_and_gray_images_are_read():
    grayscale = cv2.cvtColor(PERSON, cv2.COLOR_BGR2GRAY)
    for kind in (".png", ".tiff"):
        deep = cv2.imencode(kind, PERSON.astype(np.uint16) * 257)[1].tobytes()
        assert error(decode_image(deep), PERSON) < 1
        assert error(decode_image(cv2.imencode(kind, grayscale)[1].tobytes()), np.dstack([grayscale] * 3)) < 1


def test_common_formats_are_decoded_by_opencv():
    for kind in (".jpg", ".png", ".bmp", ".webp"):
        data = cv2.imencode(kind, PERSON)[1]
        assert np.array_equal(pixels(data.tobytes()), cv2.imdecode(data, cv2.IMREAD_COLOR))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_animation_gives_first_frame_then_some_others(tmp_path, kind):
    frames = [ROOM, *[PERSON] * 30, OTHER]
    # Each frame another by a little: equal ones would be made one.
    frames = [np.clip(frame.astype(int) + i % 3 * 9, 0, 255).astype(np.uint8) for i, frame in enumerate(frames)]
    (tmp_path / "film").write_bytes(encode(kind, *frames, duration=40))
    assert error(read_image(tmp_path / "film"), frames[0]) < 6
    others = list(read_frames(tmp_path / "film"))
    assert len(others) == 10
    assert error(others[0], frames[1]) < 8
    assert error(others[-1], frames[-1]) < 8
    (tmp_path / "still").write_bytes(encode(kind, PERSON))
    assert list(read_frames(tmp_path / "still")) == []
    assert list(read_frames(tmp_path / "absent")) == []


def test_animation_with_huge_frames_is_decoded_partially(tmp_path, monkeypatch):
    monkeypatch.setattr(image_file, "_MOST_PIXELS", 320 * 240 * 3)
    (tmp_path / "film").write_bytes(encode("GIF", ROOM, PERSON, OTHER, PERSON, ROOM))
    others = list(read_frames(tmp_path / "film"))
    assert len(others) == 2
    assert error(others[-1], OTHER) < 12


def test_pillow_limit_is_unchanged(monkeypatch):
    """The largest phones make 16320 x 12240 pixels, which Pillow's own limit refuses; here it is lower still."""
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "HEIF"):
        assert not isinstance(decode_image(encode(kind, PERSON)), Unreadable), kind
    assert PIL.Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "PPM", "JPEG2000", "HEIF"])
def test_too_large_image_is_rejected_before_decoding(monkeypatch, tmp_path, kind):
    films = () if kind not in ("WEBP", "GIF", "AVIF", "PNG") else ((PERSON, OTHER),)
    for images in ((PERSON,), *films):
        data = encode(kind, *images)
        monkeypatch.setattr(image_file, "_MOST_PIXELS", 320 * 240)
        assert not isinstance(decode_image(data), Unreadable)
        monkeypatch.setattr(image_file, "_MOST_PIXELS", 320 * 240 - 1)
        with monkeypatch.context() as patch:
            patch.setattr(image_file, "_to_pixels", None)
            patch.setattr(cv2, "imdecode", None)
            assert decode_image(data) is Unreadable.TOO_LARGE
        (tmp_path / "film").write_bytes(data)
        assert list(read_frames(tmp_path / "film")) == []


TIFF_HEAD = b"II*\0\x08\0\0\0"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xff\x0a" + bytes(99), "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), "JPEG XL"),
        (b"8BPS\0\1" + bytes(99), "Photoshop"),
        (b"%PDF-1.7\n", "PDF"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"<!DOCTYPE html>\n<html><body>Not found</body></html>", "HTML"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(99), "RAW (CR3)"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "RAW (CR2)"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(99), "RAW (RAF)"),
        # A preview in IFD0 of a DNG.
        (encode("TIFF", PERSON, tiffinfo={50706: b"\1\4\0\0"}), "RAW"),
        (encode("TIFF", PERSON, tiffinfo={254: 1, 330: 8}), "RAW"),
    ],
)
def test_unsupported_format_is_named(tmp_path, data, name):
    (tmp_path / "x.jpg").write_bytes(data)
    assert read_image(tmp_path / "x.jpg") is Unreadable.UNSUPPORTED
    line = explain(tmp_path / "x.jpg", Unreadable.UNSUPPORTED)
    assert line.startswith(name)
    assert "save it as JPEG or PNG" in line
    assert "\n" not in line


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "AVIF", "TIFF", "HEIF"])
def test_damaged_image_is_not_taken_for_a_video(tmp_path, kind):
    data = encode(kind, PERSON)
    (tmp_path / "x").write_bytes(data[: len(data) // 2])
    assert read_image(tmp_path / "x") is Unreadable.UNREADABLE
    assert "cannot be decoded" in explain(tmp_path / "x", Unreadable.UNREADABLE)
    random = np.random.default_rng(0)
    for _ in range(50):
        broken = bytearray(data)
        for place in random.integers(0, len(data), 8):
            broken[place] = random.integers(0, 256)
        decode_image(bytes(broken))


def test_video_is_not_an_image(tmp_path):
    (tmp_path / "x").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(500))
    assert read_image(tmp_path / "x") is Unreadable.UNREADABLE
    assert explain(tmp_path / "x", Unreadable.UNREADABLE) is None


def test_every_reason_has_an_explanation():
    for reason in set(Unreadable) - {Unreadable.UNREADABLE, Unreadable.UNSUPPORTED}:
        assert explain("x", reason).startswith(reason.value)


def test_only_the_start_of_a_video_is_read(tmp_path, monkeypatch):
    """A query may be a film of gigabytes."""
    film = make_film(tmp_path / "film.mp4", "Anna", seconds=8)
    assert film.stat().st_size > 20_000
    n_bytes = 0

    class Counted:
        def __init__(self, file, mode):
            self.file = open(file, mode)  # noqa: SIM115

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def read(self, *size):
            nonlocal n_bytes
            content = self.file.read(*size)
            n_bytes += len(content)
            return content

    monkeypatch.setattr(image_file, "open", Counted, raising=False)
    assert read_image(film) is Unreadable.UNREADABLE
    assert explain(film, Unreadable.UNREADABLE) is None
    assert n_bytes < 10_000
