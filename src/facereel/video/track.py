"""Link faces in consecutive frames to tracks, and find shot changes."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from facereel.video.detector import Box, Face, Image, overlap

# The minimum intersection over union of a face's box with a track's last or expected box.
_MIN_OVERLAP = 0.25
# A face that is lost for longer starts a new track.
_MAX_GAP_S = 1.0

# The minimum correlation between crops of the same face. In our videos a face has at least 0.41 with itself a fifth of
# a second later; different people of LFW have a median of 0.33, and at most 0.74 in 99 of 100 pairs. Across slides only
# a face that hardly changed counts as the same: one person in two tracks does less harm than two people in one track.
MIN_CORRELATION = 0.35
# The same for `look_in_box`. Different people of LFW have a median of 0.24. Of 588 pairs of one face in our videos one
# has less; looks of crops aligned on YuNet's landmarks are below 0.35 for 8.
MIN_CORRELATION_IN_BOX = 0.24
_MIN_CORRELATION_ON_SLIDES = 0.8
_LOOK_SIDE = 24
# The side of the part that `look_in_box` describes, over the longer side of the box.
_LOOK_FRACTION = 0.6

# A shot ends where more than this fraction of the light changes, at this image size,
_SHOT_SIZE = (32, 18)
_SHOT_LIGHT = 0.15
# and either the correlation of the two images is below this (in our videos shot changes have at most 0.2, movement at
# least 0.42),
_SHOT_CORRELATION = 0.35
# or more than this fraction of the colors changes, with this number of values per channel: two shots may have a similar
# composition.
_SHOT_COLORS = 0.5
_BINS = 6
# Black bars have at most this value; video's black is 16, and compression changes it by a few levels.
_BLACK = 24

Look = NDArray[np.float64]


@dataclass
class _Open:
    number: int
    box: Box
    seconds: float
    until: float
    """When the last frame of the track ended, in seconds."""
    look: Look | None
    velocity: NDArray[np.float64]
    """(4,) velocity of the box in pixels per second."""

    def expected(self, seconds: float) -> Box:
        left, top, width, height = (np.array(self.box) + self.velocity * (seconds - self.seconds)).tolist()
        return left, top, max(width, 1.0), max(height, 1.0)


class Tracker:
    """Link faces by position, velocity and appearance; no track spans two shots.

    Args:
        min_correlation: minimum correlation between two looks of one face a fraction of a second apart.
    """

    def __init__(self, min_correlation: float = MIN_CORRELATION) -> None:
        self._min_correlation = min_correlation
        self._open: list[_Open] = []
        self._n_tracks = 0

    @property
    def open(self) -> set[int]:
        """The tracks that may continue."""
        return {track.number for track in self._open}

    def update(
        self,
        seconds: float,
        faces: Sequence[Face],
        new_shot: bool = False,
        stays_s: float = 0.0,
        looks: Sequence[Look] | None = None,
    ) -> list[int]:
        """Link the faces of the next frame.

        Args:
            seconds: time of the frame in seconds, later than the frame before.
            faces: faces in the frame.
            new_shot: whether the frame starts a new shot.
            stays_s: seconds for which the frame is shown, if it is a slide; else 0.
            looks: the appearance of each face, see `look_of` and `look_in_box`; None links by position alone.

        Returns:
            The number of each face's track, all different.
        """
        self._open = [] if new_shot else [track for track in self._open if seconds - track.until <= _MAX_GAP_S + 1e-6]
        seen: list[Look | None] = [None] * len(faces) if looks is None else [*looks]
        pairs = []
        for t, track in enumerate(self._open):
            places = (track.box, track.expected(seconds))
            pairs += [
                (max(overlap(place, face.box) for place in places), t, f)
                for f, face in enumerate(faces)
                if self._may_be(track, seen[f])
            ]
        numbers: dict[int, int] = {}
        taken: set[int] = set()
        for iou, t, f in sorted(pairs, key=lambda pair: -pair[0]):
            if iou >= _MIN_OVERLAP and t not in taken and f not in numbers:
                track, box = self._open[t], faces[f].box
                track.velocity = (np.array(box) - np.array(track.box)) / (seconds - track.seconds)
                track.box, track.seconds, track.until, track.look = box, seconds, seconds + stays_s, seen[f]
                numbers[f] = track.number
                taken.add(t)
        for f, face in enumerate(faces):
            if f not in numbers:
                self._open.append(_Open(self._n_tracks, face.box, seconds, seconds + stays_s, seen[f], np.zeros(4)))
                numbers[f] = self._n_tracks
                self._n_tracks += 1
        return [numbers[f] for f in range(len(faces))]

    def _may_be(self, track: _Open, look: Look | None) -> bool:
        if track.look is None or look is None:
            return True
        is_slide = track.until > track.seconds
        return float(track.look @ look) >= (_MIN_CORRELATION_ON_SLIDES if is_slide else self._min_correlation)


def look_of(crop: Image) -> Look:
    """Describe the appearance of a face.

    Args:
        crop: (S, S, 3) BGR uint8, aligned.

    Returns:
        (576,) vector of length 1: the gray center of the crop, minus its mean.
    """
    quarter = crop.shape[0] // 4
    inner = slice(quarter, max(quarter + 1, 3 * quarter))
    return _look(crop[inner, inner])


def look_in_box(image: Image, box: Box) -> Look:
    """Describe the appearance of a face without landmarks, which one detector finds less exactly than boxes.

    Args:
        image: (H, W, 3) BGR uint8.
        box: left, top, width and height in pixels.

    Returns:
        (576,) vector of length 1: the gray middle of the box, minus its mean.
    """
    left, top, width, height = box
    side = max(1, round(_LOOK_FRACTION * max(width, height)))
    return _look(cv2.getRectSubPix(image, (side, side), (left + width / 2, top + height / 2)))


def _look(part: Image) -> Look:
    middle = cv2.cvtColor(part, cv2.COLOR_BGR2GRAY)
    look = cv2.resize(middle, (_LOOK_SIDE, _LOOK_SIDE), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
    look -= look.mean()
    return look / max(float(np.linalg.norm(look)), 1e-9)


class ShotChanges:
    """Find where one shot of a video ends and the next begins, from frames at any rate. The method is our choice."""

    def __init__(self) -> None:
        self._before: Image | None = None
        self._stays = False

    def __call__(self, image: Image, stays_s: float = 0.0) -> bool:
        """Return whether a frame starts a new shot.

        Args:
            image: (H, W, 3) BGR uint8.
            stays_s: seconds for which the frame is shown, if it is a slide; else 0. The frame after a slide is another
                slide or the same scene much later, and starts a new shot if its light differs.
        """
        small = cv2.resize(image, _SHOT_SIZE, interpolation=cv2.INTER_AREA)
        before, self._before = self._before, small
        stayed, self._stays = self._stays, stays_s > 0
        if before is None:
            return False
        a, b = _without_bars(before, small)
        old, new = (cv2.cvtColor(part, cv2.COLOR_BGR2GRAY).astype(np.float64) for part in (a, b))
        light = np.abs(new - old).sum() / max(1.0, np.maximum(new, old).sum())
        if light < _SHOT_LIGHT:
            return False
        return (
            stayed
            or _correlation(new, old) < _SHOT_CORRELATION
            or np.abs(_colors(a) - _colors(b)).sum() / 2 > _SHOT_COLORS
        )


def _without_bars(a: Image, b: Image) -> tuple[Image, Image]:
    """Return two images without the rows and columns at their borders that are black in both.

    The same black bars in two shots would make them alike.
    """
    lit = np.maximum(a, b).max(axis=2) > _BLACK
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    if not len(rows):
        return a, b
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return a[part], b[part]


def _colors(image: Image) -> NDArray[np.float64]:
    """Return the fraction of the pixels in each bin of colors."""
    bins = (image.astype(np.int64) * _BINS // 256).reshape(-1, 3) @ [_BINS**2, _BINS, 1]
    return np.bincount(bins, minlength=_BINS**3) / len(bins)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    norms = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norms if norms else 0.0
