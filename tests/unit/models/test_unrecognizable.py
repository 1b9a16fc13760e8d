from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate, normalize

from facereel import VideoHasher
from facereel.models import center_on_unrecognizable, unrecognizable_faces
from facereel.models import unrecognizable as module
from facereel.models.unrecognizable import draw_faces
from facereel.video.align import TEMPLATE, TEMPLATE_MARGIN, TEMPLATE_SIZE

CONFIG: dict[str, Any] = {
    "preprocess": {"_target_": "facereel.models.Preprocess", "size": 32, "margin": 1.05, "vertical_offset": 0.15},
    "encoder": {"_target_": "facereel.models.CasiaEncoder", "batch_norm": True, "width": 0.125},
    "pooling": {"_target_": "facereel.models.RecognizabilityPooling", "p": 2.0, "photo_limit": 0.2},
    "head": {"_target_": "facereel.models.RotationHead", "n_bits": 16},
}


def test_faces_are_gray_deterministic_and_different():
    images = unrecognizable_faces(5)
    assert images.shape == (5, 3, 160, 160)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(images[:, 0], images[:, 2])
    assert torch.equal(images, unrecognizable_faces(5))
    assert not torch.allclose(images, unrecognizable_faces(5, seed=1))
    assert not torch.allclose(images[0], images[4])
    assert unrecognizable_faces(0).shape == (0, 3, 160, 160)


def test_drawing_uses_no_global_random_state():
    state = torch.get_rng_state()
    unrecognizable_faces(2)
    assert torch.equal(torch.get_rng_state(), state)


def test_few_pixels_are_left_of_a_face():
    faces, images = draw_faces(4), unrecognizable_faces(4)
    kept = interpolate(interpolate(images, (12, 12), mode="bilinear", antialias=True), (160, 160), mode="bilinear")
    assert (images - kept).abs().mean() < 0.02
    # Fine structure, which the drawn faces have, is gone.
    fine = [(x[..., 1:] - x[..., :-1]).abs().amax(dim=(1, 2, 3)) for x in (faces, images)]
    assert (fine[1] < 0.5 * fine[0]).all()


def test_eyes_nose_and_mouth_are_those_of_the_template():
    left, right, nose, *corners = TEMPLATE
    mouth_y = np.mean(corners, axis=0)[1]
    assert (module._CROP, module._MARGIN) == (TEMPLATE_SIZE, TEMPLATE_MARGIN)
    drawn = [*module._EYES, module._EYE_Y, *module._NOSE, *module._MOUTH]
    expected = [left[0], right[0], (left[1] + right[1]) / 2, *nose, TEMPLATE_SIZE / 2, mouth_y]
    assert drawn == pytest.approx(expected, abs=0.05), "rounded to a tenth of a pixel"


def test_eyes_are_where_alignment_puts_them():
    faces = draw_faces(200).mean(dim=0)[0]
    row, cheek = (round(y / 112 * 160) for y in (51.6, 72))
    left, right, beside = (round(x / 112 * 160) for x in (38.3, 73.5, 38.3))
    assert faces[row, left] < faces[cheek, beside] - 0.1
    assert faces[row, right] < faces[cheek, beside] - 0.1


def test_crops_follow_margin_and_offset():
    """Twice the margin halves the face; an offset of a tenth moves it up by a tenth."""
    whole, wide = draw_faces(3, 1.2), draw_faces(3, 2.4)
    assert torch.allclose(
        interpolate(whole, (80, 80), mode="bilinear", antialias=True), wide[..., 40:120, 40:120], atol=0.1
    )
    assert torch.allclose(whole[..., 16:, :], draw_faces(3, 1.2, 0.1)[..., :-16, :], atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_center_is_the_mean_feature_of_the_drawn_faces(training, tmp_path):
    torch.manual_seed(0)
    model = VideoHasher(CONFIG).train(training)
    center_on_unrecognizable(model)
    assert model.training is training
    model.eval()
    with torch.no_grad():
        features = model.features(unrecognizable_faces(64, 1.05, 0.15))
    expected = normalize(normalize(features, dim=1).mean(dim=0), dim=0)
    assert torch.allclose(model.pooling.center, expected, atol=1e-6)
    model.save(tmp_path)
    loaded = VideoHasher.load(tmp_path)
    assert torch.equal(loaded.pooling.center, model.pooling.center)
    assert loaded.pooling.photo_limit == 0.2
    assert loaded.pooling.p == 2.0


def test_another_pooling_raises():
    model = VideoHasher({**CONFIG, "pooling": {"_target_": "facereel.models.MeanPooling"}})
    with pytest.raises(TypeError, match="MeanPooling, not RecognizabilityPooling"):
        center_on_unrecognizable(model)
