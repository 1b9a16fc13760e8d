"""Drawn faces in the layouts of real data sets: no real person, nothing to download."""

import itertools
from pathlib import Path

import cv2
import numpy as np


def draw_face(person: int, random: np.random.Generator, size: int = 64) -> np.ndarray:
    """A face whose colour and proportions belong to the person and whose place and light vary; (size, size, 3) BGR."""
    own = np.random.default_rng(person)
    skin = own.integers(90, 220, 3)
    eye_gap, eye_height, mouth, width = own.uniform([0.12, 0.35, 0.08, 0.25], [0.22, 0.48, 0.22, 0.38])
    image = np.full((size, size, 3), int(random.integers(0, 80)), np.uint8)
    cx, cy = (0.5 + random.uniform(-0.03, 0.03, 2)) * size
    light = random.uniform(0.85, 1.15)

    def ellipse(x: float, y: float, rx: float, ry: float, colour) -> None:
        shade = [int(min(255, channel * light)) for channel in colour]
        cv2.ellipse(
            image,
            (round(cx + x * size), round(cy + y * size)),
            (round(rx * size), round(ry * size)),
            0,
            0,
            360,
            shade,
            -1,
        )

    ellipse(0, 0, width, 0.45, skin)
    for side in (-1, 1):
        ellipse(side * eye_gap, eye_height - 0.5, 0.05, 0.035, (20, 20, 20))
    ellipse(0, 0.22, mouth, 0.04, (40, 40, 160))
    return image


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, content = cv2.imencode(path.suffix, image)
    assert ok
    path.write_bytes(content.tobytes())


def make_stills(root: Path, people: dict[str, int], seed: int = 1) -> Path:
    """ROOT/PERSON/PERSON_0001.jpg, so many stills a person."""
    random = np.random.default_rng(seed)
    for number, (person, count) in enumerate(people.items()):
        for i in range(1, count + 1):
            write(root / person / f"{person}_{i:04}.jpg", draw_face(number, random))
    return root


def make_youtube_faces(root: Path, people: dict[str, int], n_frames: int = 3, seed: int = 2) -> Path:
    """The layout of frame_images_DB, so many videos a person; frame numbers reach past 9."""
    random = np.random.default_rng(seed)
    for number, (person, n_videos) in enumerate(people.items()):
        lines = []
        for video in range(n_videos):
            for frame in range(8, 8 + n_frames):
                image = np.zeros((90, 100, 3), np.uint8)
                image[10:74, 30:94] = draw_face(number, random)
                write(root / "frame_images_DB" / person / str(video) / f"{video}.{frame}.jpg", image)
                lines.append(f"{person}\\{video}\\{video}.{frame}.jpg,0,62,42,64,64,0.0,1")
        # The genuine files are not sorted by number.
        (root / "frame_images_DB" / f"{person}.labeled_faces.txt").write_text(
            "\n".join(sorted(lines)), encoding="utf-8"
        )
    return root


def make_pairs(root: Path, people: dict[str, int], n_folds: int = 3) -> Path:
    """ROOT/splits.txt: of each fold's people all pairs of one person's videos, and as many of two people."""
    lines = ["split number, first name, second name, is same, is male"]
    for fold in range(n_folds):
        own = list(people)[fold::n_folds]
        same = [(person, i, person, j) for person in own for j in range(people[person]) for i in range(j)]
        different = [
            (a, i, b, j) for a, b in itertools.combinations(own, 2) for i in range(people[a]) for j in range(people[b])
        ]
        for first, i, second, j in [*same, *different[: len(same)]]:
            lines.append(f"{fold + 1:4}, {first}/{i}, {second}/{j}, {int(first == second)}, 1")
    (root / "splits.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / "splits.txt"


def make_folder(root: Path, n_people: int = 4, n_clips: int = 3, n_frames: int = 3, n_stills: int = 2) -> Path:
    """The any-folder layout."""
    random = np.random.default_rng(3)
    for person in range(n_people):
        for clip in range(n_clips):
            for frame in range(n_frames):
                write(root / "clips" / f"p{person}" / f"c{clip}" / f"{frame}.png", draw_face(person, random))
        for still in range(n_stills):
            write(root / "stills" / f"p{person}" / f"{still}.jpg", draw_face(person, random))
    return root


def make_video(path: Path, person: int, n_frames: int) -> None:
    random = np.random.default_rng(4)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 64))
    for _ in range(n_frames):
        writer.write(draw_face(person, random))
    writer.release()
