"""Short films of drawn people in any container and codec, also damaged ones."""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.codec.context import Flags
from av.filter import Graph
from av.video.stream import VideoStream
from drawn_people import SIZE, frames, write_film

__all__ = ["SIZE", "encode_film", "frames", "join_films", "make_film", "turn_film", "write_film"]


def make_film(path: Path, *names: str, fps: int = 10, **how: Any) -> Path:
    """Write `frames`: as MPEG-4 in an .mp4 or .mov, MJPEG in an .avi, or VP8, which every browser plays, in a .webm."""
    images = frames(*names, fps=fps, **how)
    return encode_film(path, "libvpx", images, fps) if path.suffix == ".webm" else write_film(path, images, fps)


def encode_film(
    path: Path,
    codec: str,
    images: Iterable[np.ndarray],
    rate: int | Fraction = 10,
    times_ms: list[int] | None = None,
    *,
    fields: str = "",
    change: Callable[[VideoStream], object] = lambda stream: None,
    stamp: Callable[[int, int], int] = lambda number, pts: pts,
    shift: int = 0,
    sound_s: float = 0.0,
    **options: Any,
) -> Path:
    """Write a film of any container and codec.

    Args:
        path: tells the container.
        codec: FFmpeg's name of it.
        images: frames.
        rate: frames a second.
        times_ms: a time for each frame instead.
        fields: "tff" or "bff": interlaced; the lines of frame 2i and of frame 2i + 1 take turns, and rate counts both.
        change: called with the stream before anything is written.
        stamp: from a packet's number and timestamp to the timestamp that is written.
        shift: all packets come so many frames later.
        sound_s: seconds of a tone, from the start.
        **options: of the codec.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    images = iter(images)
    first = next(images, None)
    images = () if first is None else chain([first], images)
    width, height = SIZE if first is None else first.shape[1::-1]
    # As it comes: FFmpeg would have every film start at zero.
    with av.open(str(path), "w", container_options={"avoid_negative_ts": "disabled"}) as container:
        rate = Fraction(1000) if times_ms else Fraction(rate) / 2 if fields else Fraction(rate)
        stream = cast(VideoStream, container.add_stream(codec, rate=rate, options=options))
        stream.width, stream.height = width, height
        stream.pix_fmt = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le"}.get(codec, "yuv420p")
        if codec == "mjpeg" and fields:
            stream.codec_context.field_order = 2 if fields == "tff" else 3
        elif fields:
            stream.codec_context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        change(stream)
        sound = container.add_stream("mp2", rate=48000, layout="mono") if sound_s else None
        container.start_encoding()  # so that a film of no frames has a header too
        if sound is not None:
            _write_tone(container, sound, sound_s)
        frames = (
            _interlaced(images, fields, stream.pix_fmt)
            if fields
            else (av.VideoFrame.from_ndarray(i, "bgr24") for i in images)
        )
        packets: list[av.Packet[VideoStream]] = []
        for i, frame in enumerate(frames):
            frame.pts = times_ms[i] if times_ms else i
            frame.time_base = 1 / rate
            packets += stream.encode(frame)
        for i, packet in enumerate([*packets, *stream.encode()]):
            assert packet.pts is not None
            assert packet.dts is not None
            ticks = round(shift / rate / packet.time_base)
            packet.pts, packet.dts = stamp(i, packet.pts) + ticks, packet.dts + ticks
            container.mux(packet)
    return path


def _interlaced(images: Iterable[np.ndarray], fields: str, pix_fmt: str) -> Iterator[av.VideoFrame]:
    graph: Graph | None = None
    images = iter(images)
    for first, second in zip(images, images, strict=False):
        woven = first.copy()
        place = 1 if fields == "tff" else 0
        woven[place::2] = second[place::2]
        frame = av.VideoFrame.from_ndarray(woven, "bgr24")
        if graph is None:
            graph = Graph()
            # Converted field by field, as a camera would.
            parts = [
                graph.add_buffer(
                    width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
                ),
                graph.add("setfield", fields),
                graph.add("scale", "interl=1"),
                graph.add("format", pix_fmt),
                graph.add("buffersink"),
            ]
            graph.link_nodes(*parts).configure()
        graph.vpush(frame)
        yield graph.vpull()


def _write_tone(container: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    samples = (8000 * np.sin(np.arange(int(48000 * seconds)) * 0.06)).astype(np.int16)
    for start in range(0, len(samples) - 1151, 1152):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1152], "s16", "mono")
        frame.rate, frame.pts = 48000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def join_films(path: Path, *parts: Path) -> Path:
    """Write films after each other into one file, as `cat` does."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def turn_film(path: Path) -> Path:
    """Write into an .mp4 that it is to be shown a quarter turn clockwise, as phones do."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4
    assert content[start] == 0  # version 0 keeps its matrix 40 bytes on
    matrix = (0, 0x10000, 0, -0x10000 & 0xFFFFFFFF, 0, 0, 0, 0, 0x40000000)
    content[start + 40 : start + 76] = b"".join(value.to_bytes(4, "big") for value in matrix)
    path.write_bytes(content)
    return path
