"""Faces of one frame after another to tracks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from facereel.video.detector import Box, Face, Image, overlap

# Two faces belong together when their boxes cover each other by so much of their union, where the face was last or
# where it would be if it went on as before.
_MIN_OVERLAP = 0.25
# A face that is lost for longer starts a new track.
_MAX_GAP_S = 1.0

# A face that is nearest to where another was is still not it if the two look less alike than this: the correlation of
# their crops. In our videos a face has at least 0.41 with itself a fifth of a second later, and different people of
# LFW have 0.33 at the median, and at most 0.74 in 99 of 100 pairs. From one slide to the next only a face that hardly
# changed is the same: to take one person for two does less harm than to take two for one.
_ALIKE = 0.35
_ALIKE_ON_SLIDES = 0.8
_LOOK_SIDE = 24

# A shot ends where so much of the light changes, of what is left of the picture at this size,
_CUT_SIZE = (32, 18)
_CUT_LIGHT = 0.15
# and either the picture before says little of the one after: their correlation is below this. In our videos cuts have
# at most 0.2, movement at least 0.42;
_CUT_CORRELATION = 0.35
# or so much of its colours are others, of so many values a channel: a cut to a picture that is built alike.
_CUT_COLOURS = 0.5
_BINS = 6


Look = NDArray[np.float64]


@dataclass
class _Open:
    number: int
    box: Box
    seconds: float
    until: float
    """How long its last frame was shown."""
    look: Look | None
    velocity: NDArray[np.float64]
    """(4,) of the box, in pixels a second."""

    def expected(self, seconds: float) -> Box:
        left, top, width, height = (np.array(self.box) + self.velocity * (seconds - self.seconds)).tolist()
        return left, top, max(width, 1.0), max(height, 1.0)


class Tracker:
    """Links faces by where they are and where they were heading; shots do not share tracks."""

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._n_tracks = 0

    @property
    def open(self) -> set[int]:
        """The tracks that may go on."""
        return {track.number for track in self._open}

    def update(
        self,
        seconds: float,
        faces: Sequence[Face],
        cut: bool = False,
        stays_s: float = 0.0,
        looks: Sequence[Look] | None = None,
    ) -> list[int]:
        """Take the faces of the next frame.

        Args:
            seconds: its time, later than the last one's.
            faces: in it.
            cut: whether it starts a new shot.
            stays_s: how long it is shown, in seconds, if that is long.
            looks: of each face, as `look_of` gives it; None links by place alone.

        Returns:
            The number of each face's track; no two are the same.
        """
        self._open = [] if cut else [track for track in self._open if seconds - track.until <= _MAX_GAP_S + 1e-6]
        seen: list[Look | None] = [None] * len(faces) if looks is None else [*looks]
        pairs = []
        for t, track in enumerate(self._open):
            places = (track.box, track.expected(seconds))
            pairs += [
                (max(overlap(place, face.box) for place in places), t, f)
                for f, face in enumerate(faces)
                if _may_be(track, seen[f])
            ]
        numbers: dict[int, int] = {}
        taken: set[int] = set()
        for share, t, f in sorted(pairs, key=lambda pair: -pair[0]):
            if share >= _MIN_OVERLAP and t not in taken and f not in numbers:
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


def look_of(crop: Image) -> Look:
    """What a face looks like from one moment to the next, from its (S, S, 3) BGR uint8 crop, aligned.

    Returns:
        (576,) of length 1: the gray middle of the crop, with its mean taken off.
    """
    quarter = crop.shape[0] // 4
    middle = cv2.cvtColor(
        crop[quarter : max(quarter + 1, 3 * quarter), quarter : max(quarter + 1, 3 * quarter)], cv2.COLOR_BGR2GRAY
    )
    look = cv2.resize(middle, (_LOOK_SIDE, _LOOK_SIDE), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
    look -= look.mean()
    return look / max(float(np.linalg.norm(look)), 1e-9)


def _may_be(track: _Open, look: Look | None) -> bool:
    if track.look is None or look is None:
        return True
    return float(track.look @ look) >= (_ALIKE_ON_SLIDES if track.until > track.seconds else _ALIKE)


class ShotCuts:
    """Tells where one shot of a video ends and the next begins, from frames at any rate. Ours."""

    def __init__(self) -> None:
        self._before: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._stays = False

    def __call__(self, image: Image, stays_s: float = 0.0) -> bool:
        """Whether an (H, W, 3) BGR uint8 frame belongs to another shot than the one before it.

        Args:
            image: the frame.
            stays_s: how long it is shown, in seconds, if that is long. What follows such a frame is another slide, or
                the same scene much later: if its light is another, it is taken for another shot.
        """
        small = cv2.resize(image, _CUT_SIZE, interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float64)
        bins = (small.astype(np.int64) * _BINS // 256).reshape(-1, 3) @ [_BINS**2, _BINS, 1]
        colours = np.bincount(bins, minlength=_BINS**3) / len(bins)
        before, self._before = self._before, (grey, colours)
        stayed, self._stays = self._stays, stays_s > 0
        if before is None:
            return False
        light = np.abs(grey - before[0]).sum() / max(1.0, np.maximum(grey, before[0]).sum())
        if light < _CUT_LIGHT:
            return False
        return (
            stayed
            or _correlation(grey, before[0]) < _CUT_CORRELATION
            or np.abs(colours - before[1]).sum() / 2 > _CUT_COLOURS
        )


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    norms = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norms if norms else 0.0
