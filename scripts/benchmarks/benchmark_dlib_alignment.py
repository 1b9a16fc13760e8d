"""Measure where dlib crops a face for its network, relative to our crops: margin and shift.

python scripts/benchmarks/benchmark_dlib_alignment.py STILLS [--detector mtcnn] [--images 300]

STILLS contains PERSON/IMAGE, such as Labeled Faces in the Wild. Needs dlib-bin and the extra pretrained.
"""

import argparse
from pathlib import Path

import cv2
import dlib
import numpy as np
from measure import heading
from numpy.typing import NDArray

from facereel.models.encoders.dlib_weights import find_pretrained
from facereel.video import make_detector
from facereel.video.align import TEMPLATE, TEMPLATE_MARGIN, TEMPLATE_SIZE
from facereel.video.detector import Image, overlap
from facereel.video.find_faces import find_faces
from facereel.video.image_file import Unreadable, read_image

SIDE = 150
PREDICTOR = "shape_predictor_5_face_landmarks.dat"
# Smallest overlap (intersection over union) of two detectors' boxes of the same face.
MIN_OVERLAP = 0.3

Points = NDArray[np.float64]


def chip_matrix(image: Image, face: dlib.rectangle, predictor: dlib.shape_predictor) -> Points:
    """Return the (2, 3) matrix from pixels of an image to pixels of the chip that dlib crops for its network."""
    details = dlib.get_face_chip_details(predictor(image, face), size=SIDE, padding=0.25)
    rect, cosine, sine = details.rect, np.cos(details.angle), np.sin(details.angle)
    center = np.array([rect.left() + rect.right(), rect.top() + rect.bottom()]) / 2
    corners = np.array([(rect.left(), rect.top()), (rect.right(), rect.top()), (rect.right(), rect.bottom())])
    turned = (corners - center) @ np.array([[cosine, sine], [-sine, cosine]]) + center
    last = SIDE - 1
    matrix = cv2.getAffineTransform(turned.astype(np.float32), np.array([(0, 0), (last, 0), (last, last)], np.float32))
    return matrix.astype(np.float64)


def points_in_chips(files: list[Path], detector_name: str) -> Points:
    """Return our detector's points (N, 5, 2) in dlib's chips, for images where both find the same largest face."""
    detector, dlib_detector = make_detector(detector_name), dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(str(find_pretrained().with_name(PREDICTOR)))
    found = []
    for file in files:
        image = read_image(str(file))
        if isinstance(image, Unreadable):
            continue
        rgb = np.ascontiguousarray(image[:, :, ::-1])
        ours = max(find_faces(detector, image), key=lambda face: face.box[2], default=None)
        theirs = max(dlib_detector(rgb, 1), key=lambda rect: rect.width(), default=None)
        if ours is None or theirs is None:
            continue
        box = (theirs.left(), theirs.top(), theirs.width(), theirs.height())
        if overlap(ours.box, box) >= MIN_OVERLAP:
            matrix = chip_matrix(rgb, theirs, predictor)
            found.append(np.reshape(ours.landmarks, (5, 2)) @ matrix[:, :2].T + matrix[:, 2])
    return np.array(found)


def margin_and_shift(points: Points) -> tuple[float, Points, float]:
    """Fit our crop so that its template matches (5, 2) points, by least squares.

    Returns:
        The margin of the crop; the shift of its middle to the right of and below the middle of our centered crop, as
        fractions of its side; and the root mean square error of the points, in pixels of the chip.
    """
    template = TEMPLATE - TEMPLATE_SIZE / 2
    spread = template - template.mean(axis=0)
    scale = float((spread * points).sum() / (spread**2).sum())
    middle = points.mean(axis=0) - scale * template.mean(axis=0)
    error = float(np.sqrt(((points - middle - scale * template) ** 2).sum(axis=1).mean()))
    return TEMPLATE_MARGIN * SIDE / TEMPLATE_SIZE / scale, (SIDE / 2 - middle) / SIDE, error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stills", type=Path)
    parser.add_argument("--detector", default="mtcnn", help="mtcnn, or the path of a YuNet ONNX file")
    parser.add_argument("--images", type=int, default=300)
    arguments = parser.parse_args()
    files = sorted(arguments.stills.glob("*/*.jpg"))
    files = files[:: max(1, len(files) // arguments.images)][: arguments.images]
    points = points_in_chips(files, arguments.detector)
    middle = np.median(points, axis=0)
    spread = 1.4826 * np.median(np.abs(points - middle), axis=0)
    margin, shift, error = margin_and_shift(middle)
    print(heading())
    print(f"{len(files)} images; {arguments.detector} and dlib find the same face in {len(points)}")
    print(f"median and robust deviation of x and y, in a chip of {SIDE} pixels:")
    for name, (x, y), (dx, dy) in zip(("eye", "eye", "nose", "mouth", "mouth"), middle, spread, strict=True):
        print(f"  {name:<6} {x:6.1f} +- {dx:3.1f}   {y:6.1f} +- {dy:3.1f}")
    print(f"our crop: margin {margin:.3f}, {shift[0]:+.3f} right and {shift[1]:+.3f} down, error {error:.1f} pixels")


if __name__ == "__main__":
    main()
