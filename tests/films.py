"""Short films of drawn people, quick to make: each person is drawn in a few poses, once."""

from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from drawn_people import draw_background, draw_person

POSES = (-0.3, 0.0, 0.3)
SIZE = 320, 240


def frames(
    *names: str, seconds: float = 2.0, fps: int = 10, appear_s: float = 0.0, seed: int = 0
) -> Iterator[np.ndarray]:
    """(240, 320, 3) BGR uint8: people beside each other, who sway, from a moment on."""
    background = draw_background(*SIZE, seed)
    for number in range(round(seconds * fps)):
        frame, now = background.copy(), number / fps
        side = round(0.72 * SIZE[1] / max(1, 0.75 * len(names)))
        for i, name in enumerate(names if now >= appear_s else ()):
            sway = float(np.sin(1.3 * now + i + seed))
            person, alpha = draw_person(name, side, min(POSES, key=lambda turn: abs(turn - 0.3 * sway)))
            left = round(SIZE[0] * (i + 0.5) / len(names) - side / 2 + 10 * sway)
            left = max(0, min(SIZE[0] - side, left))
            place = frame[SIZE[1] - side :, left : left + side]
            place[:] = np.clip(place * (1 - alpha) + person, 0, 255).astype(np.uint8)
        yield frame


def make_film(path: Path, *names: str, fps: int = 10, **how: float) -> Path:
    """Write `frames`: as MPEG-4 in an .mp4 or .mov, MJPEG in an .avi, or VP8, which every browser plays, in a .webm."""
    images = frames(*names, fps=fps, **how)
    return encode_film(path, "libvpx", images, fps) if path.suffix == ".webm" else write_film(path, images, fps)


def write_film(path: Path, images: Iterator[np.ndarray], fps: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = None
    for image in images:
        if writer is None:
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, image.shape[1::-1])
        writer.write(image)
    writer.release()
    return path


def encode_film(
    path: Path, codec: str, images: Iterator[np.ndarray], rate: int = 10, times_ms: list[int] | None = None
) -> Path:
    """Write a film of any container and codec, so many frames a second or a frame at each of these times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000 if times_ms else rate)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        container.start_encoding()  # so that a film of no frames has a header too
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            if times_ms:
                frame.pts = times_ms[i]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn_film(path: Path) -> Path:
    """Write into an .mp4 that it is to be shown a quarter turn clockwise, as phones do."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4
    assert content[start] == 0  # version 0 keeps its matrix 40 bytes on
    matrix = (0, 0x10000, 0, -0x10000 & 0xFFFFFFFF, 0, 0, 0, 0, 0x40000000)
    content[start + 40 : start + 76] = b"".join(value.to_bytes(4, "big") for value in matrix)
    path.write_bytes(content)
    return path
