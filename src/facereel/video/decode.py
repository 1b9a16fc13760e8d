"""Decode video files to upright frames with square pixels and increasing times."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import torch
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from facereel.errors import UserError
from facereel.video.detector import Image
from facereel.video.frame_image import Decoded, to_image
from facereel.video.timeline import Timed, Timeline

# FFmpeg opens these formats too, but they refer to other files or hosts, or are images or text.
_NOT_VIDEOS = (
    *("adf", "bin", "concat", "dash", "ffmetadata", "hls", "idf", "image2", "imf", "lavfi", "rtp", "rtsp", "sap"),
    *("sdp", "smoothstreaming", "tty", "webm_dash_manifest", "xbin"),
)
_FORMATS = ",".join(
    name for name in sorted(av.formats_available) if name not in _NOT_VIDEOS and not name.endswith("_pipe")
)
_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": _FORMATS,
    # Otherwise FFmpeg moves timestamps that start again ahead by 26 hours.
    "correct_ts_overflow": "0",
}

_CPU = torch.device("cpu")

# Formats that are chosen by the file extension: judged by its first bytes, such a video would be an image.
_RAW = {".mjpeg": "mjpeg", ".mjpg": "mjpeg"}

# FFmpeg's AVFMT_NOTIMESTAMPS, which PyAV does not name.
_NO_TIMESTAMPS = 0x80
# FFmpeg's AVFieldOrder; 1 is progressive.
_FIELD_ORDERS = {2: "tff", 3: "bff", 4: "bff", 5: "tff"}
# A duration in a header of more than a month is wrong.
_LONGEST_S = 31 * 24 * 3600.0
# Frames per second of a file that does not state its rate.
USUAL_RATE = 25.0
# Formats without a duration in a header. Their timestamps are the sender's clock: a longer gap, in seconds, is a change
# to another clock.
_BROADCAST = frozenset(("mpegts", "mpeg"))
_LONGEST_GAP_S = 600.0
# A frame that is shown at least this long is a slide or a still. If it is longer than this number of usual steps, it is
# a gap in a recording, unless the file states how long frames are shown and all are shown long.
_LONG_S = 0.5
_GAP_STEPS = 10.0
# A larger aspect ratio of a pixel is a mistake.
_LARGEST_ASPECT = 8.0
# An image has a single color if the standard deviation of no channel exceeds this, on a scale of 255.
_FLAT = 2.5
# A video is reported if more than these fractions of its frames have a single color, or cannot be decoded.
_NEARLY_ALL = 0.95
_MANY = 0.05
# Number of read errors in a row after which the rest of a file is skipped.
_MOST_ERRORS = 100


class Frame(NamedTuple):
    """A frame of a video."""

    seconds: float
    """Time from the start of the file, as players show it."""
    image: Image
    """(H, W, 3) BGR uint8, upright, of square pixels, deinterlaced."""
    stays_s: float = 0.0
    """Seconds for which the frame is shown, if it is a slide; else 0."""
    waits_s: float = 0.0
    """Seconds until the next frame, if that is unusually long (a gap or a still); else 0."""
    jumped: bool = False
    """Whether something is missing before the frame, or its size differs: tracks end here."""


class _Shown(NamedTuple):
    """A decoded frame between its neighbors."""

    before: Timed[Decoded] | None
    this: Timed[Decoded]
    after: Timed[Decoded] | None
    stays_s: float
    waits_s: float

    def frame(self, jumped: bool = False) -> Frame:
        """Return the frame with its image."""
        neighbors = [None if other is None else other.frame.frame for other in (self.before, self.after)]
        image = to_image(self.this.frame, *neighbors)
        return Frame(self.this.seconds, image, self.stays_s, self.waits_s, jumped or self.this.jumped)


class Video:
    """A video file, decoded sequentially because seeking is not exact in every container.

    Frames are deinterlaced, have square pixels, and are rotated and mirrored as the file states.

    Args:
        file: a video file in a format that FFmpeg reads.
        device: device that decodes: a CUDA GPU does if it knows the codec, else the CPU. Images are on the CPU.

    Raises:
        UserError: if the file cannot be opened, or none of its frames can be decoded.
    """

    def __init__(self, file: str | Path, device: torch.device | str = "cpu") -> None:
        self.file, self._device = Path(file), torch.device(device)
        self.seen_s = 0.0
        """The end of the part that was decoded, in seconds."""
        self._furthest_s = 0.0  # by its own timestamps, which may be broken
        self._step_s = 0.0
        self._n_packets = self._n_decoded = self._n_interlaced = self._n_sampled = self._n_flat = 0
        with open_video(self.file) as (container, stream):  # a GPU takes longer to start than to decode a frame
            length = (container.duration or 0) / av.time_base
            if container.format.name == "avi" and stream.average_rate:  # else the rest of a truncated file
                length = max(length, float(stream.frames / stream.average_rate))
            if "matroska" in container.format.name and 0 < _start_s(container) < length:
                length -= _start_s(container)  # their duration includes the start time
            self.announced_s: float | None = length if 0 < length < _LONGEST_S else None
            """The duration according to the header, in seconds; None if unknown."""
            self._has_header = container.format.name not in _BROADCAST and not container.format.flags & _NO_TIMESTAMPS
            if next(self._decode(container, stream), None) is None:
                raise UserError(f"{file}: cannot decode the video ({stream.codec_context.name})")

    def sample(self, rate: float) -> Iterator[Frame]:
        """Yield the first frame in every interval of 1 / rate seconds, and frames that are shown long.

        Args:
            rate: maximum number of frames per second.
        """
        self._n_sampled = self._n_flat = 0
        due, jumped, size = 0, False, None
        for shown in self._shown():
            seconds = shown.this.seconds
            jumped |= shown.this.jumped
            # Timestamps are rounded: the due frame may be slightly early.
            if seconds * rate + 1e-3 < due and not shown.stays_s and not shown.waits_s:
                continue
            due = int(seconds * rate + 1e-3) + 1
            frame = shown.frame(jumped)
            self._n_sampled += 1
            self._n_flat += is_flat(frame.image)
            if size not in (None, frame.image.shape):
                frame = frame._replace(jumped=True)
            jumped, size = False, frame.image.shape
            yield frame

    def frames(self, positions: Sequence[int]) -> Iterator[tuple[int, Frame]]:
        """Decode frames by number.

        Args:
            positions: frame numbers in increasing order.

        Yields:
            The index into `positions`, and the frame; missing frames are skipped.
        """
        place = 0
        for number, shown in enumerate(self._shown()):
            if number == positions[place]:
                yield place, shown.frame()
                place += 1
                if place == len(positions):
                    return

    @property
    def is_truncated(self) -> bool:
        """Whether the video is clearly shorter than its header states; valid after `sample`."""
        if self.announced_s is None or not self._has_header:
            return False
        tolerance = max(1.0, 0.02 * self.announced_s, _GAP_STEPS * self._step_s)
        return max(self.seen_s, self._furthest_s) < self.announced_s - tolerance

    @property
    def faults(self) -> list[str]:
        """Reasons why faces may have been missed; valid after `sample`."""
        found = []
        # Some interlaced videos have a packet for each of a frame's two fields.
        has_fields = 2 * self._n_interlaced > self._n_decoded and 2 * self._n_decoded < 1.1 * self._n_packets
        n_expected = self._n_packets // 2 if has_fields else self._n_packets
        n_lost = n_expected - self._n_decoded
        if n_lost > max(1, _MANY * n_expected):
            found.append(f"{n_lost} of {n_expected} frames cannot be decoded")
        if self._n_sampled and self._n_flat >= _NEARLY_ALL * self._n_sampled:
            found.append(f"{self._n_flat} of the {self._n_sampled} sampled frames have a single color")
        return found

    def _shown(self) -> Iterator[_Shown]:
        """Yield all frames, with how long each is shown."""
        with open_video(self.file, self._device) as (container, stream):
            self._n_packets = self._n_decoded = self._n_interlaced = 0
            rate = float(stream.average_rate or stream.guessed_rate or USUAL_RATE)
            gap = _LONGEST_GAP_S if container.format.name in _BROADCAST else float("inf")
            timeline: Timeline[Decoded] = Timeline(_start_s(container), 1 / rate, gap)
            before = this = None
            for after in timeline.run(self._decode(container, stream)):
                self.seen_s = max(self.seen_s, after.seconds)
                if this is not None:
                    yield self._between(before, this, after, timeline)
                    before = this
                this = after
            self._step_s = timeline.step
            if this is not None:
                yield self._between(before, this, None, timeline)
                self.seen_s += this.frame.declared_s or timeline.step

    def _between(
        self,
        before: Timed[Decoded] | None,
        this: Timed[Decoded],
        after: Timed[Decoded] | None,
        timeline: Timeline[Decoded],
    ) -> _Shown:
        usual_s, declared_s = timeline.step, this.frame.declared_s
        if after is not None:
            lasts_s = after.seconds - this.seconds
        elif before is None:  # the only one
            lasts_s = usual_s = max(declared_s, self.announced_s or 0.0)
        else:
            lasts_s = max(declared_s, usual_s) if usual_s >= _LONG_S else 0.0
            usual_s = usual_s if declared_s >= lasts_s else 0.0  # how long it is shown is unknown
        if lasts_s < _LONG_S - 1e-6:
            return _Shown(before, this, after, 0.0, 0.0)
        is_declared = usual_s >= _LONG_S and declared_s >= 0.9 * lasts_s
        if is_declared or (lasts_s <= _GAP_STEPS * usual_s + 1e-6 and not (after is not None and after.jumped)):
            return _Shown(before, this, after, lasts_s, 0.0)
        return _Shown(before, this, after, 0.0, lasts_s)

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[tuple[float | None, Decoded]]:
        """Yield all decodable frames, with their timestamps in seconds."""
        ticks_s = {one.index: float(one.time_base or 0) for one in container.streams}
        has_clock = not container.format.flags & _NO_TIMESTAMPS
        is_avi = container.format.name == "avi"
        tick_s, first_dts, delay = ticks_s[stream.index], None, None
        # For some codecs, such as Motion JPEG, only the container states the field order.
        order = _FIELD_ORDERS.get(stream.codec_context.field_order, "") if stream.codec.intra_only else ""
        aspects = _Aspects(stream)
        for packet in _packets(container):
            index = packet.stream.index
            if packet.dts is not None:
                end = max(packet.dts, packet.pts or packet.dts) + (packet.duration or 0)
                self._furthest_s = max(self._furthest_s, end * ticks_s.get(index, 0.0))
            if index != stream.index:
                continue
            self._n_packets += bool(packet.size) and not packet.is_discard
            first_dts = packet.dts if first_dts is None else first_dts
            frames: list[VideoFrame] = []
            with suppress(av.error.FFmpegError):  # counted: packets without a frame
                frames = packet.decode()
            for frame in frames:
                self._n_decoded += 1
                fields = "auto" if frame.interlaced_frame else order
                self._n_interlaced += bool(fields)
                stamp = frame.dts if frame.pts is None else frame.pts
                if is_avi and frame.dts is not None:
                    # AVI only states when frames are decoded, which is before they are shown.
                    delay = frame.dts - (first_dts or 0) if delay is None else delay
                    stamp = frame.dts - delay
                decoded = Decoded(frame, aspects.now(), (frame.duration or 0) * tick_s, fields)
                yield None if stamp is None or not has_clock else stamp * tick_s, decoded


class _Aspects:
    """Aspect ratio of a stream's pixels: the container's, until the codec's differs from that of the first frame."""

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._first: Fraction | None = None
        self._last: tuple[Fraction | None, float] | None = None

    def now(self) -> float:
        """Return width over height of the pixels of the last decoded frame."""
        codec = self._stream.codec_context.sample_aspect_ratio
        if self._last is None:
            self._first = codec
        elif codec == self._last[0]:
            return self._last[1]
        aspect = float((self._stream.sample_aspect_ratio if codec == self._first else None) or codec or 1)
        is_sane = 1 / _LARGEST_ASPECT <= aspect <= _LARGEST_ASPECT
        self._last = codec, aspect if is_sane else 1.0
        return self._last[1]


def count_frames(file: str | Path) -> int:
    """Count the frames of a video file.

    Args:
        file: the video file.

    Returns:
        The number in the header, or else the number of packets; 0 if the file cannot be opened.
    """
    try:
        with open_video(Path(file)) as (container, stream):
            if stream.frames > 0:
                return stream.frames
            return sum(
                packet.stream.index == stream.index and packet.size > 0 and not packet.is_discard
                for packet in _packets(container)
            )
    except UserError:
        return 0


def is_flat(image: Image) -> bool:
    """Return whether an (H, W, 3) uint8 image has a single color."""
    small = image[:: max(1, image.shape[0] // 32), :: max(1, image.shape[1] // 32)]
    return bool(small.std(axis=(0, 1)).max() < _FLAT)


@contextmanager
def open_video(file: Path, device: torch.device = _CPU) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video file.

    Args:
        file: the file.
        device: device that decodes, see `Video`.

    Yields:
        The file and its best video stream.

    Raises:
        UserError: if the file is missing or not a video.
    """
    if not file.is_file():
        raise UserError(f"{file}: there is no such file")
    if not file.stat().st_size:
        raise UserError(f"{file}: the file is empty")
    if _is_text(file):
        raise UserError(f"{file}: a text file, not a video")
    try:
        container = _open(file, device)
    except (av.error.FFmpegError, ValueError) as error:
        raise UserError(f"{file}: cannot decode the video") from error
    with container:
        stream = container.streams.best("video")
        # A cover is an image in a sound file.
        if not isinstance(stream, VideoStream) or stream.disposition & stream.disposition.attached_pic:
            raise UserError(f"{file}: the file has no video" + (", only sound" if container.streams.audio else ""))
        if stream.codec_context is None:
            raise UserError(f"{file}: cannot decode the video: FFmpeg has no decoder for it")
        stream.thread_type = "AUTO"
        yield container, stream


def _open(file: Path, device: torch.device) -> InputContainer:
    open_file = partial(
        av.open, str(file.absolute()), "r", _RAW.get(file.suffix.lower()), _OPTIONS, metadata_errors="replace"
    )
    if device.type == "cuda":
        # A machine may have a GPU but not NVIDIA's library for video, as containers that were not given it.
        with suppress(av.error.FFmpegError):
            return open_file(hwaccel=HWAccel("cuda", str(device.index or 0)))
    return open_file()


def _packets(container: InputContainer) -> Iterator["av.Packet[Any]"]:
    """Yield all packets of all streams; unreadable ones are skipped."""
    n_errors = 0
    while n_errors < _MOST_ERRORS:
        try:
            for packet in container.demux():
                n_errors = 0
                yield packet
            return
        except av.error.FFmpegError:
            n_errors += 1


def _start_s(container: InputContainer) -> float:
    """Return the timestamp of the start of the file in seconds."""
    return (container.start_time or 0) / av.time_base


def _is_text(file: Path) -> bool:
    """Return whether a file starts without any of the control bytes that every container has.

    FFmpeg opens playlists, which are text and name other files: an untrusted playlist must not make it read those.
    """
    with file.open("rb") as opened:
        head = opened.read(400)
    is_text = bool(head) and not any(byte < 9 or 13 < byte < 32 for byte in head)
    return is_text and not head.startswith(b"YUV4MPEG2 ")
