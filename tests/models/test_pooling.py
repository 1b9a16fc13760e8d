import pytest
import torch

from facereel.functional import log_covariance
from facereel.models import LogCovariancePooling, MaxPooling, MeanPooling

MASK = torch.tensor([[True, True, False, True], [False, True, False, False]])


def slow(pool, frames, mask):
    return torch.stack([pool(clip[real]) for clip, real in zip(frames, mask, strict=True)])


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        (MeanPooling(), lambda rows: rows.mean(dim=0)),
        (MaxPooling(), lambda rows: rows.max(dim=0).values),
        (LogCovariancePooling(eps=0.1), lambda rows: log_covariance(rows[None], eps=0.1).flatten()),
        (
            LogCovariancePooling(center=True, normalize=True),
            lambda rows: log_covariance(rows[None], center=True, normalize=True).flatten(),
        ),
    ],
)
def test_pools_the_real_frames_only(pooling, pool):
    frames = torch.randn(2, 4, 5, dtype=torch.float64)
    expected = slow(pool, frames, MASK)
    pooled = pooling(frames.masked_fill(~MASK[..., None], torch.nan), MASK)
    assert pooled.shape == (2, pooling.out_dim(5))
    assert torch.allclose(pooled, expected)
    assert torch.allclose(pooling(frames), slow(pool, frames, torch.ones_like(MASK)))


@pytest.mark.parametrize("pooling", [MeanPooling(), MaxPooling(), LogCovariancePooling(subtract_floor=True)])
def test_a_clip_without_a_frame_is_zero_with_a_zero_gradient(pooling):
    frames = torch.randn(1, 3, 4, requires_grad=True)
    pooled = pooling(frames, torch.zeros(1, 3, dtype=torch.bool))
    assert torch.allclose(pooled, torch.zeros_like(pooled))
    pooled.sum().backward()
    assert torch.equal(frames.grad, torch.zeros_like(frames))


@pytest.mark.parametrize("pooling", [MeanPooling(), MaxPooling(), LogCovariancePooling(eps=0.1)])
def test_gradcheck(pooling):
    frames = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pooling(x, MASK), frames)


def test_the_floor_is_what_every_clip_shares():
    frames = torch.randn(2, 3, 4, dtype=torch.float64)
    difference = LogCovariancePooling(eps=0.01)(frames) - LogCovariancePooling(eps=0.01, subtract_floor=True)(frames)
    expected = torch.log(torch.tensor(0.01, dtype=torch.float64)) * torch.eye(4, dtype=torch.float64).flatten()
    assert torch.allclose(difference, expected.expand(2, -1))
