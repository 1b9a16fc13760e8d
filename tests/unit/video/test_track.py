import numpy as np
import pytest
from drawn_faces import draw_face

from facereel.video import Face, ShotChanges, Tracker
from facereel.video.track import MIN_CORRELATION_IN_BOX, look_in_box, look_of


def face(x, size=10.0):
    return Face((x, 0.0, size, size), (0.0,) * 10, 0.9)


def follow(frames, rate=5.0):
    tracker = Tracker()
    return [tracker.update(i / rate, faces) for i, faces in enumerate(frames)]


def test_faces_are_linked_by_overlap():
    still = face(50)
    frames = [[face(0)], [face(2), still], [still, face(4)], [], [face(8)], [face(200)]]
    assert follow(frames) == [[0], [0, 1], [1, 0], [], [0], [2]]


def test_moving_face_is_linked_by_velocity():
    steady = [[face(4.0 * i)] for i in range(3)]
    # Two frames later it has moved by 12 pixels with a size of 10: only the velocity links it.
    assert follow([*steady, [], [], [face(20.0)]])[-1] == [0]
    assert follow([[face(8.0)], [face(8.0)], [face(8.0)], [], [], [face(20.0)]])[-1] == [1]


@pytest.mark.parametrize(("missing", "track"), [(4, 0), (5, 1)])
def test_face_missing_for_more_than_a_second_starts_a_new_track(missing, track):
    assert follow([[face(0)], *[[]] * missing, [face(0)]])[-1] == [track]


def test_two_faces_of_a_frame_are_in_different_tracks():
    assert follow([[face(0)], [face(1), face(2)]]) == [[0], [0, 1]]


def test_no_track_spans_a_shot_change():
    tracker = Tracker()
    assert tracker.update(0.0, [face(0)]) == [0]
    assert tracker.update(0.2, [face(0)], new_shot=True) == [1]
    assert tracker.open == {1}


def look(angle):
    """A vector of length 1; the correlation of two is the cosine of the angle between them."""
    return np.array([np.cos(angle), np.sin(angle)])


@pytest.mark.parametrize(
    ("likeness", "stays_s", "track"), [(0.4, 0.0, 0), (0.3, 0.0, 1), (0.85, 2.0, 0), (0.75, 2.0, 1)]
)
def test_face_of_another_appearance_starts_a_new_track(likeness, stays_s, track):
    tracker = Tracker()
    assert tracker.update(0.0, [face(0)], stays_s=stays_s, looks=[look(0)]) == [0]
    assert tracker.update(0.2 + stays_s, [face(0)], looks=[look(np.arccos(likeness))]) == [track]


def test_appearance_does_not_depend_on_light():
    crop = np.random.default_rng(0).integers(40, 160, (200, 200, 3)).astype(np.uint8)
    brighter = np.clip(crop * 1.3 + 20, 0, 255).astype(np.uint8)
    assert look_of(crop) @ look_of(crop) == pytest.approx(1)
    assert look_of(crop) @ look_of(brighter) > 0.99
    assert abs(look_of(crop) @ look_of(np.ascontiguousarray(crop[::-1]))) < 0.5
    assert np.isfinite(look_of(np.zeros((16, 16, 3), np.uint8))).all()


def test_look_in_box_follows_the_face():
    image = np.full((200, 300, 3), 120, np.uint8)
    image[40:160, 60:180] = draw_face(0, np.random.default_rng(0), 120)
    look = look_in_box(image, (60.0, 40.0, 120.0, 120.0))
    assert look.shape == (576,)
    assert look @ look == pytest.approx(1)
    moved = np.roll(image, (20, 50), axis=(0, 1)) // 2 + 60
    assert look @ look_in_box(moved, (110.0, 60.0, 120.0, 120.0)) > 0.99
    # A box that is a little off, and another face.
    assert look @ look_in_box(image, (64.0, 37.0, 118.0, 122.0)) > MIN_CORRELATION_IN_BOX
    for box in ((-50.0, -50.0, 80.0, 80.0), (290.0, 190.0, 90.0, 120.0), (20.0, 20.0, 0.5, 0.5)):
        assert np.isfinite(look_in_box(image, box)).all()


def test_tracker_links_looks_of_at_least_its_correlation():
    for least, track in ((0.2, 0), (0.4, 1)):
        tracker = Tracker(least)
        assert tracker.update(0.0, [face(0)], looks=[look(0)]) == [0]
        assert tracker.update(0.2, [face(0)], looks=[look(np.arccos(0.3))]) == [track]


def scene(seed, size=(90, 160)):
    """Blobs of a few colors, as an image has them."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (4, 6, 3)).astype(np.uint8)
    return np.kron(small, np.ones((size[0] // 4 + 1, size[1] // 6 + 1, 1), np.uint8))[: size[0], : size[1]]


def test_shot_changes_differ_from_movement_and_light():
    is_cut = ShotChanges()
    first, second = scene(0), scene(1)
    shown = [
        first,
        np.roll(first, 6, axis=1),  # the camera pans
        np.clip(np.roll(first, 6, axis=1) * 1.1, 0, 255).astype(np.uint8),  # the light changes
        second,
        second,
        first,
    ]
    assert [is_cut(image) for image in shown] == [False, False, False, True, False, True]


@pytest.mark.parametrize("bars", [0, 40, 100])
def test_black_bars_do_not_hide_a_shot_change(bars):
    rows, columns = np.mgrid[:180, : 320 - 2 * bars]
    shots = []
    for color, dark in (((200, 120, 60), 40), ((120, 180, 230), 90)):
        frame = np.zeros((180, 320, 3), np.uint8)
        person = (np.abs(columns - 160 + bars) < 50) & (rows > 40)
        frame[:, bars : 320 - bars] = np.where(person[..., None], dark, color)
        shots.append(frame)
    is_cut = ShotChanges()
    assert [is_cut(frame) for frame in (shots[0], shots[0], shots[1], shots[1])] == [False, False, True, False]


def test_moving_face_is_not_a_shot_change():
    random, is_cut = np.random.default_rng(0), ShotChanges()
    person = draw_face(3, random)
    for x in range(0, 96, 12):
        image = scene(0)
        image[20:84, x : x + 64] = person
        assert not is_cut(image)
