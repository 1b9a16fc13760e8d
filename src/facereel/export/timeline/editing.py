"""Intervals for editing programs, by OpenTimelineIO: .otio, CMX 3600 EDL and Final Cut Pro 7 XML.

All clips are in one video track, one after the other. A clip's range is in the timecode of its file, and a marker at
its first frame has the people's names and the probability.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from facereel.errors import UserError
from facereel.export.timeline.tables import describe_interval, one_line
from facereel.retrieval.intervals import Interval
from facereel.system.optional import import_opentimelineio
from facereel.video.media_facts import MediaFacts, read_media_facts

# The format has three digits for the number of an event, and eight characters for a reel.
_MOST_EVENTS = 999
_REEL = 8
_LONGEST_TITLE = 70
# Rates that have a timecode (SMPTE ST 12-1, and twice as many frames).
_TIMECODE_RATES = (
    *(Fraction(rate * 1000, 1001) for rate in (24, 30, 48, 60)),
    *(Fraction(rate) for rate in (24, 25, 30, 48, 50, 60)),
)


def to_otio(intervals: Sequence[Interval], title: str) -> str:
    """Return intervals as OpenTimelineIO JSON, in the exact rates of the files.

    Args:
        intervals: the intervals, at least one.
        title: title of the timeline.

    Returns:
        The content of the file.

    Raises:
        UserError: if OpenTimelineIO is not installed, or a video cannot be read.
    """
    otio = import_opentimelineio()
    clips = _clips(intervals, timecode_rates=False)
    timeline = _timeline(title, [_otio_clip(clip, clip.frames, float(clip.rate)) for clip in clips])
    return otio.adapters.write_to_string(timeline, "otio_json")


def to_fcp_xml(intervals: Sequence[Interval], title: str) -> str:
    """Return intervals as Final Cut Pro 7 XML; the sequence has the highest rate of its files.

    Args:
        intervals: the intervals, at least one.
        title: title of the sequence.

    Returns:
        The content of the file.

    Raises:
        UserError: if OpenTimelineIO is not installed, or a video cannot be read.
    """
    otio = import_opentimelineio()
    made = []
    for clip in _clips(intervals, timecode_rates=True):
        # The format counts a marker's frames from the start of the file.
        one = _otio_clip(clip, clip.frames, float(clip.rate), marker=clip.frames.start - clip.start_frame)
        one.media_reference.name = one.name
        if clip.facts.drop_frame:
            one.media_reference.metadata["fcp_xml"] = {"timecode": {"displayformat": "DF"}}
        made.append(one)
    return otio.adapters.write_to_string(_timeline(title, made), "fcp_xml")


def to_edl(intervals: Sequence[Interval], title: str) -> str:
    """Return intervals as a CMX 3600 edit decision list, whose timecode is all of one rate.

    A marker is a comment `* LOC`, with the timecode of the file.

    Args:
        intervals: the intervals, at least one.
        title: title of the list.

    Returns:
        The content of the file.

    Raises:
        UserError: if OpenTimelineIO is not installed, a video cannot be read, the videos have several frame rates, or
            there are too many intervals.
    """
    otio = import_opentimelineio()
    clips = _clips(intervals, timecode_rates=True)
    if len(clips) > _MOST_EVENTS:
        raise UserError(f"an EDL has at most {_MOST_EVENTS} events, not {len(clips):,}: choose .otio or .xml")
    kinds = {(clip.rate, clip.drop_frame) for clip in clips}
    if len(kinds) > 1:
        rates = ", ".join(
            f"{float(rate):.6g}{' with drop frame' if drop else ''}" for rate, drop in sorted(kinds, reverse=True)
        )
        raise UserError(
            f"an EDL has one frame rate, and these videos have {len(kinds)} ({rates} per second): choose one video, "
            ".otio or .xml"
        )
    ((rate, drop_frame),) = kinds
    # The adapter would drop frame numbers of every 29.97. Without drop frame, timecode counts as if there were 30.
    counted = float(rate) if drop_frame else float(max(1, round(rate)))
    reels = _reels([clip.interval.video for clip in clips])
    made = []
    for clip in clips:
        one = _otio_clip(clip, clip.frames, counted)
        one.metadata["cmx_3600"] = {"reel": reels[clip.interval.video]}
        made.append(one)
    text = otio.adapters.write_to_string(
        _timeline(title[:_LONGEST_TITLE], made), "cmx_3600", rate=counted, reelname_len=None
    )
    mode = f"FCM: {'DROP FRAME' if drop_frame else 'NON-DROP FRAME'}\n"
    head, _, events = text.partition("\n\n")
    return f"{head}\n{mode}{events}"


@dataclass(frozen=True)
class _Clip:
    """An interval in the frames of its file's timecode."""

    interval: Interval
    facts: MediaFacts
    rate: Fraction

    @property
    def drop_frame(self) -> bool:
        return self.facts.drop_frame

    @property
    def start_frame(self) -> int:
        """The number of the file's first frame at the rate of the clip."""
        return round(self.facts.start_frame * self.rate / self.facts.rate)

    @property
    def n_frames(self) -> int:
        """The number of frames of the file; if it is unknown, up to the end of the interval."""
        known_s = self.facts.duration_s
        return max(1, self._frame(self.interval.end_s if known_s is None else known_s))

    @property
    def frames(self) -> range:
        """The frames of the interval, at least one, all of them in the file."""
        first = min(self._frame(self.interval.start_s), self.n_frames - 1)
        last = max(first + 1, min(self._frame(self.interval.end_s), self.n_frames))
        return range(self.start_frame + first, self.start_frame + last)

    def _frame(self, seconds: float) -> int:
        """Return the nearest frame; halves are rounded up, so that equal durations have equal numbers of frames."""
        return math.floor(seconds * self.rate + 0.5)


def _clips(intervals: Sequence[Interval], timecode_rates: bool) -> list[_Clip]:
    """Return the clips of intervals; if `timecode_rates`, at the nearest rate that has a timecode."""
    facts = {video: read_media_facts(video) for video in dict.fromkeys(one.video for one in intervals)}
    rates = {video: _timecode_rate(one.rate) if timecode_rates else one.rate for video, one in facts.items()}
    return [_Clip(one, facts[one.video], rates[one.video]) for one in intervals]


def _timecode_rate(rate: Fraction) -> Fraction:
    return min(_TIMECODE_RATES, key=lambda one: abs(one - rate))


def _otio_clip(clip: _Clip, frames: range, rate: float, marker: int | None = None) -> Any:
    """Return a clip of OpenTimelineIO.

    Args:
        clip: the interval.
        frames: its frames.
        rate: frames per second.
        marker: frame of the marker, if it is not the first one.
    """
    otio = import_opentimelineio()
    video = Path(clip.interval.video)

    def span(start: int, duration: int) -> Any:
        time = otio.opentime.RationalTime
        return otio.opentime.TimeRange(time(start, rate), time(duration, rate))

    sure = "" if clip.interval.probability is None else f" ({clip.interval.probability:.2f})"
    return otio.schema.Clip(
        name=one_line(video.name),
        media_reference=otio.schema.ExternalReference(
            target_url=video.absolute().as_uri(), available_range=span(clip.start_frame, clip.n_frames)
        ),
        source_range=span(frames.start, len(frames)),
        markers=[
            otio.schema.Marker(
                name=one_line(", ".join(clip.interval.people)) + sure,
                marked_range=span(frames.start if marker is None else marker, 1),
                color=otio.schema.MarkerColor.GREEN,
            )
        ],
        metadata={"facereel": {**describe_interval(clip.interval), "drop_frame": clip.drop_frame}},
    )


def _timeline(title: str, clips: Sequence[Any]) -> Any:
    otio = import_opentimelineio()
    timeline = otio.schema.Timeline(one_line(title))
    timeline.tracks.append(otio.schema.Track("people", clips, kind=otio.schema.TrackKind.Video))
    return timeline


def _reels(videos: Sequence[str]) -> dict[str, str]:
    """Return a name of at most eight letters and digits for each video, all different."""
    reels: dict[str, str] = {}
    for video in dict.fromkeys(videos):
        name = re.sub("[^A-Z0-9]", "", Path(video).stem.upper()) or "REEL"
        reel, number = name[:_REEL], 1
        while reel in reels.values():
            number += 1
            reel = f"{name[: _REEL - len(str(number))]}{number}"
        reels[video] = reel
    return reels
