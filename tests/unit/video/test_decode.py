"""Films as cameras, recorders and editors leave them; each was once read wrongly, or not at all."""

from fractions import Fraction
from functools import partial

import av
import cv2
import numpy as np
import pytest
from commands import run
from films import SIZE, encode_film, frames, join_films, make_film

from facereel.data.readers.videos import read_video
from facereel.errors import UserError
from facereel.system.skipped import Skipped
from facereel.video import TrackSettings, Video, decode, find_tracks
from facereel.video.decode import count_frames
from facereel.video.frame_image import Decoded, to_image

RATE = 25
START, END, LENGTH = 0.6, 1.8, 2.4


def scene(*names, length=LENGTH, rate=RATE, size=None):
    """No people, then people from START to END, then no people."""
    for i, image in enumerate(frames(*names, seconds=length, fps=rate, appear_s=START)):
        if i / rate >= END - 1e-6:
            image = empty(image)
        yield image if size is None else cv2.resize(image, size)


def empty(image):
    return next(frames(seconds=0.1, fps=10)) if image.shape[:2] == (SIZE[1], SIZE[0]) else image


def textured(count):
    """Frames that encode their number in their brightness, and have more than one color."""
    stripes = np.where(np.arange(SIZE[0]) // 20 % 2, 12, -12)[None, :, None]
    return [np.full((SIZE[1], SIZE[0], 3), 40 + 8 * i + stripes, np.uint8) for i in range(count)]


def number_of(image):
    return round((float(image.mean()) - 40) / 8)


def tracks_of(path, **settings):
    video = Video(path)
    return video, [(t.start_s, t.end_s) for t in find_tracks(video, TrackSettings(**settings))]


def is_at(found, *expected, within=0.11):
    return len(found) == len(expected) and np.allclose(found, expected, atol=within)


def photo(width=SIZE[0], height=SIZE[1]):
    """An image without symmetry."""
    image = np.full((height, width, 3), 60, np.uint8)
    cv2.circle(image, (width // 4, height // 3), height // 6, (40, 200, 90), -1)
    cv2.rectangle(image, (width // 2, height // 2), (width - 20, height - 60), (200, 60, 220), -1)
    return image


def difference(a, b):
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b).mean())


def first_of(path):
    return next(Video(path).sample(5)).image


# On a GPU


def test_gpu_that_cannot_decode_leaves_it_to_the_cpu(tmp_path, monkeypatch):
    """As in a container with a GPU, but without NVIDIA's library for video."""
    real, devices = av.open, []

    def without_library(*arguments, hwaccel=None, **options):
        if hwaccel is not None:
            devices.append(hwaccel.device_id)
            raise av.error.PermissionError(1, "Operation not permitted")
        return real(*arguments, **options)

    film = encode_film(tmp_path / "a.mp4", "mpeg4", scene("Anna"))
    expected = [frame.image for frame in Video(film).sample(5)]
    monkeypatch.setattr(av, "open", without_library)
    found = [frame.image for frame in Video(film, "cuda:1").sample(5)]
    assert devices == [1]
    assert len(found) == 30
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("fields", ["", "tff"])
def test_pixels_in_the_format_of_a_gpu_give_the_same_image(tmp_path, fields):
    """A GPU returns frames with interleaved colors."""
    film = encode_film(tmp_path / "a.mkv", "ffv1", [photo()] * 6, fields=fields)
    with av.open(film) as container:
        frames = list(container.decode(video=0))
    images = [
        to_image(Decoded(one, 1.0, 0.0, fields), None, None) for one in (frames[0], frames[0].reformat(format="nv12"))
    ]
    assert difference(*images) < 1.5  # they are rounded differently


# Interlaced


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "codec", "fields", "options"),
    [
        ("dv.avi", "dvvideo", "bff", {}),
        ("dvd.mpg", "mpeg2video", "tff", {"b": "4M"}),
        ("broadcast.ts", "mpeg2video", "tff", {"b": "4M"}),
        ("camera.mts", "libx264", "tff", {"x264-params": "tff=1"}),
        ("camera.mp4", "libx264", "bff", {"x264-params": "bff=1"}),
        ("archive.mkv", "ffv1", "tff", {}),
        ("editor.mov", "prores_ks", "bff", {}),
    ],
)
def test_faces_in_an_interlaced_video_are_found(tmp_path, name, codec, fields, options):
    film = encode_film(
        tmp_path / name, codec, scene("Anna", rate=50, size=(720, 576)), 50, fields=fields, sound_s=0.0, **options
    )
    video, found = tracks_of(film)
    assert is_at(found, (START, END - 0.2), within=0.21)
    assert video.faults == []


@pytest.mark.parametrize(
    ("name", "codec"), [("dv.avi", "dvvideo"), ("editor.mov", "prores_ks"), ("motion.mov", "mjpeg")]
)
def test_interlaced_frames_are_deinterlaced(tmp_path, name, codec):
    """A bright bar moves 12 pixels from field to field: frames as they are stored would have a comb at its edges."""

    def bars():
        for i in range(50):
            image = np.full((576, 720, 3), 30, np.uint8)
            image[:, 20 + 12 * i : 80 + 12 * i] = 220
            yield image

    film = encode_film(tmp_path / name, codec, bars(), 50, fields="bff")
    for frame in Video(film).sample(5):
        lines = frame.image[100:476, :, 1].astype(int)
        # Of the 12 columns at either edge on every second line a comb would make a difference of 190.
        assert np.abs(np.diff(lines, axis=0)).mean() < 1.0


@pytest.mark.slow
def test_faces_are_found_before_and_after_a_change_to_interlaced(tmp_path):
    size = (720, 576)
    films = [
        encode_film(tmp_path / "p.ts", "mpeg2video", scene("Anna", size=size), RATE, b="4M"),
        encode_film(tmp_path / "i.ts", "mpeg2video", scene("Bert", rate=50, size=size), 50, fields="tff", b="4M"),
    ]
    _, found = tracks_of(join_films(tmp_path / "both.ts", *films))
    assert is_at(found, (START, END - 0.2), (LENGTH + START, LENGTH + END - 0.2), within=0.21)


@pytest.mark.slow
def test_data_set_crops_interlaced_video(tmp_path):
    from facereel.data import load_faces

    images = (cv2.resize(image, (720, 576)) for image in frames("Anna", seconds=2, fps=50))
    film = encode_film(tmp_path / "film.avi", "dvvideo", images, 50, fields="bff")
    skipped = Skipped()
    rows = read_video(film, skipped, person="a", clip="b", source="c", key="d")
    faces = load_faces(rows, skipped, size=64, detector="mtcnn", max_frames=100)
    assert faces.outcomes == {"aligned on landmarks found by the detector": 50}


# Clocks


def test_one_late_timestamp_loses_no_frame(tmp_path):
    film = encode_film(
        tmp_path / "late.mkv", "mpeg4", scene("Anna"), RATE, stamp=lambda i, pts: pts + 3_600_000 * (i == 20)
    )
    video, found = tracks_of(film)
    assert is_at(found, (START, END - 0.2))
    assert not video.is_truncated


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "codec"), [("ts", "libx264"), ("vob", "mpeg2video"), ("mpg", "mpeg1video")])
def test_two_recordings_in_one_file_are_both_searched(tmp_path, ending, codec):
    films = [
        encode_film(tmp_path / f"{name}.{ending}", codec, scene(name), RATE, sound_s=LENGTH, b="3M")
        for name in ("Anna", "Cleo")
    ]
    video, found = tracks_of(join_films(tmp_path / f"both.{ending}", *films))
    assert is_at(found, (START, END - 0.2), (LENGTH + START, LENGTH + END - 0.2), within=0.15)
    assert not video.is_truncated


def test_no_track_spans_two_recordings(tmp_path):
    """Not even where the same person is at the same place in both."""
    film = encode_film(tmp_path / "a.ts", "libx264", frames("Anna", seconds=2, fps=RATE), RATE)
    _, found = tracks_of(join_films(tmp_path / "both.ts", film, film))
    assert is_at(found, (0.0, 1.8), (2.0, 3.8))


@pytest.mark.parametrize(("ending", "codec"), [("h264", "libx264"), ("m4v", "mpeg4"), ("m2v", "mpeg2video")])
def test_stream_without_timestamps_is_timed_by_its_frames(tmp_path, ending, codec):
    _, found = tracks_of(encode_film(tmp_path / f"raw.{ending}", codec, scene("Anna"), RATE))
    assert is_at(found, (START, END - 0.2))


def test_negative_start_time_is_shifted_to_zero(tmp_path):
    film = encode_film(tmp_path / "below.asf", "mpeg4", scene("Anna"), RATE, shift=-2 * RATE)
    with av.open(str(film)) as container:
        assert container.start_time == -2_000_000
    _, found = tracks_of(film)
    assert is_at(found, (START, END - 0.2))


def test_a_gap_in_a_recording_ends_a_track(tmp_path):
    times = [40 * i + (8000 if i >= 50 else 0) for i in range(100)]
    film = encode_film(tmp_path / "gap.mkv", "mpeg4", frames("Anna", seconds=4, fps=RATE), RATE, times_ms=times)
    _, found = tracks_of(film)
    assert is_at(found, (0.0, 1.96), (10.0, 11.8))


def test_time_is_counted_from_the_start_of_the_file(tmp_path):
    film = encode_film(
        tmp_path / "late.mp4",
        "libx264",
        scene("Anna"),
        RATE,
        shift=5 * RATE,
        sound_s=LENGTH,
    )
    with av.open(str(film)) as container:
        assert container.start_time == 0
    video, found = tracks_of(film)
    assert is_at(found, (5 + START, 5 + END - 0.2))
    assert not video.is_truncated


# Slides


def slides(*names):
    """An image of each person, each against another background."""
    for i, name in enumerate(names):
        yield next(frames(name, seconds=0.1, seed=i)) // (1 + i % 2)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.webm", "libvpx"), ("a.avi", "mpeg4"), ("a.mkv", "mpeg4"), ("a.ts", "libx264")],
)
def test_every_slide_is_sampled(tmp_path, name, codec):
    film = encode_film(tmp_path / name, codec, slides("Anna", "Bert", "Cleo", "Dora"), Fraction(1, 4))
    video, found = tracks_of(film)
    assert [round(start, 1) for start, _ in found] == [0.0, 4.0, 8.0, 12.0]
    # The same as in a video of 25 frames per second; not every file states how long the last frame is shown.
    assert [round(end, 1) for _, end in found[:-1]] == [3.8, 7.8, 11.8]
    assert not video.is_truncated


def test_people_on_similar_slides_are_separate_tracks(tmp_path):
    """Portraits: each at the same place before the same background."""
    names = ("Anna", "Bert", "Cleo", "Dora")
    images = [next(frames(name, seconds=0.1, seed=0)) for name in names]
    _, found = tracks_of(encode_film(tmp_path / "portraits.mp4", "libx264", images, Fraction(1, 4)))
    assert [start for start, _ in found] == [0.0, 4.0, 8.0, 12.0]


@pytest.mark.slow
def test_slides_count_as_repeated_frames(tmp_path):
    seconds = [2, 4, 3, 5, 1]
    images = list(slides("Anna", "Bert", "Cleo", "Dora", "Emil"))
    times = [1000 * sum(seconds[:i]) for i in range(len(seconds))]
    sparse = encode_film(tmp_path / "sparse.mkv", "mpeg4", images, times_ms=times)
    repeated = encode_film(
        tmp_path / "full.mkv", "mpeg4", (images[i] for i, n in enumerate(seconds) for _ in range(RATE * n)), RATE
    )
    found, expected = tracks_of(sparse)[1], tracks_of(repeated)[1]
    assert len(expected) == 5
    assert np.allclose(found[:-1], expected[:-1], atol=0.05)
    assert found[-1][0] == pytest.approx(expected[-1][0], abs=0.05)


def test_still_after_a_burst_of_frames_is_sampled(tmp_path):
    """A recording of a screen: frames come while something moves."""
    quiet = empty(next(frames()))
    images = [quiet] * 12 + list(slides("Anna")) * 2 + [quiet] * 12
    times = [40 * i for i in range(14)] + [8000 + 40 * i for i in range(12)]
    film = encode_film(tmp_path / "screen.webm", "libvpx", images, times_ms=times)
    _, found = tracks_of(film)
    assert is_at(found, (0.5, 0.52))


def test_face_in_a_single_image_with_sound_is_found(tmp_path):
    film = encode_film(tmp_path / "song.mp4", "libx264", slides("Anna"), RATE, sound_s=6.0)
    _, found = tracks_of(film)
    assert len(found) == 1


def test_sparse_frames_of_one_scene_are_one_track(tmp_path):
    times = [2000 * i for i in range(6)]
    images = [next(frames("Anna", seconds=0.1))] * 6
    _, found = tracks_of(encode_film(tmp_path / "lapse.mkv", "mpeg4", images, times_ms=times))
    assert len(found) == 1
    assert found[0][0] == 0.0
    assert found[0][1] >= 10.0


# Shapes


@pytest.mark.parametrize(
    ("stored", "aspect"), [((160, 240), Fraction(2)), ((320, 120), Fraction(1, 2)), ((240, 240), Fraction(4, 3))]
)
@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "mpeg4"), ("a.ts", "libx264")])
def test_pixels_are_made_square(tmp_path, stored, aspect, name, codec):
    image = photo()
    film = encode_film(
        tmp_path / name,
        codec,
        [cv2.resize(image, stored, interpolation=cv2.INTER_AREA)] * 8,
        RATE,
        change=lambda stream: setattr(stream.codec_context, "sample_aspect_ratio", aspect),
    )
    assert difference(first_of(film), cv2.resize(image, first_of(film).shape[1::-1])) < 8
    height, width = first_of(film).shape[:2]
    assert width / height == pytest.approx(4 / 3, abs=0.01)


def test_faces_are_equal_with_and_without_square_pixels(tmp_path):
    def crops(path, **how):
        film = encode_film(path, "libx264", how.pop("images"), RATE, **how)
        (track,) = find_tracks(Video(film), TrackSettings())
        return track.crops

    images = list(frames("Anna", seconds=1, fps=RATE))
    square = crops(tmp_path / "square.mp4", images=images)
    narrow = crops(
        tmp_path / "narrow.mp4",
        images=[cv2.resize(image, (160, 240), interpolation=cv2.INTER_AREA) for image in images],
        change=lambda stream: setattr(stream.codec_context, "sample_aspect_ratio", Fraction(2)),
    )
    for a, b in zip(square, narrow, strict=True):
        assert difference(a.image, b.image) < 8


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", ["", "hflip", "vflip"])
def test_frames_are_rotated_and_mirrored_as_the_file_states(tmp_path, degrees, flip):
    image = photo()
    how = {flip: True} if flip else {}
    film = encode_film(
        tmp_path / "a.mp4",
        "libx264",
        [image] * 8,
        RATE,
        change=lambda stream: stream.set_display_rotation(degrees, **how),
    )
    expected = np.rot90(image, degrees // 90)
    if flip:
        expected = expected[:, ::-1] if flip == "hflip" else expected[::-1]
    assert difference(first_of(film), np.ascontiguousarray(expected)) < 6


def test_video_with_changing_size_is_decoded_completely(tmp_path):
    films = [
        encode_film(tmp_path / "a.ts", "libx264", frames("Anna", seconds=2, fps=RATE), RATE),
        encode_film(
            tmp_path / "b.ts",
            "libx264",
            (cv2.resize(image, (640, 360)) for image in frames("Bert", seconds=2, fps=RATE)),
            RATE,
        ),
    ]
    film = join_films(tmp_path / "both.ts", *films)
    assert {frame.image.shape for frame in Video(film).sample(5)} == {(240, 320, 3), (360, 640, 3)}
    _, found = tracks_of(film)
    assert is_at(found, (0.0, 1.8), (2.0, 3.8), within=0.15)


def _set_aspect(stream, aspect):
    stream.codec_context.sample_aspect_ratio = aspect


def test_video_with_changing_pixel_aspect_is_decoded_completely(tmp_path):
    image = photo(240, 240)
    films = [
        encode_film(
            tmp_path / f"{n}.ts",
            "mpeg2video",
            [image] * 25,
            RATE,
            change=partial(_set_aspect, aspect=aspect),
        )
        for n, aspect in enumerate((Fraction(4, 3), Fraction(16, 9)))
    ]
    shapes = [frame.image.shape for frame in Video(join_films(tmp_path / "both.ts", *films)).sample(5)]
    assert shapes[0] == (240, 320, 3)
    assert shapes[-1] == (240, 427, 3)


# Reports about a video


@pytest.mark.parametrize("kind", ["sound", "start", "slow", "gap"])
def test_complete_videos_are_not_reported_as_truncated(tmp_path, kind):
    images = textured(20)
    if kind == "sound":  # which goes on
        film = encode_film(tmp_path / "a.mkv", "mpeg4", images, RATE, sound_s=9.0)
    elif kind == "start":
        film = encode_film(tmp_path / "a.mkv", "mpeg4", images, RATE, shift=100_000 * RATE)
    elif kind == "slow":
        film = encode_film(tmp_path / "a.mp4", "mpeg4", images, Fraction(1, 10))
    else:
        times = [40 * i + (60_000 if i > 9 else 0) for i in range(20)]
        film = encode_film(tmp_path / "a.mkv", "mpeg4", images, times_ms=times)
    video = Video(film)
    assert len(list(video.sample(5))) > 3
    assert not video.is_truncated
    assert video.faults == []


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.mp4"])
def test_truncated_videos_are_reported(tmp_path, name):
    film = (
        make_film(tmp_path / name, "Anna", seconds=8)
        if name == "a.avi"
        else encode_film(tmp_path / name, "mpeg4", frames("Anna", seconds=8, fps=RATE), RATE, sound_s=8.0, g="5")
    )
    if name == "a.mp4":
        film.write_bytes(_index_first(film))
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    video = Video(film)
    assert list(video.sample(5))
    assert video.is_truncated


def _index_first(film):
    """An MP4's content with its index before its frames, as files for the web have it."""
    other = film.with_name("web.mp4")
    with av.open(str(film)) as source, av.open(str(other), "w", container_options={"movflags": "faststart"}) as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return other.read_bytes()


def test_single_color_video_is_reported(tmp_path, capfd):
    black = [np.zeros((240, 320, 3), np.uint8)] * 50
    film = encode_film(tmp_path / "black.mp4", "libx264", black, RATE)
    assert run("ingest", film, "--out", tmp_path / "out") == 0
    assert (
        f"note: faces may be missing from {film}: 10 of the 10 sampled frames have a single color\n"
        in capfd.readouterr().out
    )


def test_unknown_codec_is_reported_in_one_line(tmp_path):
    film = encode_film(tmp_path / "a.avi", "mpeg4", scene("Anna"), RATE)
    film.write_bytes(film.read_bytes().replace(b"FMP4", b"zz!?"))
    with pytest.raises(UserError, match=r"a\.avi: cannot decode the video: FFmpeg has no decoder for it"):
        Video(film)


def test_undecodable_frames_are_reported(tmp_path, capfd):
    images = frames("Anna", seconds=4, fps=RATE)
    film = encode_film(tmp_path / "damaged.avi", "mjpeg", images, RATE)
    content = bytearray(film.read_bytes())
    with av.open(str(film)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for place, size in places[20:70]:
        content[place + 20 : place + size] = bytes(size - 20)
    film.write_bytes(content)
    assert run("ingest", film, "--out", tmp_path / "out") == 0
    out = capfd.readouterr().out
    assert f"{film}: 2 tracks" in out
    assert f"note: faces may be missing from {film}: 50 of 100 frames cannot be decoded\n" in out


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_audio_file_is_reported(tmp_path, name):
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("aac" if name == "a.mp4" else "mp2", rate=48000, layout="mono")
        samples = np.zeros((1, 1024 if name == "a.mp4" else 1152))
        for i in range(50):
            frame = av.AudioFrame.from_ndarray(
                samples.astype(np.float32) if name == "a.mp4" else samples.astype(np.int16),
                "fltp" if name == "a.mp4" else "s16",
                "mono",
            )
            frame.rate, frame.pts = 48000, i * samples.shape[1]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UserError, match="the file has no video, only sound"):
        Video(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "codec", "expected"),
    [("a.mp4", "libx264", 20), ("a.mkv", "mpeg4", 20), ("a.ts", "mpeg2video", 20), ("a.avi", "mjpeg", 20)],
)
def test_the_frames_of_every_container_are_counted(tmp_path, name, codec, expected):
    assert count_frames(encode_film(tmp_path / name, codec, textured(20), RATE)) == expected


def test_data_set_reads_every_frame_once(tmp_path):
    film = encode_film(tmp_path / "a.mkv", "libx264", textured(20), RATE)
    numbers = [number_of(frame.image) for _, frame in Video(film).frames(range(20))]
    assert numbers == list(range(20))


@pytest.mark.parametrize(
    ("comment", "message"),
    [("", "a text file"), ("# a byte that no text has: \x01\n", "cannot decode the video")],
)
def test_playlist_cannot_read_other_files(tmp_path, comment, message):
    """FFmpeg would: it opens what a list names, whatever the list is called."""
    make_film(tmp_path / "other.mp4", "Anna", seconds=1)
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\n{comment}file other.mp4\n")
    with av.open(str(tmp_path / "list.mp4"), options={"safe": "0"}) as container:
        assert next(container.decode(video=0))
    with pytest.raises(UserError, match=message):
        Video(tmp_path / "list.mp4")


def test_urls_are_not_opened(tmp_path):
    film = make_film(tmp_path / "film.mp4", "Anna", seconds=1)
    for address in ("http://127.0.0.1:9/film.mp4", f"async:{film}", f"cache:{film}"):
        with pytest.raises(av.error.FFmpegError):
            av.open(address, options=decode._OPTIONS)
