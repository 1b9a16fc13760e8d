"""Assign increasing times to the frames of a video, even if its timestamps are broken."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import pairwise
from statistics import median
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

# A step longer than both limits, in seconds and in usual steps, is not trusted immediately.
_JUMP_S = 1.0
_JUMP_STEPS = 10.0
# A clock that jumped is trusted after this number of frames in a row; fewer are broken timestamps.
_TRUSTED = 8
# The usual step is the median of this number of steps.
_N_STEPS = 31
# If two frames have the same time, to a microsecond, the second is placed this number of steps later.
_LEAST_STEPS = 0.1
_TICK_S = 1e-6


class Timed(NamedTuple, Generic[T]):
    """A frame and its time."""

    seconds: float
    """Time from the start of the video in seconds, larger than that of the frame before."""
    jumped: bool
    """Whether the clock jumped since the frame before: nothing was recorded between them."""
    frame: T


class Timeline(Generic[T]):
    """Assign increasing times to frames.

    Timestamps may be broken (a packet stamped an hour late), start again (two recordings in one file), jump ahead (a
    gap in a recording), or be missing. A broken timestamp is replaced by one between its neighbors. Where timestamps
    start again, time continues with a usual step. A gap keeps its length. This is our choice.

    Args:
        start: timestamp of the video's start, in seconds.
        step: nominal time between two frames, in seconds.
        longest_gap: timestamps that jump further ahead, in seconds, count as those of another clock.
    """

    def __init__(self, start: float, step: float, longest_gap: float = float("inf")) -> None:
        self._longest_gap = longest_gap
        self._steps: deque[float] = deque(maxlen=_N_STEPS)
        self._nominal = step
        self._last = start - step  # as stamped
        self._now = -step
        self._pending: list[tuple[float, T]] = []

    @property
    def step(self) -> float:
        """The usual time between two frames in seconds."""
        return median(self._steps) if self._steps else self._nominal

    @property
    def _longest_step(self) -> float:
        return max(_JUMP_S, _JUMP_STEPS * self.step)

    def run(self, stamped: Iterable[tuple[float | None, T]]) -> Iterator[Timed[T]]:
        """Yield each frame with its time.

        Args:
            stamped: frames in display order, each with its timestamp in seconds or None.
        """
        for stamp, frame in stamped:
            if stamp is None:
                stamp = (self._pending[-1][0] if self._pending else self._last) + self.step
            yield from self._take(stamp, frame)
        yield from self._trust()

    def _take(self, stamp: float, frame: T) -> Iterator[Timed[T]]:
        if self._pending:
            first = self._pending[0][0]
            if stamp >= first if first > self._last else stamp <= self._last:
                self._pending.append((stamp, frame))
                if len(self._pending) == _TRUSTED:
                    yield from self._trust()
                return
            yield from self._mend(stamp)
        ahead = stamp - self._last
        if 0 < ahead <= _JUMP_S or 0 < ahead <= self._longest_step:
            yield self._timed(stamp, frame)
        else:
            self._pending.append((stamp, frame))

    def _mend(self, stamp: float) -> Iterator[Timed[T]]:
        """Yield frames with broken timestamps, placed between the last frame and a frame with this timestamp."""
        step = self.step
        if stamp > self._last:
            step = min(step, (stamp - self._last) / (len(self._pending) + 1))
        if self._now < 0:  # they are the first
            self._now = -step
        for _, frame in self._pending:
            self._last += step
            yield self._advanced(step, False, frame)
        self._pending.clear()

    def _trust(self) -> Iterator[Timed[T]]:
        """Yield the pending frames by a clock that jumped, or with steps that are longer than nominal."""
        stamps = [stamp for stamp, _ in self._pending]
        self._steps.extend(after - before for before, after in pairwise(stamps) if after > before)
        for place, (stamp, frame) in enumerate(self._pending):
            jumped = place == 0 and not self._last < stamp <= self._last + self._longest_step
            if jumped and not 0 < stamp - self._last <= self._longest_gap:
                self._last = stamp - self.step
            yield self._timed(stamp, frame, jumped)
        self._pending.clear()

    def _timed(self, stamp: float, frame: T, jumped: bool = False) -> Timed[T]:
        step = stamp - self._last
        if step > 0 and not jumped:
            self._steps.append(step)
        self._last = stamp
        return self._advanced(step, jumped, frame)

    def _advanced(self, step: float, jumped: bool, frame: T) -> Timed[T]:
        self._now = max(0.0, self._now + (step if step > _TICK_S else max(_TICK_S, _LEAST_STEPS * self.step)))
        return Timed(self._now, jumped, frame)
