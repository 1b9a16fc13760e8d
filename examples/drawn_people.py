"""Draw people that face detectors find, as images and films: no real person, nothing to download."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike

# People are drawn at this multiple of their size and then shrunk, which makes lines smooth.
_FINER = 3

# How far people in a film turn, see `draw_person`. A few poses, each drawn once, are quick.
POSES = (-0.3, 0.0, 0.3)
# Width and height of a film in pixels.
SIZE = 320, 240


@dataclass(frozen=True)
class Looks:
    """How a person looks: lengths as fractions of the head's height, colors in BGR."""

    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    iris: tuple[int, int, int]
    width: float = 0.37
    eye_gap: float = 0.165
    eye_size: float = 0.062
    brow: float = 0.022
    nose: float = 0.065
    mouth: float = 0.13
    fringe: float = 0.16
    long_hair: bool = False
    beard: bool = False
    glasses: bool = False
    shirt: tuple[int, int, int] = (120, 90, 60)


PEOPLE = {
    "Anna": Looks((168, 196, 238), (36, 66, 112), (130, 92, 50), long_hair=True, mouth=0.12, shirt=(90, 120, 60)),
    "Bert": Looks((96, 128, 176), (18, 20, 24), (28, 42, 60), width=0.40, eye_gap=0.18, beard=True, nose=0.085),
    "Cleo": Looks((62, 86, 132), (12, 14, 18), (20, 30, 48), width=0.35, eye_size=0.07, mouth=0.15, fringe=0.11,
                  shirt=(50, 60, 190)),
    "Dora": Looks((188, 210, 244), (70, 160, 214), (150, 130, 80), width=0.36, glasses=True, long_hair=True,
                  eye_gap=0.15, shirt=(150, 80, 110)),
    "Emil": Looks((120, 150, 200), (168, 172, 178), (110, 110, 70), width=0.41, eye_gap=0.15, eye_size=0.05,
                  fringe=0.05, nose=0.09, brow=0.034, mouth=0.17, beard=True, shirt=(70, 70, 70)),
}  # fmt: skip


@lru_cache(maxsize=128)
def draw_person(
    name: str, size: int = 160, turn: float = 0.0, smile: float = 0.5, light: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the head and shoulders of a person.

    Args:
        name: a key of `PEOPLE`.
        size: height in pixels.
        turn: -1..1, left to right; the features shift across the head.
        smile: 0..1.
        light: brightness; 1 is normal.

    Returns:
        (size, size, 3) BGR uint8, and (size, size, 1) float in 0..1, the opacity of each pixel.
    """
    looks, side = PEOPLE[name], size * _FINER
    head = 0.74 * side
    center = np.array([0.5 * side, 0.44 * side])
    image: np.ndarray = np.zeros((side, side, 3), np.float32)
    alpha = np.zeros((side, side), np.float32)

    def at(x: float, y: float) -> tuple[int, int]:
        return round(center[0] + x * head), round(center[1] + y * head)

    def mask(draw: Callable[[np.ndarray], object]) -> np.ndarray:
        drawn = np.zeros((side, side), np.uint8)
        draw(drawn)
        return drawn.astype(np.float32) / 255

    def ellipse(
        x: float, y: float, rx: float, ry: float, start: int = 0, end: int = 360, angle: float = 0
    ) -> np.ndarray:
        axes = (max(1, round(rx * head)), max(1, round(ry * head)))
        return mask(lambda drawn: cv2.ellipse(drawn, at(x, y), axes, angle, start, end, 255, -1))

    def arc(x: float, y: float, rx: float, ry: float, degrees: tuple[int, int], width: float) -> np.ndarray:
        """Part of an ellipse's outline."""
        axes = (max(1, round(rx * head)), max(1, round(ry * head)))
        thickness = max(1, round(width * head))
        return mask(lambda drawn: cv2.ellipse(drawn, at(x, y), axes, 0, *degrees, 255, thickness))

    def soften(where: np.ndarray, soft: float) -> tuple[tuple[slice, slice], np.ndarray]:
        """Blur a mask; the part of the image where it is not zero, and its values there."""
        left, top, width, height = cv2.boundingRect((where > 0).astype(np.uint8))
        reach = int(4 * soft * head) + 2
        part = slice(max(0, top - reach), top + height + reach), slice(max(0, left - reach), left + width + reach)
        return part, cv2.GaussianBlur(where[part], (0, 0), soft * head)[..., None]

    def paint(where: np.ndarray, color: ArrayLike, soft: float, strength: float = 1.0) -> None:
        part, where = soften(where, soft)
        where = where * strength
        image[part] = image[part] * (1 - where) + np.array(color, np.float32) * where
        np.maximum(alpha[part], where[..., 0], out=alpha[part])

    def shade(where: np.ndarray, soft: float, strength: float) -> None:
        """Darken, or brighten where the strength is negative, without showing beyond what is painted."""
        part, where = soften(where, soft)
        where = where * abs(strength)
        image[part] = image[part] * (1 - where) + (0 if strength > 0 else 255) * where

    skin, hair = np.array(looks.skin, np.float32), np.array(looks.hair, np.float32)
    dx = 0.09 * turn
    if looks.long_hair:
        paint(ellipse(0, 0.06, looks.width + 0.1, 0.58), hair, 0.006)
    paint(ellipse(0, 1.0, 0.62, 0.42), looks.shirt, 0.004)
    paint(ellipse(0, 0.5, 0.16, 0.22), skin * 0.82, 0.006)
    for ear in (-1, 1):
        paint(ellipse(ear * looks.width, 0.0, 0.055, 0.1), skin * 0.86, 0.006)
    face = ellipse(0, 0.0, looks.width, 0.5)
    paint(face, skin, 0.004)
    # Round: darker towards the edge, brighter at the forehead and the cheeks.
    inner = ellipse(dx, -0.02, looks.width * 0.78, 0.4)
    shade(face * (1 - cv2.GaussianBlur(inner, (0, 0), 0.08 * head)), 0.02, 0.34)
    shade(ellipse(dx, -0.28, 0.16, 0.08), 0.06, -0.18)
    for cheek in (-1, 1):
        shade(ellipse(dx + cheek * 0.2, 0.12, 0.07, 0.06), 0.04, -0.14)
    if looks.beard:
        beard = ellipse(dx * 0.5, 0.16, looks.width * 0.94, 0.36, 0, 180)
        paint(beard * (1 - ellipse(dx, 0.08, 0.2, 0.13)), hair, 0.02, 0.75)
    # Hair above the forehead.
    cap = ellipse(0, -0.06, looks.width + 0.035, 0.5) * (1 - ellipse(dx, 0.12, looks.width * 0.93, 0.62 - looks.fringe))
    cap[at(0, 0.05)[1] :] = 0
    paint(cap, hair, 0.006)
    eye_y = -0.05
    for eye in (-1, 1):
        x = dx + eye * looks.eye_gap
        shade(ellipse(x, eye_y - 0.02, looks.eye_size * 1.7, looks.eye_size * 1.25), 0.025, 0.34)
        white = ellipse(x, eye_y, looks.eye_size, looks.eye_size * 0.52)
        paint(white, (235, 238, 240), 0.003)
        for part, radius in ((looks.iris, 0.52), ((12, 12, 14), 0.27)):
            paint(
                white * ellipse(x + 0.012 * turn, eye_y, looks.eye_size * radius, looks.eye_size * radius), part, 0.002
            )
        paint(ellipse(x + 0.012, eye_y - 0.012, 0.008, 0.008), (255, 255, 255), 0.001)
        lid = arc(x, eye_y + 0.01, looks.eye_size * 1.08, looks.eye_size * 0.72, (195, 345), 0.014)
        paint(lid, skin * 0.28, 0.002)
        brow = arc(x, eye_y - 0.045, looks.eye_size * 1.4, 0.055, (200, 340), looks.brow)
        paint(brow, hair * 0.8, 0.004, 0.9)
    # The nose is a bright ridge, a shaded side, and two nostrils.
    nose_x = dx * 1.5
    shade(ellipse(nose_x + 0.045, 0.07, 0.022, 0.13), 0.014, 0.24)
    shade(ellipse(nose_x - 0.045, 0.07, 0.018, 0.12), 0.014, 0.14)
    shade(ellipse(nose_x, 0.06, 0.02, 0.12), 0.014, -0.22)
    shade(ellipse(nose_x, 0.175, looks.nose * 1.15, 0.026), 0.012, 0.42)
    shade(ellipse(nose_x, 0.145, 0.035, 0.03), 0.014, -0.2)
    for nostril in (-1, 1):
        paint(ellipse(nose_x + nostril * looks.nose * 0.55, 0.178, 0.018, 0.011), skin * 0.25, 0.004)
    # Lips, and the line between them.
    mouth_y, lip = 0.295, np.clip(skin * np.array([0.72, 0.66, 0.9]), 0, 255)
    paint(ellipse(dx, mouth_y - 0.005, looks.mouth, 0.028), lip * 0.86, 0.006)
    paint(ellipse(dx, mouth_y + 0.012, looks.mouth * 0.85, 0.038), lip, 0.006)
    line = arc(dx, mouth_y - 0.03 * smile, looks.mouth, 0.01 + 0.035 * smile, (5, 175), 0.013)
    paint(line, skin * 0.22, 0.003)
    shade(ellipse(dx, mouth_y + 0.07, 0.09, 0.018), 0.014, 0.2)
    if looks.glasses:
        for eye in (-1, 1):
            rim = arc(dx + eye * looks.eye_gap, eye_y + 0.008, 0.115, 0.095, (0, 360), 0.014)
            paint(rim, (40, 30, 30), 0.002, 0.85)
    image = np.clip(image * light, 0, 255)
    shrunk = cv2.resize(np.dstack([image, alpha[..., None]]), (size, size), interpolation=cv2.INTER_AREA)
    return shrunk[..., :3].astype(np.uint8), shrunk[..., 3:]


def draw_background(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Draw a room out of focus; (height, width, 3) BGR uint8."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), random.integers(120, 200, 3), np.uint8)
    for _ in range(12):
        x, y = int(random.integers(0, width)), int(random.integers(0, height))
        w, h = (int(value) for value in random.integers(20, 120, 2))
        cv2.rectangle(image, (x, y), (x + w, y + h), [int(c) for c in random.integers(70, 220, 3)], -1)
    return cv2.GaussianBlur(image, (0, 0), 14)


def put_person(image: np.ndarray, name: str, left: int, top: int, size: int, **how: float) -> None:
    """Draw a person into an image, in a square that must be inside it."""
    person, alpha = draw_person(name, size, **how)
    place = image[top : top + size, left : left + size]
    # The colors of a person are already multiplied by the opacity.
    place[:] = np.clip(place * (1 - alpha) + person, 0, 255).astype(np.uint8)


def draw_image(*names: str, width: int = 320, height: int = 240, seed: int = 0, **how: float) -> np.ndarray:
    """Draw people next to each other, the first is the largest; (height, width, 3) BGR uint8."""
    image = draw_background(width, height, seed)
    for i, name in enumerate(names):
        size = round(0.9 * height * 0.86**i / max(1, 0.72 * len(names)))
        left = round(width * (i + 0.5) / len(names) - size / 2)
        put_person(image, name, max(0, min(width - size, left)), height - size, size, **how)
    return image


def frames(
    *names: str, seconds: float = 2.0, fps: int = 10, appear_s: float = 0.0, seed: int = 0
) -> Iterator[np.ndarray]:
    """Draw the frames of a film of swaying people.

    Args:
        *names: keys of `PEOPLE`; they are next to each other.
        seconds: length of the film.
        fps: frames per second.
        appear_s: when the people appear, in seconds.
        seed: random seed for the background; also changes the sway.

    Yields:
        (240, 320, 3) BGR uint8 images.
    """
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


def write_film(path: Path, images: Iterable[np.ndarray], fps: int = 10) -> Path:
    """Write images to a film: MJPEG in an .avi, MPEG-4 in any other file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = "MJPG" if path.suffix == ".avi" else "mp4v"
    images = iter(images)
    first = next(images)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, first.shape[1::-1])
    for image in chain([first], images):
        writer.write(image)
    writer.release()
    return path
