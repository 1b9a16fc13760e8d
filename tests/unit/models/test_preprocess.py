from typing import Any

import pytest
import torch

from facereel import VideoHasher
from facereel.models import Preprocess

CONFIG: dict[str, Any] = {
    "preprocess": {"_target_": "facereel.models.Preprocess", "size": 32},
    "encoder": {"_target_": "facereel.models.CasiaEncoder", "batch_norm": True, "width": 0.125},
    "pooling": {"_target_": "facereel.models.MeanPooling"},
    "head": {"_target_": "facereel.models.SharedHead", "n_bits": 12},
}


def hasher(**preprocess):
    torch.manual_seed(0)
    return VideoHasher({**CONFIG, "preprocess": {**CONFIG["preprocess"], **preprocess}}).eval()


@pytest.fixture
def images():
    return torch.rand(4, 3, 40, 36)


@torch.inference_mode()
def test_mirrored_images_have_the_same_features(images):
    plain, flip_tta = hasher(), hasher(flip_tta=True)
    expected = (plain.features(images) + plain.features(images.flip(3))) / 2
    assert torch.allclose(flip_tta.features(images), expected, atol=1e-5)
    assert torch.allclose(flip_tta.features(images.flip(3)), flip_tta.features(images), atol=1e-5)
    assert not torch.allclose(plain.features(images.flip(3)), plain.features(images), atol=1e-3)
    # Left to right, not upside down.
    assert not torch.allclose(flip_tta.features(images.flip(2)), flip_tta.features(images), atol=1e-3)


@torch.inference_mode()
def test_stills_and_clips_are_both_mirrored(images):
    model = hasher(flip_tta=True)
    _, scores = model.encode_clips(images[None], return_scores=True)
    _, flipped = model.encode_clips(images[None].flip(4), return_scores=True)
    assert torch.allclose(scores, flipped, atol=1e-5)
    _, stills = model.encode_stills(images, return_scores=True)
    _, clips = model.encode_clips(images[:, None], return_scores=True)
    assert torch.allclose(stills, clips, atol=1e-5)


def test_crop_settings_are_saved_with_the_model(tmp_path):
    hasher(margin=1.05, vertical_offset=0.15, flip_tta=True).save(tmp_path)
    takes = VideoHasher.load(tmp_path).preprocess
    assert (takes.margin, takes.vertical_offset, takes.flip_tta) == (1.05, 0.15, True)
    assert VideoHasher.load(tmp_path).untrained().preprocess.vertical_offset == 0.15


def test_older_models_use_default_crops():
    takes = Preprocess(size=64, grayscale=True, mean=[0.5] * 3, std=[0.25] * 3)
    assert (takes.margin, takes.vertical_offset, takes.flip_tta) == (1.2, 0.0, False)
    assert not takes.state_dict()
