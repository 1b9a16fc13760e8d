"""Convert image and video files to face crops of one size."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from facereel.data.manifest import N_LANDMARKS, Row
from facereel.errors import UserError
from facereel.parallel.pool import run_jobs
from facereel.storage.insightface_bin import BIN_SUFFIX, read_insightface_bin
from facereel.video.align import LARGEST_MARGIN, TEMPLATE_MARGIN, align_face
from facereel.video.decode import Frame, Video, is_flat
from facereel.video.detector import Box, Detector, Face, Image, make_detector
from facereel.video.find_faces import find_face, find_faces
from facereel.video.image_file import Unreadable, decode_image, read_image
from facereel.video.track import ShotChanges, Tracker

# Rows that one process crops at a time.
_CHUNK = 128
# Up to this number of rows, without and with a detector, starting processes takes longer than they save.
_FEW_ROWS = 20_000
_FEW_ROWS_TO_SEARCH = 500
# A video's face must be in at least this fraction of its frames.
_MIN_FRACTION = 0.1


class Outcome(IntEnum):
    """How a row was cropped: values up to `WHOLE` have a crop, values from `ABSENT` on mean faulty data."""

    GIVEN = 0
    FOUND = 1
    BOX = 2
    CENTRAL = 3
    WHOLE = 4
    OFF_TRACK = 5
    BEYOND = 6
    ABSENT = 7
    EMPTY = 8
    TRUNCATED = 9
    UNREADABLE = 10
    REFUSED = 11
    OUTSIDE = 12
    TOO_LARGE = 13
    ONE_COLOR = 14
    UNSUPPORTED = 15
    NEEDS_HEIF = 16

    @property
    def is_fault(self) -> bool:
        """Whether the data is faulty."""
        return self >= Outcome.ABSENT

    @property
    def label(self) -> str:
        """The outcome in words."""
        return _LABELS[self]


_LABELS = {
    Outcome.GIVEN: "aligned on the data set's landmarks",
    Outcome.FOUND: "aligned on landmarks found by the detector",
    Outcome.BOX: "cropped by the box, without landmarks",
    Outcome.CENTRAL: "cropped by the central fraction, without landmarks",
    Outcome.WHOLE: "used whole, without landmarks",
    Outcome.OFF_TRACK: "frame without the video's main face",
    Outcome.BEYOND: "frame announced in the video's header but missing",
    **{Outcome[reason.name]: reason.value for reason in Unreadable},
    Outcome.OUTSIDE: "box outside the image",
    Outcome.ONE_COLOR: "single-color video frame",
}


@dataclass(frozen=True)
class CropSettings:
    """Settings of face crops.

    Args:
        size: side of a crop in pixels.
        margin: ratio of the crop's side to the face box's longer side; 1.2 is the usual alignment of face encoders.
        detector: detector for images without landmarks, as in `make_detector`, or None.

    Raises:
        UserError: if a number is out of range or the detector cannot be built.
    """

    size: int = 64
    margin: float = TEMPLATE_MARGIN
    detector: str | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"size={self.size}: must be at least 1 pixel")
        if not 0 < self.margin <= LARGEST_MARGIN:
            raise UserError(f"margin={self.margin}: must be above 0 and at most {LARGEST_MARGIN:g}")
        if self.detector is not None:
            make_detector(self.detector)  # fails before images are read


@dataclass
class CropBatch:
    """The crops of some rows."""

    crops: NDArray[np.uint8]
    """(N, 3, size, size) RGB; zeros where there is no crop."""
    outcomes: NDArray[np.uint8]
    """(N,) values of `Outcome`."""
    landmarks: NDArray[np.float32]
    """(N, 10) landmarks in pixels of the image, given or detected; NaN if unknown."""

    @classmethod
    def empty(cls, n: int, size: int) -> Self:
        """Return a batch of n rows without crops of `size` pixels."""
        return cls(
            np.zeros((n, 3, size, size), np.uint8),
            np.full(n, Outcome.ABSENT, np.uint8),
            np.full((n, 2 * N_LANDMARKS), np.nan, np.float32),
        )

    def put(self, places: Sequence[int], other: "CropBatch") -> None:
        """Copy another batch to the rows at `places`."""
        self.crops[places], self.outcomes[places] = other.crops, other.outcomes
        self.landmarks[places] = other.landmarks

    def set_crop(self, i: int, crop: Image, outcome: Outcome, landmarks: Sequence[float] | None = None) -> None:
        """Set one row from an (S, S, 3) BGR uint8 crop."""
        self.crops[i], self.outcomes[i] = crop[:, :, ::-1].transpose(2, 0, 1), outcome
        if landmarks is not None:
            self.landmarks[i] = landmarks

    def clear(self, i: int, outcome: Outcome) -> None:
        """Remove the crop of one row."""
        self.crops[i], self.outcomes[i] = 0, outcome


def crop_faces(
    rows: Sequence[Row], settings: CropSettings, n_workers: int = 1, advance: Callable[[int], object] = lambda n: None
) -> CropBatch:
    """Decode every row's image and crop its face.

    Args:
        rows: rows of a manifest.
        settings: size, margin and detector.
        n_workers: number of processes.
        advance: called with the number of rows done since the last call.

    Returns:
        The crops, outcomes and landmarks of the N rows.
    """
    chunks: list[list[int]] = [[]]
    previous = ""
    for i, row in enumerate(rows):
        if len(chunks[-1]) >= _CHUNK and not (row.position >= 0 and row.file == previous):
            chunks.append([])  # a video's frames stay together: it is decoded once
        chunks[-1].append(i)
        previous = row.file
    batch = CropBatch.empty(len(rows), settings.size)

    def done(chunk: list[int], result: CropBatch) -> None:
        batch.put(chunk, result)
        advance(len(chunk))

    jobs = ((chunk, ([rows[i] for i in chunk], settings)) for chunk in chunks if chunk)
    run_jobs(crop_rows, jobs, done, useful_workers(len(rows), settings, n_workers))
    return batch


def useful_workers(n_rows: int, settings: CropSettings, n_workers: int) -> int:
    """Return the number of processes to use: 1 for few rows, else `n_workers`."""
    few = n_rows <= (_FEW_ROWS if settings.detector is None else _FEW_ROWS_TO_SEARCH)
    return 1 if few else n_workers


def crop_rows(rows: Sequence[Row], settings: CropSettings) -> CropBatch:
    """Crop rows in this process; the frames of one video file are tracked together.

    Args:
        rows: rows of a manifest.
        settings: size, margin and detector.

    Returns:
        The crops, outcomes and landmarks of the N rows.
    """
    batch = CropBatch.empty(len(rows), settings.size)
    detector = None if settings.detector is None else _detector(settings.detector)
    by_file: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_file[row.file].append(i)
    for file, places in by_file.items():
        in_file = [rows[i] for i in places]
        if in_file[0].position >= 0 and not file.endswith(BIN_SUFFIX):
            batch.put(places, _VideoCropper(in_file, settings, detector).run())
            continue
        for i, image in zip(places, _images(file, in_file), strict=True):
            if isinstance(image, Unreadable):
                batch.outcomes[i] = Outcome[image.name]
            else:
                _crop_row(batch, i, rows[i], image, settings, detector)
    return batch


def _images(file: str, rows: Sequence[Row]) -> Iterator[Image | Unreadable]:
    """Yield the image of each row of an image file, or of a file that contains many images."""
    # Boxes and landmarks are in pixels as stored, before the EXIF orientation is applied.
    turn = all(row.box is None and row.landmarks is None for row in rows)
    if rows[0].position >= 0:
        contents = read_insightface_bin(Path(file))[0]
        yield from (decode_image(bytes(contents[row.position]), turn) for row in rows)
    else:
        yield from [read_image(file, turn)] * len(rows)


_detector = cache(make_detector)


def _crop_row(
    batch: CropBatch, i: int, row: Row, image: Image, settings: CropSettings, detector: Detector | None
) -> None:
    height, width = image.shape[:2]
    box = row.box
    if box is not None and not _is_within(box, width, height):
        batch.outcomes[i] = Outcome.OUTSIDE
        return
    has_margin = row.central_fraction < 1
    points, outcome = row.landmarks, Outcome.GIVEN
    if points is None and detector is not None:
        face = find_face(detector, image, box or (_central_box(image, row.central_fraction) if has_margin else None))
        points, outcome = (None if face is None else face.landmarks), Outcome.FOUND
    crop = None if points is None else align_face(image, points, settings.size, settings.margin)
    if crop is not None:
        batch.set_crop(i, crop, outcome, points)
    elif box is not None:
        batch.set_crop(i, crop_face(image, box, settings.size, settings.margin), Outcome.BOX)
    else:
        # An image used whole was cropped to the face before: it has its own margin.
        margin, outcome = (settings.margin, Outcome.CENTRAL) if has_margin else (1.0, Outcome.WHOLE)
        crop = crop_face(image, _central_box(image, row.central_fraction), settings.size, margin)
        batch.set_crop(i, crop, outcome)


class _VideoCropper:
    """Crop the frames of one video file: the face of its longest track, or whole frames if no face is found.

    A face in less than a tenth of the frames counts as a false detection.
    """

    def __init__(self, rows: Sequence[Row], settings: CropSettings, detector: Detector | None) -> None:
        self.rows, self.settings, self.detector = rows, settings, detector
        self.batch = CropBatch.empty(len(rows), settings.size)
        self.tracker, self.shot_changes = Tracker(), ShotChanges()
        self.searched: list[int] = []
        """Rows in which faces were searched for."""
        self.tracks: dict[int, dict[int, tuple[Face, Image | None]]] = defaultdict(dict)
        """The face of each track and its crop, by row."""

    def run(self) -> CropBatch:
        if not Path(self.rows[0].file).is_file():
            return self.batch
        self.batch.outcomes[:] = Outcome.UNREADABLE
        try:
            video = Video(self.rows[0].file)
        except UserError:
            return self.batch
        flat = []
        order = sorted(range(len(self.rows)), key=lambda i: self.rows[i].position)
        for place, frame in video.frames([self.rows[i].position for i in order]):
            i = order[place]
            _crop_row(self.batch, i, self.rows[i], frame.image, self.settings, None)
            if self.batch.outcomes[i] == Outcome.WHOLE and is_flat(frame.image):
                flat.append(i)
            if self.rows[i].box is None and self.rows[i].landmarks is None and self.detector is not None:
                self._track(self.detector, i, frame)
        outcomes = self.batch.outcomes
        if (outcomes != Outcome.UNREADABLE).any():
            # Many containers declare more frames than they have.
            outcomes[outcomes == Outcome.UNREADABLE] = Outcome.BEYOND
        self._use_main_track()
        for i in flat:
            if outcomes[i] == Outcome.WHOLE:
                self.batch.clear(i, Outcome.ONE_COLOR)
        return self.batch

    def _track(self, detector: Detector, i: int, frame: Frame) -> None:
        self.searched.append(i)
        faces = [detector.refine(frame.image, face) for face in find_faces(detector, frame.image)]
        crops = [align_face(frame.image, face.landmarks, self.settings.size, self.settings.margin) for face in faces]
        new_shot = self.shot_changes(frame.image, frame.stays_s) or frame.jumped
        numbers = self.tracker.update(frame.seconds, faces, new_shot, frame.stays_s)
        for number, face, crop in zip(numbers, faces, crops, strict=True):
            self.tracks[number][i] = face, crop

    def _use_main_track(self) -> None:
        main = max(self.tracks.values(), key=len, default={})
        if len(main) < _MIN_FRACTION * len(self.rows):
            return
        for i in self.searched:
            face, crop = main.get(i, (None, None))
            if face is None or crop is None:
                self.batch.clear(i, Outcome.OFF_TRACK)
            else:
                self.batch.set_crop(i, crop, Outcome.FOUND, face.landmarks)


def crop_face(image: Image, box: Box, size: int, margin: float) -> Image:
    """Crop a square around a box and resize it; the image's border is repeated outside it.

    Args:
        image: (H, W, 3) uint8.
        box: left, top, width, height in pixels.
        size: side of the result in pixels.
        margin: ratio of the square's side to the box's longer side.

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


def _central_box(image: Image, central_fraction: float) -> Box:
    """Return the central fraction of an image's sides as a box."""
    height, width = image.shape[:2]
    left, top = (side * (1 - central_fraction) / 2 for side in (width, height))
    return left, top, width * central_fraction, height * central_fraction


def _is_within(box: Box, width: int, height: int) -> bool:
    """Return whether a box overlaps an image and is not too large for a face in it."""
    left, top, w, h = box
    touches = left < width and top < height and left + w > 0 and top + h > 0
    return touches and w > 0 and h > 0 and max(w, h) <= 2 * max(width, height)
