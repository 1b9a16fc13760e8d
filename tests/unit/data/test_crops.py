from typing import Any

import cv2
import numpy as np
import pytest
from detectors import FixedDetector, standard_landmarks
from drawn_faces import draw_face, make_video, write
from films import write_film

from facereel.data import Row
from facereel.data.crops import CropSettings, Outcome, crop_face, crop_faces, crop_rows
from facereel.errors import UserError
from facereel.video import Face, align_face
from facereel.video.align import TEMPLATE
from facereel.video.image_file import Unreadable, read_image


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "face.png"
    image = np.full((200, 240, 3), 30, np.uint8)
    image[40:168, 60:188] = draw_face(1, np.random.default_rng(0), size=128)
    write(path, image)
    return path, image


def crop_one(row, **settings):
    batch = crop_rows([row], CropSettings(**settings))
    return batch.crops[0], Outcome(batch.outcomes[0]), batch.landmarks[0]


def test_crop_repeats_the_border_outside_the_image():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    crop = crop_face(image, (-2, -2, 4, 4), size=4, margin=1.0)
    assert (crop[:2, :2] == image[0, 0]).all()
    assert np.array_equal(crop[2:, 2:], image[:2, :2])


def test_larger_margin_widens_the_crop():
    image = np.zeros((40, 40, 3), np.uint8)
    image[15:25, 15:25] = 255
    assert crop_face(image, (15, 15, 10, 10), size=10, margin=1.0).min() == 255
    wide = crop_face(image, (15, 15, 10, 10), size=20, margin=2.0)
    assert (wide[5:15, 5:15] == 255).all()
    assert wide.astype(int).sum() == 255 * 3 * 100


def test_landmarks_take_precedence_over_box_and_fraction(photo):
    path, image = photo
    points = tuple(float(v) for v in (TEMPLATE + 40).ravel())
    row = Row("a", "", "s", "k", str(path), box=(60, 40, 128, 128), landmarks=points)
    crop, outcome, landmarks = crop_one(row, size=112)
    assert outcome is Outcome.GIVEN
    assert landmarks.tolist() == pytest.approx(points)
    # The landmarks are the template's own, moved: so the crop is the image, moved.
    assert np.abs(crop[::-1].transpose(1, 2, 0).astype(int) - image[40:152, 40:152]).max() <= 1
    crop, outcome, landmarks = crop_one(row._replace(landmarks=None), size=128, margin=1.0)
    assert outcome is Outcome.BOX
    assert np.isnan(landmarks).all()
    assert np.array_equal(crop[::-1].transpose(1, 2, 0), image[40:168, 60:188])
    wide = crop_one(row._replace(landmarks=None, box=(80, 60, 80, 80)), size=120, margin=1.5)[0]
    assert np.array_equal(wide[::-1].transpose(1, 2, 0), image[40:160, 60:180])
    crop, outcome, _ = crop_one(row._replace(landmarks=None, box=None, central_fraction=0.5), size=50, margin=1.0)
    assert outcome is Outcome.CENTRAL
    assert np.array_equal(crop, crop_one(row._replace(landmarks=None, box=(60, 50, 120, 100)), size=50, margin=1.0)[0])
    crop, outcome, _ = crop_one(row._replace(landmarks=None, box=None), size=60, margin=1.7)
    assert outcome is Outcome.WHOLE
    assert np.array_equal(crop, crop_one(row._replace(landmarks=None, box=(0, 0, 240, 200)), size=60, margin=1.0)[0])


def test_invalid_landmarks_fall_back_to_the_box(photo):
    row = Row("a", "", "s", "k", str(photo[0]), box=(60, 40, 128, 128), landmarks=(5.0,) * 10)
    assert crop_one(row)[1] is Outcome.BOX


@pytest.mark.parametrize(
    "box",
    [(240, 0, 10, 10), (0, 200, 10, 10), (-20, 0, 20, 10), (0, -9, 9, 9), (0, 0, 9000, 9000), (9, 9, 0, 9)],
)
def test_box_outside_the_image_is_a_fault(photo, box):
    row = Row("a", "", "s", "k", str(photo[0]), box=box)
    crop, outcome, _ = crop_one(row)
    assert outcome is Outcome.OUTSIDE
    assert outcome.is_fault
    assert not crop.any()
    assert crop_one(row._replace(box=(-20, -20, 60, 60)))[1] is Outcome.BOX  # partly inside


def test_outcome_names_the_fault_of_a_file(tmp_path, photo):
    content = cv2.imencode(".jpg", photo[1])[1].tobytes()
    # An embedded thumbnail has its own end mark.
    thumbnail = b"\xff\xd8\xff\xe1\x00\x10" + cv2.imencode(".jpg", photo[1][:8, :8])[1].tobytes() + content[2:]
    files = {
        "half.jpg": content[: len(content) // 2],
        "unmarked.jpg": content[:-2],
        "thumbnail.jpg": thumbnail[:-40],
        "empty.jpg": b"",
        "text.jpg": b"not an image",
        "half.png": photo[0].read_bytes()[:300],
        "good.jpg": content,
        "padded.jpg": content + b"\0" * 5000,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.jpg").mkdir()
    found = {name: read_image(tmp_path / name) for name in [*files, "absent.jpg", "folder.jpg"]}
    truncated = {name for name, what in found.items() if what is Unreadable.TRUNCATED}
    assert truncated == {"half.jpg", "thumbnail.jpg"}
    assert found["empty.jpg"] is Unreadable.EMPTY
    assert found["absent.jpg"] is Unreadable.ABSENT
    assert found["folder.jpg"] is Unreadable.REFUSED
    assert all(found[name] is Unreadable.UNREADABLE for name in ("text.jpg", "half.png"))
    good: list[Any] = [found[name] for name in ("good.jpg", "padded.jpg", "unmarked.jpg")]
    assert all(image.shape == photo[1].shape for image in good)


def test_box_ignores_exif_orientation(tmp_path):
    """The EXIF orientation is applied to a photo, but not to an image with a box."""
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, :20] = 255
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6
    (tmp_path / "turned.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    turned = read_image(tmp_path / "turned.jpg")
    assert not isinstance(turned, Unreadable)
    assert turned.shape == (40, 20, 3)
    row = Row("a", "", "s", "k", str(tmp_path / "turned.jpg"), box=(22, 2, 16, 16))
    crop, outcome, _ = crop_one(row, size=16, margin=1.0)
    assert outcome is Outcome.BOX  # turned, the box would lie outside
    assert crop.max() < 15


@pytest.mark.slow
def test_one_and_two_processes_give_equal_crops(photo, monkeypatch):
    from facereel.data import crops

    monkeypatch.setattr(crops, "_FEW_ROWS", 0)
    monkeypatch.setattr(crops, "_CHUNK", 2)
    rows = [Row("a", "", "s", str(i), str(photo[0]), box=(60 - i, 40, 100, 100)) for i in range(5)]
    rows[3] = rows[3]._replace(file="absent.png")
    advanced = []
    one, two = (crop_faces(rows, CropSettings(16), n, advanced.append) for n in (1, 2))
    assert np.array_equal(one.crops, two.crops)
    assert one.outcomes.tolist() == two.outcomes.tolist() == [2, 2, 2, 7, 2]
    assert sum(advanced) == 2 * len(rows)


def test_shrinking_averages_pixels():
    """Stripes of one pixel must come out gray; single pixels would alias them."""
    image = np.zeros((900, 900, 3), np.uint8)
    image[:, ::2] = 255
    crop = align_face(image, (TEMPLATE * 8).ravel().tolist(), size=112)
    assert np.abs(crop[1:-1, 1:-1].astype(int) - 127.5).max() < 15


def test_shrinking_does_not_shift():
    """An image enlarged by whole pixels and its landmarks: aligned, it is the image again."""
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8), (5, 5), 1)
    large = image.repeat(6, axis=0).repeat(6, axis=1)
    crop = align_face(large, (TEMPLATE * 6 + 2.5).ravel().tolist(), size=112)
    assert np.abs(crop.astype(int) - image).max() <= 2


def test_alignment_rotates_a_face_upright_and_scales_it_by_the_margin():
    angle = np.deg2rad(40)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (TEMPLATE - 56) @ turn.T * 2 + (300, 260)
    image = np.zeros((600, 600, 3), np.uint8)
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), 3, (255, 255, 255), -1)
    crop = align_face(image, points.ravel().tolist(), size=112)
    for x, y in TEMPLATE:
        assert crop[round(y), round(x)].min() > 200
    wide = align_face(image, points.ravel().tolist(), size=112, margin=2.4)
    for x, y in (TEMPLATE - 56) / 2 + 56:
        assert wide[round(y), round(x)].min() > 100


def test_alignment_matches_the_reference_crops(shared):
    reference = np.load(shared / "weights" / "mobilefacenet_reference.npz")
    for path, landmarks, rgb in zip(reference["path"], reference["landmarks"], reference["rgb"], strict=True):
        image = read_image(shared / "data" / "lfw" / str(path))
        assert not isinstance(image, Unreadable)
        difference = align_face(image, landmarks.ravel().tolist(), 112)[:, :, ::-1].astype(int) - rgb
        assert np.abs(difference).max() <= 3  # versions of OpenCV interpolate differently
        assert np.abs(difference).mean() < 0.3


def test_one_wrong_landmark_does_not_move_the_face():
    points = TEMPLATE.copy()
    points[2] += 60
    image = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    assert np.array_equal(
        align_face(image, points.ravel().tolist(), 112), align_face(image, TEMPLATE.ravel().tolist(), 112)
    )


@pytest.mark.parametrize("factor", [1e-4, 30, 500])
def test_landmarks_too_small_or_large_give_no_crop(factor):
    """A crop of them would be one color, or take gigabytes."""
    image = np.zeros((112, 112, 3), np.uint8)
    assert align_face(image, ((TEMPLATE - 56) * factor + 56).ravel().tolist(), 64) is None


def test_landmarks_outside_the_image_give_no_crop():
    image = np.zeros((112, 112, 3), np.uint8)
    assert align_face(image, (TEMPLATE + np.array([70, 0], np.float32)).ravel().tolist(), 64) is None
    assert align_face(image, (TEMPLATE + np.array([40, 0], np.float32)).ravel().tolist(), 64) is not None


def test_degenerate_landmarks_give_no_crop():
    image = np.zeros((10, 10, 3), np.uint8)
    assert align_face(image, (1.0,) * 10, 8) is None
    assert align_face(image, (np.nan, *(1.0,) * 9), 8) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size=0"),
        ({"margin": 0.0}, "margin=0"),
        ({"margin": 1e9}, "margin=1"),
        ({"detector": "/no/such.onnx"}, "detector=/no/such.onnx: there is no such file"),
    ],
)
def test_invalid_settings_raise(settings, message):
    with pytest.raises(UserError, match=message):
        CropSettings(**settings)


def test_frames_of_a_missing_or_damaged_video_are_faults(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    make_video(tmp_path / "good.mp4", person=0, n_frames=3)
    rows = [
        Row("a", n, n, f"{n}{i}", str(tmp_path / n), i)
        for n in ("broken.mp4", "absent.mp4", "good.mp4")
        for i in (0, 5)
    ]
    outcomes = [Outcome(o).name for o in crop_rows(rows, CropSettings(16)).outcomes]
    assert outcomes == ["UNREADABLE", "UNREADABLE", "ABSENT", "ABSENT", "WHOLE", "BEYOND"]


def striped(brightness):
    """(64, 64, 3) uint8 with this mean brightness."""
    return (
        np.full((64, 64, 3), brightness, np.uint8) + np.where(np.arange(64) // 8 % 2, 20, -20).astype(np.uint8)[:, None]
    )


def bright_face(image):
    """One face in images of some brightness, and nothing elsewhere."""
    face = Face((5.0, 5.0, 40.0, 40.0), standard_landmarks(5, 5, scale=0.4), 0.9)
    return [face] if abs(image.mean() - 200) < 8 else []


@pytest.mark.parametrize(("seen", "name"), [(4, "FOUND"), (0, "WHOLE")])
def test_video_frames_are_cropped_to_the_main_face(tmp_path, monkeypatch, seen, name):
    from facereel.data import crops

    write_film(tmp_path / "film.avi", (striped(200 if i < seen else 40) for i in range(12)))
    monkeypatch.setattr(crops, "_detector", lambda name: FixedDetector(bright_face))
    rows = [Row("a", "film", "film", str(i), str(tmp_path / "film.avi"), i) for i in range(12)]
    batch = crop_rows(rows, CropSettings(16, detector="mtcnn"))
    outcomes = [Outcome(o).name for o in batch.outcomes]
    assert outcomes == ([name] * 4 + ["OFF_TRACK"] * 8 if seen else ["WHOLE"] * 12)
    assert [bool(crop.any()) for crop in batch.crops] == ([True] * 4 + [False] * 8 if seen else [True] * 12)
    assert not Outcome.OFF_TRACK.is_fault


def test_face_in_few_frames_is_a_false_detection(tmp_path, monkeypatch):
    from facereel.data import crops

    write_film(tmp_path / "film.avi", (striped(200 if i < 2 else 40) for i in range(24)))
    monkeypatch.setattr(crops, "_detector", lambda name: FixedDetector(bright_face))
    rows = [Row("a", "film", "film", str(i), str(tmp_path / "film.avi"), i) for i in range(24)]
    assert set(crop_rows(rows, CropSettings(16, detector="mtcnn")).outcomes) == {Outcome.WHOLE}
