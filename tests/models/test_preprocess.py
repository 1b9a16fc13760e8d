import pytest
import torch

from facereel import VideoHasher
from facereel.models import Preprocess

CONFIG = {
    "preprocess": {"_target_": "facereel.models.Preprocess", "size": 32},
    "encoder": {"_target_": "facereel.models.CasiaEncoder", "batch_norm": True, "width": 0.125},
    "pooling": {"_target_": "facereel.models.MeanPooling"},
    "head": {"_target_": "facereel.models.SharedHead", "n_bits": 12},
}


def hasher(**preprocess):
    torch.manual_seed(0)
    return VideoHasher({**CONFIG, "preprocess": {**CONFIG["preprocess"], **preprocess}}).eval()


@pytest.fixture
def pictures():
    return torch.rand(4, 3, 40, 36)


@torch.inference_mode()
def test_mirrored_pictures_have_the_same_features(pictures):
    plain, mirror = hasher(), hasher(mirror=True)
    expected = (plain.features(pictures) + plain.features(pictures.flip(3))) / 2
    assert torch.allclose(mirror.features(pictures), expected, atol=1e-5)
    assert torch.allclose(mirror.features(pictures.flip(3)), mirror.features(pictures), atol=1e-5)
    assert not torch.allclose(plain.features(pictures.flip(3)), plain.features(pictures), atol=1e-3)
    # Left to right, not upside down.
    assert not torch.allclose(mirror.features(pictures.flip(2)), mirror.features(pictures), atol=1e-3)


@torch.inference_mode()
def test_stills_and_clips_are_mirrored_alike(pictures):
    model = hasher(mirror=True)
    _, scores = model.encode_clips(pictures[None], return_scores=True)
    _, flipped = model.encode_clips(pictures[None].flip(4), return_scores=True)
    assert torch.allclose(scores, flipped, atol=1e-5)
    _, stills = model.encode_stills(pictures, return_scores=True)
    _, clips = model.encode_clips(pictures[:, None], return_scores=True)
    assert torch.allclose(stills, clips, atol=1e-5)


def test_what_crops_a_model_takes_travels_with_it(tmp_path):
    hasher(margin=1.05, shift=0.15, mirror=True).save(tmp_path)
    takes = VideoHasher.load(tmp_path).preprocess
    assert (takes.margin, takes.shift, takes.mirror) == (1.05, 0.15, True)
    assert VideoHasher.load(tmp_path).untrained().preprocess.shift == 0.15


def test_models_of_before_take_the_usual_crops():
    takes = Preprocess(size=64, grey=True, mean=[0.5] * 3, std=[0.25] * 3)
    assert (takes.margin, takes.shift, takes.mirror) == (1.2, 0.0, False)
    assert not takes.state_dict()
