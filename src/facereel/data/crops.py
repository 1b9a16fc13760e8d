"""Picture files to face crops of one size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facereel.data.manifest import N_LANDMARKS, Row
from facereel.data.parallel import run_jobs
from facereel.errors import UserError
from facereel.video.align import TEMPLATE_MARGIN, align_face
from facereel.video.decode import Video, is_flat
from facereel.video.detector import Box, Detector, Face, Image, find_face, find_faces, make_detector
from facereel.video.image_file import Unreadable, read_picture
from facereel.video.track import ShotCuts, Tracker


class Outcome(IntEnum):
    """What became of a row; up to `WHOLE` there is a crop, from `ABSENT` on something is wrong with the data."""

    GIVEN = 0
    FOUND = 1
    BOX = 2
    CENTRAL = 3
    WHOLE = 4
    OFF_TRACK = 5
    BEYOND = 6
    ABSENT = 7
    EMPTY = 8
    CUT_SHORT = 9
    UNREADABLE = 10
    REFUSED = 11
    OUTSIDE = 12
    TOO_LARGE = 13
    ONE_COLOR = 14
    UNSUPPORTED = 15
    NEEDS_HEIF = 16

    @property
    def is_fault(self) -> bool:
        """Whether the data is at fault."""
        return self >= Outcome.ABSENT

    @property
    def label(self) -> str:
        """In words."""
        return _LABELS[self]


_LABELS = {
    Outcome.GIVEN: "aligned on the data set's landmarks",
    Outcome.FOUND: "aligned on landmarks found by the detector",
    Outcome.BOX: "cut by the box, without landmarks",
    Outcome.CENTRAL: "cut by the central share, without landmarks",
    Outcome.WHOLE: "taken whole, without landmarks",
    Outcome.OFF_TRACK: "frame without the video's main face",
    Outcome.BEYOND: "frame that the video file announces and does not hold",
    **{Outcome[reason.name]: reason.value for reason in Unreadable},
    Outcome.OUTSIDE: "box outside the picture",
    Outcome.ONE_COLOR: "frame of a video that is of one color",
}


@dataclass(frozen=True)
class CropSettings:
    """How faces are cut out.

    Args:
        size: side of a crop in pixels.
        margin: the crop's side over the face box's longer side; 1.2 is the face encoders' usual alignment.
        detector: finds landmarks where the data has none: "mtcnn", the path of a YuNet ONNX file, or None.
    """

    size: int = 64
    margin: float = TEMPLATE_MARGIN
    detector: str | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"size={self.size}: a crop's side must be at least 1 pixel")
        if not 0 < self.margin <= _LARGEST_MARGIN:
            raise UserError(f"margin={self.margin}: must be > 0 and at most {_LARGEST_MARGIN:g}")
        if self.detector is not None:
            make_detector(self.detector)  # so that a mistake shows before pictures are read


# A face that fills a twentieth of its crop: no one means that.
_LARGEST_MARGIN = 20.0

# Rows that one process cuts at a time.
_CHUNK = 128
# Starting processes takes seconds, which fewer rows do not make up for: without and with a detector.
_FEW_ROWS = 20_000
_FEW_ROWS_TO_SEARCH = 500


# Of a video's frames in which its face is seen.
_MIN_SHARE = 0.1


@dataclass
class Cut:
    """What became of some rows."""

    crops: NDArray[np.uint8]
    """(N, 3, size, size) RGB; zeros where there is no crop."""
    outcomes: NDArray[np.uint8]
    """(N,) of `Outcome`."""
    landmarks: NDArray[np.float32]
    """(N, 10) in pixels of the picture, those given or those found; NaN where there are none."""

    @classmethod
    def empty(cls, n: int, size: int) -> Cut:
        """Nothing cut yet."""
        return cls(
            np.zeros((n, 3, size, size), np.uint8),
            np.full(n, Outcome.ABSENT, np.uint8),
            np.full((n, 2 * N_LANDMARKS), np.nan, np.float32),
        )

    def put(self, places: Sequence[int], other: Cut) -> None:
        """Set some rows."""
        self.crops[places], self.outcomes[places] = other.crops, other.outcomes
        self.landmarks[places] = other.landmarks


def cut_faces(
    rows: Sequence[Row], settings: CropSettings, n_workers: int = 1, advance: Callable[[int], object] = lambda n: None
) -> Cut:
    """Decode every row's picture and cut out its face.

    Args:
        rows: of a manifest.
        settings: how.
        n_workers: processes.
        advance: told how many more rows are done.
    """
    chunks: list[list[int]] = [[]]
    previous = ""
    for i, row in enumerate(rows):
        if len(chunks[-1]) >= _CHUNK and not (row.position >= 0 and row.file == previous):
            chunks.append([])  # a video's frames stay together: it is decoded once
        chunks[-1].append(i)
        previous = row.file
    cut = Cut.empty(len(rows), settings.size)

    def done(chunk: list[int], result: Cut) -> None:
        cut.put(chunk, result)
        advance(len(chunk))

    jobs = ((chunk, ([rows[i] for i in chunk], settings)) for chunk in chunks if chunk)
    run_jobs(cut_rows, jobs, done, useful_workers(len(rows), settings, n_workers))
    return cut


def useful_workers(n_rows: int, settings: CropSettings, n_workers: int) -> int:
    """As many processes as asked for, or one where there is little to do."""
    few = n_rows <= (_FEW_ROWS if settings.detector is None else _FEW_ROWS_TO_SEARCH)
    return 1 if few else n_workers


def cut_rows(rows: Sequence[Row], settings: CropSettings) -> Cut:
    """Cut some rows in this process; frames of one video file are tracked together."""
    cut = Cut.empty(len(rows), settings.size)
    detector = None if settings.detector is None else _detector(settings.detector)
    by_file: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_file[row.file].append(i)
    for file, places in by_file.items():
        wanted = [rows[i] for i in places]
        if wanted[0].position >= 0:
            cut.put(places, _cut_video(wanted, settings, detector))
            continue
        # A box or landmarks count pixels as they are stored, whatever a camera wrote on how to turn the picture.
        image = read_picture(file, turn=all(row.box is None and row.landmarks is None for row in wanted))
        for i in places:
            if isinstance(image, Unreadable):
                cut.outcomes[i] = Outcome[image.name]
            else:
                _cut_row(cut, i, rows[i], image, settings, detector)
    return cut


_detector = cache(make_detector)


def _cut_row(cut: Cut, i: int, row: Row, image: Image, settings: CropSettings, detector: Detector | None) -> None:
    height, width = image.shape[:2]
    box = row.box
    if box is not None and not _is_within(box, width, height):
        cut.outcomes[i] = Outcome.OUTSIDE
        return
    points, outcome = row.landmarks, Outcome.GIVEN
    if points is None and detector is not None:
        expected = box or (central_box(image, row.share) if row.share < 1 else None)
        face = find_face(detector, image, expected)
        points, outcome = (None if face is None else face.landmarks), Outcome.FOUND
    crop = None if points is None else align_face(image, points, settings.size, settings.margin)
    if crop is not None:
        cut.landmarks[i] = points
    elif box is not None:
        crop, outcome = crop_face(image, box, settings.size, settings.margin), Outcome.BOX
    else:
        # A share of the whole is a picture that was cut to the face already: it has its margin.
        margin = settings.margin if row.share < 1 else 1.0
        crop = crop_face(image, central_box(image, row.share), settings.size, margin)
        outcome = Outcome.CENTRAL if row.share < 1 else Outcome.WHOLE
    cut.crops[i], cut.outcomes[i] = _to_rgb(crop), outcome


def _cut_video(rows: Sequence[Row], settings: CropSettings, detector: Detector | None) -> Cut:
    """Cut the frames of a video file: the face of its longest track, or all frames as they are if none is seen.

    A face in less than a tenth of the frames is taken for a detector's slip.
    """
    cut = Cut.empty(len(rows), settings.size)
    cut.outcomes[:] = Outcome.UNREADABLE
    faces: list[list[Face]] = [[] for _ in rows]
    crops: dict[int, list[Image | None]] = {}
    if not Path(rows[0].file).is_file():
        cut.outcomes[:] = Outcome.ABSENT
        return cut
    order = sorted(range(len(rows)), key=lambda i: rows[i].position)
    flat: list[int] = []
    tracker, is_cut = Tracker(), ShotCuts()
    tracks: dict[int, dict[int, Face]] = defaultdict(dict)
    try:
        video = Video(rows[0].file)
    except UserError:
        return cut
    for place, frame in video.frames([rows[i].position for i in order]):
        i, image = order[place], frame.image
        _cut_row(cut, i, rows[i], image, settings, None)
        if cut.outcomes[i] == Outcome.WHOLE and is_flat(image):
            flat.append(i)
        if rows[i].box is None and rows[i].landmarks is None and detector is not None:
            faces[place] = find_faces(detector, image)
            crops[place] = [align_face(image, face.landmarks, settings.size, settings.margin) for face in faces[place]]
            is_new = is_cut(image, frame.stays_s) or frame.jumped
            numbers = tracker.update(frame.seconds, faces[place], is_new, frame.stays_s)
            for number, seen in zip(numbers, faces[place], strict=True):
                tracks[number][place] = seen
    if (cut.outcomes != Outcome.UNREADABLE).any():
        # Containers count their frames, and often too many.
        cut.outcomes[cut.outcomes == Outcome.UNREADABLE] = Outcome.BEYOND
    main = max(tracks.values(), key=len, default={})
    for place in crops if len(main) >= _MIN_SHARE * len(rows) else ():
        i, face = order[place], main.get(place)
        crop = None if face is None else crops[place][faces[place].index(face)]
        if face is None or crop is None:
            cut.outcomes[i], cut.crops[i] = Outcome.OFF_TRACK, 0
        else:
            cut.outcomes[i], cut.crops[i], cut.landmarks[i] = Outcome.FOUND, _to_rgb(crop), face.landmarks
    for i in flat:
        if cut.outcomes[i] == Outcome.WHOLE:
            cut.outcomes[i], cut.crops[i] = Outcome.ONE_COLOR, 0
    return cut


def crop_face(image: Image, box: Box, size: int, margin: float) -> Image:
    """Cut a square around a box and resize it; what lies outside the picture repeats its border.

    Args:
        image: (H, W, 3) uint8.
        box: left, top, width, height in pixels.
        size: side of the result in pixels.
        margin: the square's side over the box's longer side.

    Returns:
        (size, size, 3) uint8.
    """
    left, top, width, height = box
    side = max(1, round(max(width, height) * margin))
    x0, y0 = round(left + width / 2 - side / 2), round(top + height / 2 - side / 2)
    n_rows, n_columns = image.shape[:2]
    columns = np.clip(np.arange(x0, x0 + side), 0, n_columns - 1)
    lines = np.clip(np.arange(y0, y0 + side), 0, n_rows - 1)
    square = image[lines[:, None], columns[None, :]]
    # Averaging over areas does not alias when shrinking; it cannot enlarge.
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)


def central_box(image: Image, share: float) -> Box:
    """The central share of a picture's sides, as a box."""
    height, width = image.shape[:2]
    return width * (1 - share) / 2, height * (1 - share) / 2, width * share, height * share


def _is_within(box: Box, width: int, height: int) -> bool:
    """Whether a box shares pixels with a picture, and is not so large that it cannot be a face's in it."""
    left, top, w, h = box
    touches = left < width and top < height and left + w > 0 and top + h > 0
    return touches and w > 0 and h > 0 and max(w, h) <= 2 * max(width, height)


def _to_rgb(crop: Image) -> NDArray[np.uint8]:
    return crop[:, :, ::-1].transpose(2, 0, 1)
