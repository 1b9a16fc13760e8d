from itertools import pairwise

import cv2
import numpy as np
import pytest
from detectors import FixedDetector, needs_yunet
from drawn_people import PEOPLE, draw_background, draw_image, put_person
from films import write_film

from facereel.video import Face, make_detector
from facereel.video.align import TEMPLATE, align_face
from facereel.video.decode import Video
from facereel.video.detector import overlap
from facereel.video.find_faces import _tiles, _turned_back, close_up, find_face, find_faces, find_faces_of_photo
from facereel.video.image_file import read_image


@pytest.fixture(scope="module", params=["mtcnn", pytest.param("yunet", marks=needs_yunet)])
def detector(request):
    return make_detector(request.param)


@pytest.fixture(scope="module", params=["mtcnn", pytest.param("yunet", marks=needs_yunet), "yunet.onnx"])
def any_detector(request, shared):
    return make_detector(str(shared / "weights" / request.param) if request.param == "yunet.onnx" else request.param)


@pytest.fixture(scope="module")
def reference(shared):
    """Stills, and their landmarks from a run of YuNet in another program."""
    content = np.load(shared / "weights" / "mobilefacenet_reference.npz")
    images = [read_image(shared / "data" / "lfw" / str(path)) for path in content["path"]]
    return list(zip(images, content["landmarks"].reshape(-1, 10), strict=True))


def test_landmarks_match_the_reference(any_detector, reference):
    for image, landmarks in reference:
        face = find_face(any_detector, image, None)
        eyes = np.hypot(*(landmarks[2:4] - landmarks[:2]))
        assert np.abs(np.array(face.landmarks) - landmarks).max() < 0.2 * eyes
        assert 0.7 <= face.score <= 1.001


def test_a_box_chooses_among_faces(detector, reference):
    both = np.hstack([reference[0][0], reference[2][0]])
    width = reference[0][0].shape[1]
    assert len(find_faces(detector, both)) >= 2
    for i, x in ((0, 0), (2, width)):
        face = find_face(detector, both, (x + 70, 70, 110, 110))
        moved = reference[i][1].reshape(5, 2) + np.array([x, 0])
        assert np.abs(np.array(face.landmarks).reshape(5, 2) - moved).max() < 12
    assert find_face(detector, both, (0, 0, 30, 30)) is None
    assert find_face(detector, both, (5000, 0, 30, 30)) is None


def finds(*boxes):
    """A detector with given boxes and scores, in pixels of its input."""
    return FixedDetector([Face(box, (box[0], box[1]) * 5, score) for box, score in boxes])


def test_face_with_the_largest_overlap_is_selected():
    image = np.zeros((400, 400, 3), np.uint8)
    # Around the box 248 pixels are shown at a scale of 1: the image's pixels from 32 on.
    detector = finds(((67, 67, 112, 112), 0.8), ((0, 0, 100, 100), 0.99))
    face = find_face(detector, image, (100, 100, 112, 112))
    assert detector.image_shape == (248, 248, 3)
    assert face.score == 0.8
    assert face.box == (99, 99, 112, 112)
    assert face.landmarks[:2] == pytest.approx(face.box[:2])
    assert find_face(finds(((0, 0, 50, 50), 0.99)), image, (100, 100, 112, 112)) is None
    assert find_face(finds(), image, (100, 100, 112, 112)) is None


def test_largest_face_is_returned_in_image_coordinates():
    detector = finds(((10, 20, 30, 30), 0.99), ((100, 50, 60, 60), 0.8))
    face = find_face(detector, np.zeros((480, 960, 3), np.uint8), None)
    assert detector.image_shape == (240, 480, 3)
    assert face.box == (200, 100, 120, 120)


def test_no_face_is_found_without_people(detector):
    for shape in ((200, 300, 3), (5, 5, 3), (13, 400, 3)):
        assert find_faces(detector, np.full(shape, 90, np.uint8)) == []


def draw_group(side, n_across, n_down, width, height):
    """Small people on a large image, and the center of each head."""
    image, heads = draw_background(width, height), []
    for i in range(n_across * n_down):
        left = round((i % n_across + 0.5) * width / n_across - side / 2)
        top = round((i // n_across + 0.5) * height / n_down - side / 2)
        put_person(image, list(PEOPLE)[i % len(PEOPLE)], left, top, side)
        heads.append((left + side / 2, top + side * 0.44))
    return image, heads


def count_hits(faces, heads):
    return sum(
        any(
            face.box[0] < x < face.box[0] + face.box[2] and face.box[1] < y < face.box[1] + face.box[3]
            for face in faces
        )
        for x, y in heads
    )


@pytest.mark.slow
@pytest.mark.parametrize(("k", "side", "size"), [(0, 220, (4000, 3000)), (3, 110, (2000, 1500))])
def test_small_faces_of_a_large_photo_are_found(detector, k, side, size):
    image, heads = draw_group(side, 6, 5, *size)
    assert count_hits(find_faces(detector, image), heads) < 15
    turned = np.ascontiguousarray(np.rot90(image, k))
    # The center of each head after np.rot90.
    for _ in range(k):
        heads = [(y, image.shape[1] - x) for x, y in heads]
        image = np.rot90(image)
    faces = find_faces_of_photo(detector, turned, 40)
    assert count_hits(faces, heads) == len(faces) == 30


@pytest.mark.slow
def test_faces_of_at_least_min_face_are_found(detector):
    image, heads = draw_group(80, 4, 3, 1600, 1200)
    assert count_hits(find_faces(detector, image), heads) < 6
    for faces in (find_faces(detector, image, 40), find_faces_of_photo(detector, image, 40)):
        assert count_hits(faces, heads) == len(faces) == 12
        assert all(40 <= max(face.box[2:]) < 65 for face in faces)
    assert find_faces(detector, image, 80) == []


@pytest.mark.slow
def test_search_for_small_faces_keeps_large_faces(detector):
    image, _ = draw_group(110, 5, 4, 2000, 1500)
    # Drawn at that size it takes a minute.
    image[250:1150, 400:1600] = cv2.resize(draw_image("Anna", width=400, height=300), (1200, 900))
    coarse = find_faces(detector, image)
    assert 1 <= len(coarse) < 8
    refined = [detector.refine(image, face) for face in coarse]
    for faces, kept in ((find_faces(detector, image, 40), coarse), (find_faces_of_photo(detector, image, 40), refined)):
        assert faces[: len(coarse)] == kept
        assert len(faces) > 8
        for i, face in enumerate(faces):
            assert all(overlap(face.box, other.box) < 0.2 for other in faces[:i])


def test_tiles_cover_an_image_and_overlap_enough():
    for length, most, common in ((100, 200, 50), (1000, 300, 100), (999.0, 400, 390), (16320, 4000, 1800)):
        tiles = _tiles(int(length), most, common)
        assert tiles[0][0] == 0
        assert tiles[-1][1] == int(length)
        assert all(end - start <= most + 1 for start, end in tiles)
        assert all(b[0] <= a[1] - common + 2 for a, b in pairwise(tiles))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "k"), zip(PEOPLE, (1, 2, 3, 1, 2), strict=True))
def test_rotated_photo_gives_the_same_crop(detector, name, k):
    image = draw_background(400, 300)
    put_person(image, name, 60, 20, 260)
    (upright,) = find_faces_of_photo(detector, image, 40)
    turned = np.ascontiguousarray(np.rot90(image, k))
    (face,) = find_faces_of_photo(detector, turned, 40)
    assert overlap(_turned_back(face, k, image.shape).box, upright.box) > 0.7
    difference = align_face(turned, face.landmarks, 112).astype(int) - align_face(image, upright.landmarks, 112)
    assert np.abs(difference).mean() < 8
    x, y, width, height = face.box
    assert 0 <= x < x + width <= turned.shape[1]
    assert 0 <= y < y + height <= turned.shape[0]


@pytest.mark.slow
def test_real_faces_are_found_in_every_rotation(detector, reference):
    for image, landmarks in reference[:4]:
        for k in range(4):
            turned = np.ascontiguousarray(np.rot90(image, k))
            face = max(find_faces_of_photo(detector, turned, 40), key=lambda face: face.box[2] * face.box[3])
            crop, wanted = (
                align_face(of, points, 112) for of, points in ((turned, face.landmarks), (image, landmarks))
            )
            assert np.abs(crop.astype(int) - wanted).mean() < 25


@pytest.mark.slow
def test_no_face_is_found_in_any_rotation_or_scale_without_people(detector, shared):
    film = cv2.VideoCapture(str(shared / "data" / "videos" / "pyfeat__no_face.mp4"))
    frames = [frame for ok, frame in (film.read() for _ in range(400)) if ok][::80]
    assert frames
    noise = np.random.default_rng(0).integers(0, 255, (1200, 1600, 3), dtype=np.uint8)
    for image in (*frames, noise, cv2.GaussianBlur(noise, (0, 0), 9), draw_background(2000, 1500)):
        assert find_faces_of_photo(detector, image, 40) == []


def test_frames_are_decoded_by_number(tmp_path):
    write_film(tmp_path / "film.mp4", (np.full((64, 64, 3), 20 * i + 20, np.uint8) for i in range(10)))
    frames = [
        (place, round(frame.seconds, 3), round(float(frame.image.mean()) / 20) - 1)
        for place, frame in Video(tmp_path / "film.mp4").frames([1, 4, 9, 12])
    ]
    assert frames == [(0, 0.1, 1), (1, 0.4, 4), (2, 0.9, 9)]


def test_close_up_of_a_large_face_gives_the_same_crop():
    image = draw_image("Emil", width=320, height=240)
    large = cv2.resize(image, (2560, 1920), interpolation=cv2.INTER_CUBIC)
    face = Face((1000.0, 700.0, 600.0, 800.0), tuple((TEMPLATE * 6 + 950).ravel().tolist()), 0.9)
    for side, factor in ((100.0, 8), (300.0, 2), (500.0, 1)):
        part, near = close_up(large, face, side, 1.4)
        assert near.box[2:] == (600 / factor, 800 / factor)
        assert (part is large) == (factor == 1)
        crops = [align_face(at, one.landmarks, 112, 1.4).astype(int) for at, one in ((large, face), (part, near))]
        assert np.abs(crops[0] - crops[1]).mean() < 2


@pytest.mark.parametrize(
    "box", [(-300.0, -200.0, 500.0, 500.0), (900.0, 700.0, 500.0, 600.0), (3000.0, 20.0, 900.0, 900.0)]
)
def test_close_up_at_or_outside_the_border_is_an_image(box):
    part, near = close_up(np.zeros((800, 1000, 3), np.uint8), Face(box, (5.0,) * 10, 0.9), 60.0, 1.4)
    assert min(part.shape[:2]) > 0
    assert near.box[2] < box[2]
