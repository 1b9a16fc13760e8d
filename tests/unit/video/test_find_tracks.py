import itertools
import sys

import cv2
import numpy as np
import pytest
from detectors import FixedDetector, needs_yunet, standard_landmarks
from films import SIZE, encode_film, frames, make_film, turn_film, write_film

from facereel.errors import UserError
from facereel.video import Face, TrackSettings, Video, find_tracks
from facereel.video.align import TEMPLATE, align_face
from facereel.video.decode import Frame
from facereel.video.detector import overlap
from facereel.video.find_tracks import Crop, FoundTrack, frontal, quality


def shades(count=20):
    """A video in which each frame has a shade of gray that encodes its number."""
    return (np.full((SIZE[1], SIZE[0], 3), 10 * i + 20, np.uint8) for i in range(count))


def number_of(image):
    return round((float(image.mean()) - 20) / 10)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.mp4", "mpeg4", 10),
        ("a.mov", "mpeg4", 10),
        ("a.mkv", "mpeg4", 10),
        ("a.avi", "mpeg4", 10),
        ("a.webm", "libvpx", 10),
        ("a.mpg", "mpeg2video", 25),  # which knows no rate of 10
    ],
)
def test_every_container_is_sampled_by_its_timestamps(tmp_path, name, codec, rate):
    video = Video(encode_film(tmp_path / name, codec, shades(), rate=rate))
    seen = [(round(frame.seconds, 2), number_of(frame.image)) for frame in video.sample(5)]
    step = rate // 5
    assert seen == [(round(0.2 * i, 2), step * i) for i in range(20 // step)]
    assert not video.is_truncated


def test_uneven_timestamps_are_kept(tmp_path):
    times = [0, 40, 80, 500, 540, 580, 1500, 1540, 2000, 2040]
    video = Video(encode_film(tmp_path / "uneven.mkv", "mpeg4", shades(10), times_ms=times))
    # The first frame in every fifth of a second, where there is one, and a frame after which nothing comes for long.
    assert [(round(f.seconds, 2), number_of(f.image)) for f in video.sample(5)] == [
        (0.0, 0),
        (0.5, 3),
        (0.58, 5),
        (1.5, 6),
        (2.0, 8),
    ]


def test_video_filmed_sideways_is_rotated_upright(tmp_path):
    path = make_film(tmp_path / "phone.mp4", "Anna", seconds=1)
    assert next(Video(path).sample(5)).image.shape == (240, 320, 3)
    upright = next(Video(path).sample(5)).image
    turned = next(Video(turn_film(path)).sample(5)).image
    assert turned.shape == (320, 240, 3)
    assert np.abs(np.rot90(upright, -1).astype(int) - turned).mean() < 1


def test_rate_above_the_frame_rate_samples_every_frame(tmp_path):
    assert len(list(Video(encode_film(tmp_path / "a.mp4", "mpeg4", shades())).sample(1000))) == 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"once upon a time\n" * 100, "a text file, not a video"),
        ("#EXTM3U\n#EXTINF:9,Café\nother.ts\n".encode(), "a text file, not a video"),
        (bytes(range(256)) * 9, "cannot decode the video"),
        (None, "there is no such file"),
    ],
)
def test_file_that_is_not_a_video_raises(tmp_path, content, message):
    path = tmp_path / "film.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Video(path)


def test_video_without_frames_raises(tmp_path):
    with pytest.raises(UserError, match="cannot decode the video"):
        Video(encode_film(tmp_path / "empty.mkv", "mpeg4", iter(())))


def test_truncated_video_is_read_to_its_end(tmp_path):
    path = make_film(tmp_path / "half.avi", "Anna", seconds=8)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    video = Video(path)
    (track,) = find_tracks(video, TrackSettings())
    assert video.announced_s == 8.0
    assert video.is_truncated
    assert 2 < track.end_s < 5


def test_people_are_tracked_from_their_first_appearance(tmp_path):
    path = make_film(tmp_path / "late.mp4", "Anna", "Cleo", seconds=3, appear_s=1.0)
    video = Video(path)
    tracks = list(find_tracks(video, TrackSettings(), n_workers=2))
    assert [(round(t.start_s, 2), round(t.end_s, 2), len(t.times)) for t in tracks] == [(1.0, 2.8, 10)] * 2
    assert video.announced_s == 3.0
    left, right = sorted(tracks, key=lambda track: track.boxes[0][0])
    assert left.boxes[0][0] < 160 < right.boxes[0][0] + right.boxes[0][2]
    for track in tracks:
        assert [crop.seconds for crop in track.crops] == track.times
        assert all(crop.image.shape == (200, 200, 3) and 0 <= crop.quality <= 1 for crop in track.crops)


def test_number_of_threads_does_not_change_tracks(tmp_path):
    path = make_film(tmp_path / "film.mp4", "Anna", "Bert", seconds=2)
    one, three = (list(find_tracks(Video(path), TrackSettings(), n)) for n in (1, 3))
    assert [(t.times, t.boxes) for t in one] == [(t.times, t.boxes) for t in three]
    for a, b in zip(one, three, strict=True):
        assert all(np.array_equal(x.image, y.image) for x, y in zip(a.crops, b.crops, strict=True))


def test_no_track_spans_a_shot_change(tmp_path):
    shots = [*frames("Anna", seconds=1, seed=1), *frames("Bert", seconds=1, seed=2)]
    path = write_film(tmp_path / "cut.mp4", iter(shots))
    tracks = list(find_tracks(Video(path), TrackSettings()))
    assert [(round(t.start_s, 1), round(t.end_s, 1)) for t in tracks] == [(0.0, 0.8), (1.0, 1.8)]


def test_face_with_too_few_detections_is_dropped(tmp_path):
    path = make_film(tmp_path / "film.mp4", "Anna", seconds=1)
    assert len(list(find_tracks(Video(path), TrackSettings(min_detections=5)))) == 1
    assert list(find_tracks(Video(path), TrackSettings(min_detections=6))) == []


@pytest.mark.parametrize("length", [4, 7, 8, 100, 1000])
def test_best_crop_of_each_part_is_kept(length):
    track = FoundTrack()
    image = np.zeros((2, 2, 3), np.uint8)
    best = {length // 8: 0.9, length // 2: 0.8, length - 1: 0.95}
    for i in range(length):
        track.add((0, 0, 1, 1), Crop(float(i), best.get(i, 0.1), image), crops_per_track=4)
        assert len(track.crops) < 8
    track.thin(4)
    assert len(track.times) == length
    kept = [crop.seconds for crop in track.crops]
    assert 3 <= len(kept) <= 4
    assert kept == sorted(kept)
    assert set(best) <= set(kept)
    # One from about every quarter: stretches on the way were a little longer than those at the end.
    assert max(b - a for a, b in itertools.pairwise(kept)) <= 0.55 * length
    assert track.best.seconds == length - 1


def at(points, size=100.0, score=1.0):
    return Face((0.0, 0.0, size, size), tuple(float(v) for v in points.ravel()), score)


def test_quality_grows_with_size_sharpness_and_frontal_pose():
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 3)
    aside = TEMPLATE.copy()
    aside[2, 0] += 12
    good = quality(at(TEMPLATE), noise)
    assert 0.5 < good <= 1
    assert quality(at(TEMPLATE, size=50), noise) == pytest.approx(good / 2)
    assert quality(at(TEMPLATE, size=400), noise) == good
    assert quality(at(TEMPLATE, score=0.8), noise) == pytest.approx(0.8 * good)
    assert quality(at(TEMPLATE), blurred) < good
    assert quality(at(aside), noise) < 0.5 * good


def test_frontal_depends_on_the_position_of_the_nose():
    points = np.array([[0, 0], [10, 0], [5, 5], [0, 10], [10, 10]], np.float64)
    for nose, expected in ((5, 1.0), (2.5, 0.5), (0, 0.0), (-3, 0.0), (10, 0.0)):
        points[2, 0] = nose
        assert frontal(tuple(points.ravel())) == pytest.approx(expected)
    # Whichever way the head leans.
    points[2] = 5, 5
    lean = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert frontal(tuple((points @ lean.T).ravel())) == pytest.approx(1.0)
    assert frontal((1.0,) * 10) == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": 0.0}, "fps=0"),
        ({"crops_per_track": 0}, "crops_per_track=0"),
        ({"margin": -1.0}, "margin=-1"),
        ({"min_face": 5}, "min_face=5"),
    ],
)
def test_invalid_settings_raise(settings, message):
    with pytest.raises(UserError, match=message):
        TrackSettings(**settings)


def inexact_detector(places=(100, 60)):
    """A detector that finds one face, whose landmarks are somewhere else when refined."""

    def find(image):
        x, y = places if isinstance(places, tuple) else next(places)
        return [Face((100.0, 60.0, 112.0, 112.0), standard_landmarks(x, y), 0.9)]

    return FixedDetector(find, refine=lambda face: face._replace(landmarks=standard_landmarks(110, 60)))


def test_only_crops_that_may_be_kept_are_refined(tmp_path, monkeypatch):
    path = make_film(tmp_path / "film.mp4", "Anna", seconds=12)
    detector = inexact_detector()
    monkeypatch.setattr(sys.modules[find_tracks.__module__], "make_detector", lambda *_: detector)
    (track,) = find_tracks(Video(path), TrackSettings(crops_per_track=3))
    assert len(track.times) == 60
    assert len(track.crops) <= 3
    assert len(track.crops) <= detector.n_refined < 40
    for crop in track.crops:
        frame = next(frame for frame in Video(path).sample(5) if frame.seconds == crop.seconds)
        expected = align_face(frame.image, standard_landmarks(110, 60), 200, 1.4)
        assert np.array_equal(crop.image, expected)


def test_inexact_landmarks_do_not_break_tracks(tmp_path, monkeypatch):
    path = make_film(tmp_path / "film.mp4", "Anna", seconds=4)
    detector = inexact_detector(itertools.cycle(((100, 60), (112, 45), (90, 70))))
    monkeypatch.setattr(sys.modules[find_tracks.__module__], "make_detector", lambda *_: detector)
    assert [len(track.times) for track in find_tracks(Video(path), TrackSettings())] == [20]


def test_a_device_searches_several_frames_of_one_size_at_once(tmp_path, monkeypatch):
    """The detector is a stand-in, so any device but the CPU's does."""
    path = make_film(tmp_path / "film.mp4", "Anna", seconds=4)
    detector, sizes, devices = inexact_detector(), [], []

    def detect_many(images, min_size=20):
        sizes.append(len(images))
        return [detector.detect(image, min_size) for image in images]

    def make(name, device="cpu"):
        devices.append(device)
        return detector

    monkeypatch.setattr(detector, "detect_many", detect_many)
    monkeypatch.setattr(sys.modules[find_tracks.__module__], "make_detector", make)
    (expected,) = find_tracks(Video(path), TrackSettings())
    assert (sizes, set(devices)) == ([1] * 20, {"cpu"})
    sizes.clear()
    (found,) = find_tracks(Video(path), TrackSettings(), 3, device="meta")
    assert sizes == [16, 4]
    assert "meta" in devices
    assert (found.times, found.boxes) == (expected.times, expected.boxes)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(found.crops, expected.crops, strict=True))


def test_frames_of_another_size_are_searched_apart():
    frames = [Frame(float(i), np.zeros((size, size, 3), np.uint8)) for i, size in enumerate((4, 4, 4, 6, 6, 4))]
    some = sys.modules[find_tracks.__module__]._of_one_size(iter(frames), 2)
    assert [[frame.seconds for frame in part] for part in some] == [[0, 1], [2], [3, 4], [5]]


@needs_yunet
@pytest.mark.slow
@pytest.mark.parametrize(
    "film", ["facerec__short_hamilton_clip", "pyfeat__noface_face", "pyfeat__no_face", "videoretalking__3"]
)
def test_yunet_finds_every_track_of_mtcnn(shared, film):
    (path,) = (shared / "data" / "videos").glob(f"{film}.*")
    expected, found = (list(find_tracks(Video(path), TrackSettings(detector=name))) for name in ("mtcnn", "yunet"))
    assert sum(len(track.times) for track in found) >= sum(len(track.times) for track in expected)
    for track in expected:
        # The seconds at which one track of YuNet is in the same place.
        same = max(
            sum(_is_at(other, t, box) for t, box in zip(track.times, track.boxes, strict=True)) for other in found
        )
        assert same >= 0.95 * len(track.times)
    if film == "pyfeat__no_face":
        assert found == []


def _is_at(track, seconds, box):
    return seconds in track.times and overlap(track.boxes[track.times.index(seconds)], box) > 0.3
