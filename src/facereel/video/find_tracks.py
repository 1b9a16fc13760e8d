"""A video to tracks: sample, detect, follow, align, and keep the best of each."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby

import cv2
import numpy as np
from numpy.typing import NDArray

from facereel.errors import UserError
from facereel.video.align import align_face
from facereel.video.decode import Frame, Video
from facereel.video.detector import Box, Detector, Face, Image, check_min_face, find_faces, make_detector
from facereel.video.track import ShotCuts, Tracker, look_of

# What a crop's quality is measured against: a face of so many pixels is as large as any, and one of such a sharpness
# half as sharp as any.
_LARGE = 100.0
_SHARP = 60.0
_SHARP_SIDE = 112
# A face in profile is worth little, and more than nothing: of several the largest and sharpest is taken.
_PROFILE = 0.05


@dataclass(frozen=True)
class TrackSettings:
    """How tracks are found; what is the same gives the same tracks.

    Args:
        rate: frames a second that are looked at.
        size: side of a crop in pixels.
        margin: the crop's side over the face box's; 1.4 is wide enough for every encoder we have.
        n_crops: of a track so many crops are kept at most, the best of as many stretches of it.
        min_seen: a face seen in fewer of the frames looked at is taken for a detector's slip.
        detector: "mtcnn", or the path of a YuNet ONNX file.
        min_face: the longer side of the smallest face in pixels; None: a thirteenth of the picture's longer side.
    """

    rate: float = 5.0
    size: int = 200
    margin: float = 1.4
    n_crops: int = 10
    min_seen: int = 3
    detector: str = "mtcnn"
    min_face: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1000:
            raise UserError(f"--rate {self.rate}: must be > 0 and at most 1000 frames a second")
        for name in ("size", "n_crops", "min_seen"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if not 0 < self.margin <= 20:
            raise UserError(f"--margin {self.margin}: must be > 0 and at most 20")
        if self.min_face is not None:
            check_min_face(self.min_face)


@dataclass
class Crop:
    """A face cut out of a frame."""

    seconds: float
    quality: float
    """0..1, see `quality`."""
    image: Image
    """(S, S, 3) BGR uint8, aligned."""


@dataclass
class FoundTrack:
    """A face that was followed through a shot."""

    times: list[float] = field(default_factory=list)
    """(M,) in seconds, rising, of the frames looked at in which it was seen."""
    boxes: list[Box] = field(default_factory=list)
    """(M,) left, top, width and height in pixels."""
    crops: list[Crop] = field(default_factory=list)
    """In time order."""
    n_seen: int = 0
    """In how many frames it was seen; one that was shown long counts as often as it could have been looked at."""
    stays_s: float = 0.0
    """How long it is seen after the last of `times`, in a frame that was shown long."""
    _stretch_s: float = 0.0

    @property
    def start_s(self) -> float:
        """When it is first seen."""
        return self.times[0]

    @property
    def end_s(self) -> float:
        """When it is last seen."""
        return self.times[-1] + self.stays_s

    @property
    def best(self) -> Crop:
        """The crop of the highest quality."""
        return max(self.crops, key=lambda crop: crop.quality)

    def add(self, box: Box, crop: Crop, n_crops: int, n_seen: int = 1, stays_s: float = 0.0) -> None:
        """Add a sighting; of its crops fewer than twice `n_crops` are kept on the way."""
        self.times.append(crop.seconds)
        self.boxes.append(box)
        self.n_seen += n_seen
        self.stays_s = stays_s
        if self._stretch_s and self._stretch(self.crops[-1]) == self._stretch(crop):
            if crop.quality > self.crops[-1].quality:
                self.crops[-1] = crop
            return
        self.crops.append(crop)
        if len(self.crops) >= 2 * n_crops:
            self.thin(n_crops)

    def thin(self, n_crops: int) -> None:
        """Of so many stretches of equal time, keep the best crop of each; some may be without."""
        if len(self.crops) > n_crops:
            # A little longer, so that the last crop does not start a stretch of its own.
            self._stretch_s = (self.crops[-1].seconds - self.start_s) / n_crops * (1 + 1e-9)
            self.crops = [max(some, key=lambda crop: crop.quality) for _, some in groupby(self.crops, self._stretch)]

    def _stretch(self, crop: Crop) -> int:
        return int((crop.seconds - self.start_s) / self._stretch_s)


def find_tracks(
    video: Video,
    settings: TrackSettings,
    n_workers: int = 1,
    advance: Callable[[float], object] = lambda seconds: None,
) -> Iterator[FoundTrack]:
    """Find the faces of a video and follow each through its shot.

    Args:
        video: is decoded once, from its start.
        settings: how.
        n_workers: threads that look for faces.
        advance: told how far in seconds the work has come.

    Yields:
        Tracks as they end; what is in memory does not grow with the video.

    Raises:
        UserError: if the detector's package or file is absent.
    """
    tracker, is_cut = Tracker(), ShotCuts()
    found: dict[int, FoundTrack] = {}
    for frame, faces in _detect(video.sample(settings.rate), settings, n_workers):
        aligned = [(face, align_face(frame.image, face.landmarks, settings.size, settings.margin)) for face in faces]
        whole = [(face, crop) for face, crop in aligned if crop is not None]
        cut = is_cut(frame.image, frame.stays_s) or frame.jumped
        looks = [look_of(crop) for _, crop in whole]
        numbers = tracker.update(frame.seconds, [face for face, _ in whole], cut, frame.stays_s, looks)
        # As often as it would have been looked at in a film that repeats it.
        n_seen = max(1, math.ceil((frame.stays_s or frame.waits_s) * settings.rate - 1e-3))
        stays_s = (n_seen - 1) / settings.rate if frame.stays_s else 0.0
        for number, (face, image) in zip(numbers, whole, strict=True):
            crop = Crop(frame.seconds, quality(face, image), image)
            found.setdefault(number, FoundTrack()).add(face.box, crop, settings.n_crops, n_seen, stays_s)
        for number in sorted(found.keys() - tracker.open):
            yield from _kept(found.pop(number), settings)
        advance(frame.seconds)
    for number in sorted(found):
        yield from _kept(found[number], settings)


def _kept(track: FoundTrack, settings: TrackSettings) -> Iterator[FoundTrack]:
    if track.n_seen >= settings.min_seen:
        track.thin(settings.n_crops)
        yield track


def _detect(frames: Iterator[Frame], settings: TrackSettings, n_workers: int) -> Iterator[tuple[Frame, list[Face]]]:
    """Look for faces in several threads, a few frames ahead; in order."""
    own = threading.local()  # a detector is not made for several threads

    def look(image: Image) -> list[Face]:
        if not hasattr(own, "detector"):
            own.detector = make_detector(settings.detector)
        search: Detector = own.detector
        return find_faces(search, image, settings.min_face)

    with ThreadPoolExecutor(n_workers) as pool:
        ahead: deque[tuple[Frame, Future[list[Face]]]] = deque()
        try:
            for frame in frames:
                ahead.append((frame, pool.submit(look, frame.image)))
                if len(ahead) > 2 * n_workers:
                    first, faces = ahead.popleft()
                    yield first, faces.result()
            while ahead:
                first, faces = ahead.popleft()
                yield first, faces.result()
        finally:
            for _, faces in ahead:
                faces.cancel()


def quality(face: Face, crop: Image) -> float:
    """How much a crop shows of a face: its size, its sharpness and how far it looks ahead. Ours.

    Args:
        face: as it was found.
        crop: (S, S, 3) BGR uint8, aligned on it.

    Returns:
        0..1, the product of the three and the detector's certainty.
    """
    size = min(1.0, max(face.box[2:]) / _LARGE)
    grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), (_SHARP_SIDE, _SHARP_SIDE), interpolation=cv2.INTER_AREA)
    edges = float(cv2.Laplacian(grey, cv2.CV_32F).var())
    return size * edges / (edges + _SHARP) * max(_PROFILE, frontal(face.landmarks)) * face.score


def frontal(landmarks: tuple[float, ...]) -> float:
    """How far a face looks ahead: 1 with its nose midway between the left and right points, 0 at either of them."""
    points: NDArray[np.float64] = np.array(landmarks, np.float64).reshape(5, 2)
    left, right = (points[0] + points[3]) / 2, (points[1] + points[4]) / 2
    across = right - left
    width = float(across @ across)
    if width == 0:
        return 0.0
    place = float((points[2] - left) @ across) / width  # 0 at the left side, 1 at the right
    return max(0.0, 1.0 - 2 * abs(place - 0.5))
