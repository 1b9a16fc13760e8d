"""Faces that nobody can recognize, drawn from random numbers, and the center of their features."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from facereel.models.hasher import VideoHasher
from facereel.models.pooling.recognizability import RecognizabilityPooling

# Recognizability below which a photo is too poor to search with, by encoder: `RecognizabilityPooling(photo_limit=...)`,
# with the center of `center_on_unrecognizable`. On LFW stills of half of 258 people, 0.044 has the fewest errors for
# dlib and 0.347 for SFace. There we chose less, to refuse hardly any clean photo: docs/results/recognizability.md.
PHOTO_LIMITS = {"sface": 0.30, "dlib": 0.044}

# Positions on the standard crop of 112 x 112 pixels, whose margin is 1.2: see `facereel.video.align`.
_CROP, _MARGIN = 112, 1.2
_EYES, _EYE_Y, _NOSE, _MOUTH = (38.3, 73.5), 51.6, (56.0, 71.7), (56.0, 92.3)
# Drawn faces are shrunk to one of these sides, in pixels, and enlarged again.
_SIDES = (6, 8, 10, 12)
_IMAGES = 64
_SIDE = 160


def center_on_unrecognizable(model: VideoHasher, seed: int = 0) -> None:
    """Set the center of a model's `RecognizabilityPooling` to the mean feature of drawn, unrecognizable faces.

    Call it after the encoder is trained. The model's mode is kept.

    Args:
        model: the model; its pooling is changed in place.
        seed: random seed of the drawing.

    Raises:
        TypeError: if the model has another pooling.
    """
    if not isinstance(model.pooling, RecognizabilityPooling):
        raise TypeError(f"the model's pooling is {type(model.pooling).__name__}, not RecognizabilityPooling")
    preprocess = model.preprocess
    images = unrecognizable_faces(_IMAGES, preprocess.margin, preprocess.vertical_offset, seed)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            features = [model.features(part.to(model.pooling.center)) for part in torch.split(images, 16)]
    finally:
        model.train(training)
    model.pooling.set_center(torch.cat(features))


def unrecognizable_faces(n: int, margin: float = _MARGIN, vertical_offset: float = 0.0, seed: int = 0) -> Tensor:
    """Draw synthetic gray faces as aligned crops, shrink them to a few pixels, and enlarge them.

    Args:
        n: number of images.
        margin: margin of the crops; see `Preprocess`.
        vertical_offset: vertical offset of the crops; see `Preprocess`.
        seed: random seed.

    Returns:
        (n, 3, 160, 160) float32 in 0..1, three equal channels.
    """
    faces = draw_faces(n, margin, vertical_offset, seed)
    images = []
    for i, face in enumerate(faces):
        side = _SIDES[i % len(_SIDES)]
        small = interpolate(face[None], (side, side), mode="bilinear", antialias=True)
        images.append(interpolate(small, (_SIDE, _SIDE), mode="bilinear"))
    return (torch.cat(images) if images else faces).expand(-1, 3, -1, -1)


def draw_faces(n: int, margin: float = _MARGIN, vertical_offset: float = 0.0, seed: int = 0) -> Tensor:
    """Draw synthetic gray faces from soft ellipses at the places where alignment puts eyes, nose and mouth.

    Args:
        n: number of images.
        margin: margin of the crops; see `Preprocess`.
        vertical_offset: vertical offset of the crops; see `Preprocess`.
        seed: random seed of proportions, brightness, light and position.

    Returns:
        (n, 1, 160, 160) float32 in 0..1.
    """
    generator = torch.Generator().manual_seed(seed)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

    places = ((torch.arange(_SIDE) + 0.5) / _SIDE - 0.5) * _CROP * margin / _MARGIN + _CROP / 2
    x = places.view(1, 1, 1, -1) + between(-4, 4)
    y = places.view(1, 1, -1, 1) + vertical_offset * _CROP * margin / _MARGIN + between(-4, 4)

    image = torch.zeros(n, 1, _SIDE, _SIDE)

    def paint(center: tuple[float | Tensor, float | Tensor], size: tuple[Tensor, Tensor], gray: Tensor) -> None:
        nonlocal image
        radius = (((x - center[0]) / size[0]) ** 2 + ((y - center[1]) / size[1]) ** 2).sqrt()
        opacity = ((1 - radius) / 0.2).sigmoid()
        image = image * (1 - opacity) + gray * opacity

    skin, hair, middle = between(0.25, 0.95), between(0, 0.6), _CROP / 2
    width, height = between(36, 46), between(52, 62)
    image = between(0, 1).expand(n, 1, _SIDE, _SIDE)
    paint((middle, middle + between(86, 101)), (between(70, 95), between(35, 45)), between(0, 1))  # shoulders
    paint((middle, middle), (width + between(4, 10), height + between(8, 14)), hair)
    paint((middle, middle + 49), (between(18, 26), between(35, 45)), skin * 0.85)  # neck
    paint((middle, middle + 10), (width, height), skin)
    for eye in _EYES:
        paint((eye, _EYE_Y), (between(8, 11), between(4, 7)), skin * between(0.2, 0.6))
        paint((eye, _EYE_Y - between(9, 12)), (between(9, 13), between(2, 4)), (hair + skin * 0.4) / 2)
    paint(_NOSE, (between(5, 9), between(3, 6)), skin * between(0.6, 0.9))
    paint(_MOUTH, (between(12, 17), between(3, 6)), skin * between(0.5, 0.9))
    light = 1 + between(-0.35, 0.35) * (x - middle) / middle + between(-0.2, 0.2) * (y - middle) / middle
    return (image * light).clamp(0, 1)
