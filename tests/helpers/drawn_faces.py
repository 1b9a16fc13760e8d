"""Drawn faces in the layouts of real data sets: no real person, nothing to download."""

import itertools
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from films import write_film


def draw_face(person: int, random: np.random.Generator, size: int = 64) -> np.ndarray:
    """A face whose color and proportions belong to the person and whose place and light vary; (size, size, 3) BGR."""
    return _draw(person, random, size, nose=False)[0]


def draw_face_with_points(person: int, random: np.random.Generator, size: int = 64) -> tuple[np.ndarray, list[int]]:
    """A face with a white nose, and x and y of five points: the eyes, the nose and the mouth's corners."""
    return _draw(person, random, size, nose=True)


def _draw(person: int, random: np.random.Generator, size: int, nose: bool) -> tuple[np.ndarray, list[int]]:
    own = np.random.default_rng(person)
    skin = own.integers(90, 220, 3)
    eye_gap, eye_height, mouth, width = own.uniform([0.12, 0.35, 0.08, 0.25], [0.22, 0.48, 0.22, 0.38])
    image = np.full((size, size, 3), int(random.integers(0, 80)), np.uint8)
    cx, cy = (0.5 + random.uniform(-0.03, 0.03, 2)) * size
    light = random.uniform(0.85, 1.15)

    def ellipse(x: float, y: float, rx: float, ry: float, color: Iterable[float]) -> tuple[int, int, int]:
        """Draw it, and return its middle and the half of its width."""
        shade = [int(min(255, channel * light)) for channel in color]
        place, half = (round(cx + x * size), round(cy + y * size)), round(rx * size)
        cv2.ellipse(image, place, (half, round(ry * size)), 0, 0, 360, shade, -1)
        return *place, half

    ellipse(0, 0, width, 0.45, skin)
    points: list[int] = []
    for side in (-1, 1):
        points += ellipse(side * eye_gap, eye_height - 0.5, 0.05, 0.035, (20, 20, 20))[:2]
    if nose:
        points += ellipse(0, 0.08, 0.03, 0.03, (255, 255, 255))[:2]
    x, y, half = ellipse(0, 0.22, mouth, 0.04, (40, 40, 160))
    return image, [*points, x - half, y, x + half, y]


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


def make_lfw(root: Path, people: dict[str, int], n_folds: int = 3, per_fold: int = 4) -> Path:
    """ROOT/lfw/PERSON/PERSON_0001.jpg, each face the middle of its image, and the pairs in ROOT/pairs.txt."""
    random = np.random.default_rng(7)
    for number, (person, count) in enumerate(people.items()):
        for i in range(1, count + 1):
            image = np.full((88, 88, 3), 255, np.uint8)
            image[24:64, 24:64] = draw_face(number, random, size=40)
            write(root / "lfw" / person / f"{person}_{i:04}.jpg", image)
    lines = [f"{n_folds}\t{per_fold}"]
    several = [person for person, count in people.items() if count > 1]
    for _ in range(n_folds):
        for _ in range(per_fold):
            person = str(random.choice(several))
            lines.append("\t".join([person, *(str(n + 1) for n in random.permutation(people[person])[:2])]))
        for _ in range(per_fold):
            pair = [str(person) for person in random.permutation(list(people))[:2]]
            lines.append("\t".join(str(x) for person in pair for x in (person, random.integers(people[person]) + 1)))
    (root / "pairs.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / "lfw"


def write_python2_bin(path: Path, images: Sequence[bytes], same: Sequence[bool], arrays: bool) -> Path:
    """A verification set of InsightFace as Python 2 wrote it: strings of bytes, or arrays as OpenCV returned them."""

    def string(data: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(data)) + data

    def array(data: bytes) -> bytes:
        made = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\x00\x85" + b"U\x01b" + b"\x87R"
        dtype = b"cnumpy\ndtype\n" + b"U\x02u1" + b"K\x00K\x01\x87R" + b"(K\x03U\x01|NNN" + 2 * b"J\xff\xff\xff\xff"
        shape = b"J" + struct.pack("<i", len(data)) + b"K\x01\x86"
        return made + b"(K\x01" + shape + dtype + b"K\x00tb" + b"\x89" + string(data) + b"tb"

    content = b"".join(map(array if arrays else string, images))
    answers = b"".join(b"\x88" if answer else b"\x89" for answer in same)
    path.write_bytes(b"\x80\x02](" + content + b"e](" + answers + b"e\x86.")
    return path


def make_insightface_bin(path: Path, n_pairs: int = 20) -> list[bool]:
    """Pairs of drawn faces as whole crops of 112 x 112 pixels; returns which are of one person."""
    random = np.random.default_rng(8)
    same = [i % 2 == 0 for i in range(n_pairs)]
    people = [person for i, is_same in enumerate(same) for person in (i, i if is_same else i + 1)]
    images = [cv2.imencode(".jpg", draw_face(person, random, size=112))[1].tobytes() for person in people]
    write_python2_bin(path, images, same, arrays=False)
    return same


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
                lines.append(f"{person}\\{video}\\{video}.{frame}.jpg,0,62,42,64,62,0.0,1")
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


def make_aligned_youtube_faces(root: Path, people: dict[str, int], n_frames: int = 3, seed: int = 2) -> Path:
    """The layout of aligned_images_DB: the face is the middle 1 / 2.2 of an image; frame numbers reach past 9."""
    random = np.random.default_rng(seed)
    for number, (person, n_videos) in enumerate(people.items()):
        for video in range(n_videos):
            for frame in range(8, 8 + n_frames):
                image = np.full((88, 88, 3), 255, np.uint8)
                image[24:64, 24:64] = draw_face(number, random, size=40)
                folder = root / "aligned_images_DB" / person / str(video)
                write(folder / f"aligned_detect_{video}.{frame}.jpg", image)
    return root


UMDFACES_COLUMNS = (
    *("SUBJECT_ID", "FILE", "FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT", "YAW", "PITCH", "ROLL"),
    *(name for i in range(1, 22) for name in (f"P{i}X", f"P{i}Y", f"VIS{i}")),
    *("PR_MALE", "PR_FEMALE", "OTHER_1", "OTHER_2"),
)


def make_umdfaces(root: Path, *batches: dict[str, int], seed: int = 5) -> dict[str, tuple[tuple[float, ...], ...]]:
    """The layout of UMDFaces' stills, so many a person in each batch; box and points of each image by its key."""
    random = np.random.default_rng(seed)
    truth: dict[str, tuple[tuple[float, ...], ...]] = {}
    numbers: dict[str, int] = {}
    for batch, people in enumerate(batches, start=1):
        folder = root / f"umdfaces_batch{batch}"
        lines = []
        # SUBJECT_ID starts anew in every batch, so one number means another person in the next.
        for subject, (person, count) in enumerate(people.items(), start=1):
            number = numbers.setdefault(person, len(numbers))
            for i in range(8, 8 + count):
                file = f"{person}/{person}_{i}.jpg"
                truth[f"{folder.name}/{file}"] = found = _write_umdface(folder / file, number, random)
                lines.append(_umdfaces_line(subject, file, *found))
        _write_umdfaces_table(folder / f"{folder.name}_ultraface.csv", lines)
    return truth


def make_umdfaces_videos(root: Path, people: dict[str, int], n_frames: int = 3, seed: int = 6) -> Path:
    """The layout of UMDFaces' videos, so many a person; frame numbers reach past 9 and persons' lines are mixed."""
    random = np.random.default_rng(seed)
    lines = []
    for number, (person, n_videos) in enumerate(people.items()):
        for video in range(n_videos):
            for frame in range(8, 8 + n_frames):
                file = f"{person}/video{video}/{frame}.jpg"
                lines.append(_umdfaces_line(number, file, *_write_umdface(root / file, number, random)))
    _write_umdfaces_table(root / "umdfaces_videos_ultraface.csv", [*lines[::2], *lines[1::2]])
    return root


def _write_umdface(path: Path, number: int, random: np.random.Generator) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A face right and up of the middle: its box from the top left corner, not square, and its five points."""
    image = np.zeros((90, 100, 3), np.uint8)
    image[10:74, 30:94], points = draw_face_with_points(number, random)
    write(path, image)
    return (30.0, 11.0, 64.0, 62.0), tuple(float(value + (30, 10)[i % 2]) for i, value in enumerate(points))


def _umdfaces_line(subject: int, file: str, box: tuple[float, ...], points: tuple[float, ...]) -> str:
    """A line of the CSV file, with spaces around its cells and points that are not asked for at wrong places."""
    cells = dict.fromkeys(UMDFACES_COLUMNS, "-7.0")
    cells |= {"SUBJECT_ID": str(subject), "FILE": file}
    cells |= {f"VIS{i}": "0.0" for i in range(1, 22)}
    cells |= {f"FACE_{name}": str(value) for name, value in zip(("X", "Y", "WIDTH", "HEIGHT"), box, strict=True)}
    names = [f"P{point}{axis}" for point in (8, 11, 15, 18, 20) for axis in "XY"]
    cells |= {name: str(value) for name, value in zip(names, points, strict=True)}
    return ",".join(f" {cell}  " for cell in cells.values())


def _write_umdfaces_table(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([", ".join(UMDFACES_COLUMNS), *lines]) + "\n", encoding="utf-8")


def make_youtube_celebrities(root: Path, people: dict[str, int], n_frames: int = 3) -> Path:
    """NNNN_VV_SSS_person_name.avi, so many source videos a person, each cut into two clips."""
    clip = 0
    for number, (person, n_sources) in enumerate(people.items()):
        for source in range(1, n_sources + 1):
            for segment in (1, 2):
                clip += 1
                make_video(root / f"{clip:04}_{source:02}_{segment:03}_{person}.avi", number, n_frames)
    return root


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


def make_video(path: Path, person: int, n_frames: int) -> Path:
    random = np.random.default_rng(4)
    return write_film(path, (draw_face(person, random) for _ in range(n_frames)))
