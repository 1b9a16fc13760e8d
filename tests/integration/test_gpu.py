"""On a CUDA GPU: the same codes as on the CPU, and a run of every stage."""

import copy
import json

import pytest
import torch
from commands import run
from drawn_faces import make_folder
from mean_hasher import CONFIG

from facereel import VideoHasher
from facereel.functional import log_covariance

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.mark.parametrize("method", ["gram", "eigh"])
def test_log_covariance_equals_the_cpu(method):
    frames = torch.randn(4, 9, 32)
    mask = torch.arange(9) < torch.tensor([9, 5, 2, 1])[:, None]
    found = log_covariance(frames.cuda(), mask.cuda(), method=method)
    assert torch.allclose(found.cpu(), log_covariance(frames, mask, method=method), atol=1e-3)


def test_scores_equal_the_cpu():
    model = VideoHasher(CONFIG).eval()
    clips = torch.rand(3, 4, 3, 112, 112)
    _, expected = model.encode_clips(clips, return_scores=True)
    _, found = copy.deepcopy(model).cuda().encode_clips(clips.cuda(), return_scores=True)
    assert torch.allclose(found.cpu(), expected, atol=1e-2)


def test_a_run_trains_on_the_gpu(tmp_path):
    root = make_folder(tmp_path / "faces", n_people=4)
    options = ["encoder.width=0.125", "head.n_bits=8", "debug=tiny", "trainer=auto", "trainer.accelerator=gpu"]
    assert run("train", "data=folder", f"data.root={root}", *options, f"out={tmp_path / 'run'}") == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["n_bits"] == 8
