"""Find the tracks of a video: sample, detect, track, align, and keep the best crops of each track."""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from facereel.errors import UserError
from facereel.video.align import LARGEST_MARGIN, align_face
from facereel.video.decode import Frame, Video
from facereel.video.detector import Box, Detector, Face, Image, check_min_face, default_detector, make_detector
from facereel.video.find_faces import close_up, find_faces_of_many
from facereel.video.track import (
    MIN_CORRELATION,
    MIN_CORRELATION_IN_BOX,
    ShotChanges,
    Tracker,
    look_in_box,
    look_of,
)

# Constants of a crop's quality: a face of this size in pixels is large enough, and this sharpness counts as half of the
# maximum.
_LARGE = 100.0
_SHARP = 60.0
_SHARP_SIDE = 112
# Frames that are searched at once on a GPU, and threads that do so: five times as many frames are in memory as are
# searched.
_DEVICE_FRAMES, _DEVICE_THREADS = 16, 2
# A face in profile has a low quality, but not 0, so that the largest and sharpest of several profiles is the best.
_PROFILE = 0.05


@dataclass(frozen=True)
class TrackSettings:
    """Settings of `find_tracks`; equal settings give equal tracks.

    Args:
        fps: sampled frames per second.
        size: side of a crop in pixels.
        margin: ratio of the crop's side to the face box's longer side; 1.4 is wide enough for every encoder here.
        crops_per_track: maximum number of crops of a track. The track is divided into this number of equal parts, and
            the best crop of each part is kept.
        min_detections: a face in fewer sampled frames counts as a false detection.
        detector: "yunet", "mtcnn", or the path of another YuNet ONNX file, see `make_detector`; by default
            `default_detector`.
        min_face: longer side of the smallest face in pixels; None means 1/13 of the image's longer side.

    Raises:
        UserError: if a number is out of range.
    """

    fps: float = 5.0
    size: int = 200
    margin: float = 1.4
    crops_per_track: int = 10
    min_detections: int = 3
    detector: str = field(default_factory=default_detector)
    min_face: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 1000:
            raise UserError(f"fps={self.fps}: must be above 0 and at most 1000 frames per second")
        for name in ("size", "crops_per_track", "min_detections"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be at least 1")
        if not 0 < self.margin <= LARGEST_MARGIN:
            raise UserError(f"margin={self.margin}: must be above 0 and at most {LARGEST_MARGIN:g}")
        if self.min_face is not None:
            check_min_face(self.min_face)


@dataclass
class Crop:
    """A face in a frame."""

    seconds: float
    quality: float
    """Quality in 0..1, see `quality`."""
    image: Image
    """(S, S, 3) BGR uint8, aligned."""


@dataclass
class FoundTrack:
    """A face tracked through a shot."""

    times: list[float] = field(default_factory=list)
    """(M,) times in seconds, increasing, of the sampled frames with the face."""
    boxes: list[Box] = field(default_factory=list)
    """(M,) left, top, width and height in pixels."""
    crops: list[Crop] = field(default_factory=list)
    """The best crops in time order."""
    n_seen: int = 0
    """Number of sampled frames with the face; one that is shown long counts as often as it could have been sampled."""
    stays_s: float = 0.0
    """Seconds for which the face stays visible after the last of `times`, if that frame is shown long."""
    _part_s: float = 0.0

    @property
    def start_s(self) -> float:
        """Time of the first appearance in seconds."""
        return self.times[0]

    @property
    def end_s(self) -> float:
        """Time of the last appearance in seconds."""
        return self.times[-1] + self.stays_s

    @property
    def best(self) -> Crop:
        """The crop with the highest quality."""
        return max(self.crops, key=lambda crop: crop.quality)

    def add(self, box: Box, crop: Crop, crops_per_track: int, n_seen: int = 1, stays_s: float = 0.0) -> None:
        """Add a detection; at most twice `crops_per_track` crops are in memory.

        Args:
            box: left, top, width and height in pixels.
            crop: the face in the frame.
            crops_per_track: maximum number of crops of a track.
            n_seen: number of sampled frames that this one counts as.
            stays_s: seconds for which the face stays visible.
        """
        self.times.append(crop.seconds)
        self.boxes.append(box)
        self.n_seen += n_seen
        self.stays_s = stays_s
        if not self.wants(crop):
            return
        if self._is_in_last_part(crop):
            self.crops[-1] = crop
            return
        self.crops.append(crop)
        if len(self.crops) >= 2 * crops_per_track:
            self.thin(crops_per_track)

    def wants(self, crop: Crop) -> bool:
        """Return whether `add` keeps a crop for now: it is the first of its part of the track, or the best so far."""
        return not self._is_in_last_part(crop) or crop.quality > self.crops[-1].quality

    def thin(self, crops_per_track: int) -> None:
        """Keep the best crop of each of `crops_per_track` parts of equal duration; parts may be empty."""
        if len(self.crops) > crops_per_track:
            # A little longer, so that the last crop does not start another part.
            self._part_s = (self.crops[-1].seconds - self.start_s) / crops_per_track * (1 + 1e-9)
            self.crops = [max(some, key=lambda crop: crop.quality) for _, some in groupby(self.crops, self._part)]

    def _is_in_last_part(self, crop: Crop) -> bool:
        return bool(self._part_s) and self._part(self.crops[-1]) == self._part(crop)

    def _part(self, crop: Crop) -> int:
        return int((crop.seconds - self.start_s) / self._part_s)


def find_tracks(
    video: Video,
    settings: TrackSettings,
    n_workers: int = 1,
    advance: Callable[[float], object] = lambda seconds: None,
    device: torch.device | str = "cpu",
) -> Iterator[FoundTrack]:
    """Find the faces in a video and track each through its shot.

    Args:
        video: the video; it is decoded once, from its start.
        settings: frame rate, crops, detector and thresholds.
        n_workers: number of threads that detect faces.
        advance: called with the time in the video, in seconds.
        device: device of the detector, see `make_detector`. A GPU searches several frames at once.

    Yields:
        Tracks as they end; memory does not grow with the video.

    Raises:
        UserError: if the detector's package or file is missing.
    """
    refiner = make_detector(settings.detector)
    tracker = Tracker(MIN_CORRELATION if refiner.is_exact else MIN_CORRELATION_IN_BOX)
    shot_changes = ShotChanges()
    found: dict[int, FoundTrack] = {}
    for frame, faces in _detect(video.sample(settings.fps), settings, n_workers, device):
        seen = [one for one in (_crop_face(refiner, frame.image, face, settings) for face in faces) if one is not None]
        new_shot = shot_changes(frame.image, frame.stays_s) or frame.jumped
        looks = [look_of(one.crop) if refiner.is_exact else look_in_box(one.image, one.near.box) for one in seen]
        numbers = tracker.update(frame.seconds, [one.face for one in seen], new_shot, frame.stays_s, looks)
        # The number of samples in a video that repeats the frame.
        n_seen = max(1, math.ceil((frame.stays_s or frame.waits_s) * settings.fps - 1e-3))
        stays_s = (n_seen - 1) / settings.fps if frame.stays_s else 0.0
        for number, one in zip(numbers, seen, strict=True):
            track, crop = found.setdefault(number, FoundTrack()), Crop(frame.seconds, one.quality, one.crop)
            if track.wants(crop):
                crop.image = one.refined(refiner, settings)
            track.add(one.face.box, crop, settings.crops_per_track, n_seen, stays_s)
        for number in sorted(found.keys() - tracker.open):
            yield from _kept(found.pop(number), settings)
        advance(frame.seconds)
    for number in sorted(found):
        yield from _kept(found[number], settings)


class _FoundFace(NamedTuple):
    """A face in a frame."""

    face: Face
    image: Image
    """The frame, or its part around the face, shrunk."""
    near: Face
    """The face in that image."""
    crop: Image
    """The crop by the landmarks that the detector found."""

    @property
    def quality(self) -> float:
        return quality(self.face, self.crop)

    def refined(self, refiner: Detector, settings: TrackSettings) -> Image:
        """Return the crop by the face's final landmarks. Only crops that may be kept are worth it."""
        final = refiner.refine(self.image, self.near)
        if final is self.near:
            return self.crop
        crop = align_face(self.image, final.landmarks, settings.size, settings.margin)
        return self.crop if crop is None else crop


def _crop_face(detector: Detector, image: Image, face: Face, settings: TrackSettings) -> _FoundFace | None:
    """Return a face with its first crop, or None if its landmarks cannot be a face."""
    near = face
    if not detector.is_exact:
        # Twice as large as in the crop, which is averaged from it.
        image, near = close_up(image, face, 2 * settings.size / settings.margin, settings.margin)
    crop = align_face(image, near.landmarks, settings.size, settings.margin)
    return None if crop is None else _FoundFace(face, image, near, crop)


def _kept(track: FoundTrack, settings: TrackSettings) -> Iterator[FoundTrack]:
    if track.n_seen >= settings.min_detections:
        track.thin(settings.crops_per_track)
        yield track


def _detect(
    frames: Iterator[Frame], settings: TrackSettings, n_workers: int, device: torch.device | str
) -> Iterator[tuple[Frame, list[Face]]]:
    """Yield the frames in order with their faces, which several threads detect a few frames ahead."""
    of_thread = threading.local()  # detectors are not thread-safe
    on_cpu = torch.device(device).type == "cpu"
    n_workers, n_together = (n_workers, 1) if on_cpu else (min(n_workers, _DEVICE_THREADS), _DEVICE_FRAMES)

    def detect(some: list[Frame]) -> list[list[Face]]:
        if not hasattr(of_thread, "detector"):
            of_thread.detector = make_detector(settings.detector, device)
        return find_faces_of_many(of_thread.detector, [frame.image for frame in some], settings.min_face)

    with ThreadPoolExecutor(n_workers) as pool:
        ahead: deque[tuple[list[Frame], Future[list[list[Face]]]]] = deque()
        try:
            for some in _of_one_size(frames, n_together):
                ahead.append((some, pool.submit(detect, some)))
                if len(ahead) > 2 * n_workers:
                    first, faces = ahead.popleft()
                    yield from zip(first, faces.result(), strict=True)
            while ahead:
                first, faces = ahead.popleft()
                yield from zip(first, faces.result(), strict=True)
        finally:
            for _, faces in ahead:
                faces.cancel()


def _of_one_size(frames: Iterator[Frame], n: int) -> Iterator[list[Frame]]:
    """Yield n frames at a time, or fewer before the size changes and at the end."""
    some: list[Frame] = []
    for frame in frames:
        if some and frame.image.shape != some[0].image.shape:
            yield some
            some = []
        some.append(frame)
        if len(some) == n:
            yield some
            some = []
    if some:
        yield some


def quality(face: Face, crop: Image) -> float:
    """Rate a crop by the face's size, its sharpness and how frontal it is. This measure is our choice.

    Args:
        face: the detected face.
        crop: (S, S, 3) BGR uint8, aligned on it.

    Returns:
        The quality in 0..1: the product of the three and the detector's score.
    """
    size = min(1.0, max(face.box[2:]) / _LARGE)
    grayscale = cv2.resize(
        cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), (_SHARP_SIDE, _SHARP_SIDE), interpolation=cv2.INTER_AREA
    )
    edges = float(cv2.Laplacian(grayscale, cv2.CV_32F).var())
    return size * edges / (edges + _SHARP) * max(_PROFILE, frontal(face.landmarks)) * face.score


def frontal(landmarks: tuple[float, ...]) -> float:
    """Return how frontal a face is: 1 if the nose is midway between the left and right points, 0 at either of them."""
    points: NDArray[np.float64] = np.array(landmarks, np.float64).reshape(5, 2)
    left, right = (points[0] + points[3]) / 2, (points[1] + points[4]) / 2
    across = right - left
    width = float(across @ across)
    if width == 0:
        return 0.0
    place = float((points[2] - left) @ across) / width  # 0 at the left side, 1 at the right
    return max(0.0, 1.0 - 2 * abs(place - 0.5))
