"""Find the faces in whole images, in photos that may be rotated, and in boxes."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from facereel.video.detector import Box, Detector, Face, Image, intersection, overlap

# A whole image is searched for faces of at least this fraction of its longer side.
_WHOLE_MIN_FRACTION = 0.075
# If smaller faces are requested, the image is scaled so that they have this side in pixels. Limits, also in pixels: the
# side of a tile, and the longer side of the scaled image.
_SMALL_FACE = 24
_TILE = 2560
_FINEST_SIDE = 4800
# Two boxes are the same face if their intersection is at least this fraction of the smaller one.
_SAME_FACE = 0.4
# A square with this many times the side of a box is searched, scaled so that the box has this side in pixels: detectors
# use a face's surroundings, and miss a face that fills the image.
_REACH = 2.2
_BOX_SIDE = 112
_MIN_OVERLAP = 0.2
# YuNet searches squares of 32 pixels, and returns faces at infinity for smaller images.
_SMALLEST = 32


def find_faces(detector: Detector, image: Image, min_face: float | None = None) -> list[Face]:
    """Find the faces in a whole image.

    Args:
        detector: the detector.
        image: (H, W, 3) BGR uint8.
        min_face: longer side of the smallest face in pixels, at least 1/200 of the image's longer side. None means 1/13
            of the image's longer side.

    Returns:
        The faces, unordered; see `Detector.refine` for final landmarks.
    """
    return find_faces_of_many(detector, [image], min_face)[0]


def find_faces_of_many(detector: Detector, images: Sequence[Image], min_face: float | None = None) -> list[list[Face]]:
    """Find the faces in whole images of one size, at once if the detector can; small faces are searched one by one.

    Args:
        detector: the detector.
        images: (H, W, 3) BGR uint8 each, at least one.
        min_face: as for `find_faces`.

    Returns:
        The faces of each image, as from `find_faces`.
    """
    height, width = images[0].shape[:2]
    scale = _whole_scale(detector, images[0])
    found = _search_many(detector, images, (0, 0, width, height), scale, _whole_min_face(detector))
    if min_face is None:
        return found
    for image, faces in zip(images, found, strict=True):
        faces += _find_small_faces(detector, image, faces, min_face)
    return [[face for face in faces if max(face.box[2:]) >= min_face] for faces in found]


def find_faces_of_photo(detector: Detector, image: Image, min_face: float) -> list[Face]:
    """Find the faces in a photo that may be rotated by a multiple of 90 degrees.

    Args:
        detector: the detector.
        image: (H, W, 3) BGR uint8.
        min_face: longer side of the smallest face in pixels. All faces from `find_faces` are included too.

    Returns:
        The faces, unordered, in pixels of the given photo.
    """
    faces = _find_all(detector, image, min_face)
    if _best_score(faces) >= detector.sure_score:
        return faces
    scores = {k: _score_turned(detector, image, faces, k) for k in (1, 2, 3)}
    best = max(scores, key=scores.__getitem__)
    if scores[best] > _best_score(faces):
        return _find_turned(detector, image, best, min_face) or faces
    if faces:
        return faces
    return max((_find_turned(detector, image, k, min_face) for k in (1, 2, 3)), key=_best_score)


def _find_all(detector: Detector, image: Image, min_face: float) -> list[Face]:
    """Return all faces, with their final landmarks."""
    faces = find_faces(detector, image)
    return [detector.refine(image, face) for face in (*faces, *_find_small_faces(detector, image, faces, min_face))]


def _find_turned(detector: Detector, image: Image, k: int, min_face: float) -> list[Face]:
    """Return the faces in an image rotated k times by `np.rot90`, in pixels of the image before rotation."""
    faces = _find_all(detector, np.ascontiguousarray(np.rot90(image, k)), min_face)
    return [_turned_back(face, k, image.shape) for face in faces]


def _score_turned(detector: Detector, image: Image, faces: list[Face], k: int) -> float:
    """Return the best score in an image rotated k times: in the whole, shrunk image, and near its best upright face."""
    scale = _whole_scale(detector, image)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    found = find_faces(detector, np.ascontiguousarray(np.rot90(small, k)))
    if faces:
        left, top, width, height = max(faces, key=lambda face: face.score).box
        reach = _REACH * max(width, height) / 2
        x, y = max(0, int(left + width / 2 - reach)), max(0, int(top + height / 2 - reach))
        part = image[y : int(top + height / 2 + reach) + 1, x : int(left + width / 2 + reach) + 1]
        turned = np.ascontiguousarray(np.rot90(part, k))
        # Rotating back 4 - k times is the same as rotating k times.
        face = _turned_back(Face((left - x, top - y, width, height), (), 0.0), 4 - k, turned.shape)
        seen = _find_in_box(detector, turned, face.box)
        found += [] if seen is None else [seen]
    return _best_score(found)


def _whole_scale(detector: Detector, image: Image) -> float:
    return min(1.0, detector.whole_side / max(image.shape[:2]))


def _whole_min_face(detector: Detector) -> int:
    return round(_WHOLE_MIN_FRACTION * detector.whole_side)


def _find_small_faces(detector: Detector, image: Image, known: list[Face], min_face: float) -> list[Face]:
    """Return new faces at a finer scale; each is searched for again in close-up, for a more exact position."""
    height, width = image.shape[:2]
    scale = min(1.0, _SMALL_FACE / min_face, _FINEST_SIDE / max(height, width))
    if scale <= _whole_scale(detector, image):
        return []
    # Tiles overlap: each face that is too small to be found in the whole image is complete in one of them.
    common = 1.5 * _whole_min_face(detector) / _whole_scale(detector, image)
    found = [
        face
        for top, bottom in _tiles(height, _TILE / scale, common)
        for left, right in _tiles(width, _TILE / scale, common)
        for face in _search(detector, image, (left, top, right, bottom), scale, min(_SMALL_FACE, int(min_face)))
    ]
    new: list[Face] = []
    for face in sorted(found, key=lambda face: -face.score):
        if not _is_among(face, known) and not _is_among(face, new):
            seen = _find_in_box(detector, image, face.box)
            if seen is not None and not _is_among(seen, known) and not _is_among(seen, new):
                new.append(seen)
    return new


def _tiles(length: int, most: float, common: float) -> list[tuple[int, int]]:
    """Return the start and the end of equal pieces of a length that overlap by `common`."""
    n = 1 if length <= most else math.ceil((length - common) / (most - common))
    side = math.ceil((length - common) / n + common) if n > 1 else length
    starts = [round(i * (length - side) / max(1, n - 1)) for i in range(n)]
    return [(start, start + side) for start in starts]


def _is_among(face: Face, others: list[Face]) -> bool:
    area = face.box[2] * face.box[3]
    return any(
        intersection(face.box, other.box) >= _SAME_FACE * min(area, other.box[2] * other.box[3]) for other in others
    )


def _best_score(faces: list[Face]) -> float:
    return max((face.score for face in faces), default=0.0)


def _turned_back(face: Face, k: int, shape: tuple[int, ...]) -> Face:
    """Return a face from an image rotated k times by `np.rot90` in pixels of the original image of this shape."""
    box, points = face.box, face.landmarks
    for turn in range(k, 0, -1):
        width = shape[turn % 2]  # of the image rotated once less
        box = (width - box[1] - box[3], box[0], box[3], box[2])
        points = tuple(v for x, y in zip(points[::2], points[1::2], strict=True) for v in (width - 1 - y, x))
    return Face(box, points, face.score)


def find_face(detector: Detector, image: Image, expected: Box | None) -> Face | None:
    """Find the face in a box, or the largest face of an image.

    Args:
        detector: the detector.
        image: (H, W, 3) BGR uint8.
        expected: the box in pixels; None searches the whole image.

    Returns:
        The face with the largest overlap with the box, at least 0.2, or without a box the largest face, with its final
        landmarks; None if no face is found.
    """
    if expected is None:
        found = max(find_faces(detector, image), key=lambda face: face.box[2] * face.box[3], default=None)
    else:
        found = _find_in_box(detector, image, expected)
    return None if found is None else detector.refine(image, found)


def _find_in_box(detector: Detector, image: Image, expected: Box) -> Face | None:
    """Return the face with the largest overlap with a box, at least 0.2; None if there is none."""
    x, y, width, height = expected
    side = max(width, height)
    reach = _REACH * side / 2
    left, top = max(0, int(x + width / 2 - reach)), max(0, int(y + height / 2 - reach))
    right = min(image.shape[1], int(x + width / 2 + reach) + 1)
    bottom = min(image.shape[0], int(y + height / 2 + reach) + 1)
    if right <= left or bottom <= top:
        return None
    faces = _search(detector, image, (left, top, right, bottom), _BOX_SIDE / side, _BOX_SIDE // 2)
    best = max(faces, key=lambda face: overlap(face.box, expected), default=None)
    return best if best is not None and overlap(best.box, expected) >= _MIN_OVERLAP else None


def close_up(image: Image, face: Face, side: float, margin: float) -> tuple[Image, Face]:
    """Return a smaller image of a large face, for work that does not need all of its pixels.

    Args:
        image: (H, W, 3) BGR uint8.
        face: a face in it.
        side: the longer side of the face's box in the result is at least this number of pixels, or as in the image.
        margin: ratio of the sides of a crop and the box; it is complete in the result wherever the face leans to.

    Returns:
        The part of the image around the face, shrunk by a whole number, and the face in it; or both as they are.
    """
    left, top, width, height = face.box
    factor = int(max(width, height) / side)
    if factor < 2:
        return image, face
    reach = max(1.5, margin) * max(width, height)
    spans = []
    for middle, length in ((left + width / 2, image.shape[1]), (top + height / 2, image.shape[0])):
        start = min(max(0, int(middle - reach)), length - factor)
        end = max(start + factor, min(length, int(middle + reach)))
        spans.append((start, end - (end - start) % factor))
    (x, x_end), (y, y_end) = spans
    size = ((x_end - x) // factor, (y_end - y) // factor)
    part = cv2.resize(image[y:y_end, x:x_end], size, interpolation=cv2.INTER_AREA)
    box = ((left - x) / factor, (top - y) / factor, width / factor, height / factor)
    points = tuple((value - (x, y)[i % 2]) / factor for i, value in enumerate(face.landmarks))
    return part, Face(box, points, face.score)


def _search(
    detector: Detector, image: Image, region: tuple[int, int, int, int], scale: float, min_size: int
) -> list[Face]:
    """Return the faces in a part of an image, given by left, top, right and bottom, searched at another scale."""
    return _search_many(detector, [image], region, scale, min_size)[0]


def _search_many(
    detector: Detector, images: Sequence[Image], region: tuple[int, int, int, int], scale: float, min_size: int
) -> list[list[Face]]:
    """As `_search`, for images of one size."""
    left, top, right, bottom = region
    parts = [image[top:bottom, left:right] for image in images]
    height, width = parts[0].shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if min(size) < _SMALLEST:
        return [[] for _ in images]
    if size != (width, height):
        parts = [_resized(part, size, scale, detector.shrink) for part in parts]
    factors = (right - left) / size[0], (bottom - top) / size[1]
    found = detector.detect_many([np.ascontiguousarray(part) for part in parts], min_size)
    return [[_moved(face, factors, (left, top)) for face in faces] for faces in found]


def _resized(part: Image, size: tuple[int, int], scale: float, shrink: int) -> Image:
    """Return an image of another size; with `shrink=cv2.INTER_LINEAR` in a third of the time of `cv2.INTER_AREA`."""
    if scale >= 1:
        return cv2.resize(part, size, interpolation=cv2.INTER_LINEAR)
    if shrink == cv2.INTER_LINEAR:
        height, width = part.shape[:2]
        factor = int(1 / scale)  # averaging over whole pixels is fast, and the rest does not alias
        if height % factor or width % factor:
            shrink = cv2.INTER_AREA
        elif factor > 1:
            part = cv2.resize(part, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
    return cv2.resize(part, size, interpolation=shrink)


def _moved(face: Face, factors: tuple[float, float], corner: tuple[int, int]) -> Face:
    fx, fy = factors
    left, top, width, height = face.box
    box = (left * fx + corner[0], top * fy + corner[1], width * fx, height * fy)
    points = tuple(value * factors[i % 2] + corner[i % 2] for i, value in enumerate(face.landmarks))
    return Face(box, points, face.score)
