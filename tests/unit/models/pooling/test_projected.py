from typing import Any

import pytest
import torch

from facereel.errors import UserError
from facereel.models import LogCovariancePooling, MeanPooling, ProjectedPooling, VideoHasher
from facereel.models.hasher import DEFAULT_CONFIG

DIM, RANK = 6, 3
MASK = torch.tensor([[True] * 4, [True, False, True, False]])


def projected(pooling: Any = LogCovariancePooling, **options: Any) -> ProjectedPooling:
    return ProjectedPooling(DIM, pooling, **{"rank": RANK, **options}).double()


def people(n_people=10, n_each=20):
    """Unit features whose first two numbers are the person; the others are large noise."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(n_people).repeat_interleave(n_each)
    features = 3 * torch.randn(len(labels), DIM, generator=random, dtype=torch.float64)
    angle = 6.28 * labels / n_people
    features[:, 0], features[:, 1] = 5 * angle.cos(), 5 * angle.sin()
    return features, labels


def test_pools_projected_unit_frames():
    pooling, frames = projected(), torch.randn(2, 4, DIM, dtype=torch.float64)
    weight, bias = pooling.projection.weight, pooling.projection.bias
    moved = torch.stack([torch.stack([weight @ (x / x.norm()) + bias for x in clip]) for clip in frames])
    garbage = frames.masked_fill(~MASK[..., None], torch.nan)
    assert torch.allclose(pooling(garbage.nan_to_num(5.0), MASK), LogCovariancePooling(RANK)(moved, MASK))
    assert pooling.out_dim == RANK**2
    frames.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: pooling(x, MASK), (frames, *pooling.parameters()))


def test_fit_keeps_directions_that_separate_people():
    pooling, (features, labels) = projected(MeanPooling), people()
    pooling.fit(features, labels)
    pooled = pooling(features[:, None])
    means = torch.stack([pooled[labels == person].mean(dim=0) for person in range(10)])
    within = (pooled - means[labels]).square().mean(dim=0)
    assert means.var(dim=0)[:2].min() > 2 * within[:2].max()
    assert pooled.mean(dim=0).abs().max() < 1e-6


def test_without_rank_frames_are_whitened_in_all_directions():
    """Also where people are fewer than directions."""
    features, labels = people(n_people=3, n_each=200)
    pooling = projected(MeanPooling, rank=None, shrinkage=0.0)
    pooling.fit(features, labels)
    projections = pooling(features[:, None])
    deviations = projections - torch.stack([projections[labels == person].mean(dim=0) for person in range(3)])[labels]
    assert torch.allclose(deviations.T @ deviations / (600 - 3), torch.eye(DIM, dtype=torch.float64), atol=1e-6)


def test_invalid_rank_raises():
    with pytest.raises(UserError, match="rank=7: must be 1 to 6, the length of a feature"):
        projected(rank=7)
    with pytest.raises(UserError, match="shrinkage=-1"):
        projected(shrinkage=-1)


def test_model_with_nested_parts_is_saved_without_wider_trust(tmp_path):
    inner = {"_target_": "facereel.models.LogCovariancePooling", "eps": 0.1, "length": 30.0}
    pooling = {"_target_": "facereel.models.ProjectedPooling", "rank": 5, "pooling": inner}
    config = {**DEFAULT_CONFIG, "pooling": pooling, "head": {"_target_": "facereel.models.SharedHead", "n_bits": 8}}
    model = VideoHasher(config).eval()
    model.save(tmp_path)
    images = torch.rand(2, 3, 64, 64)
    _, scores = model.encode_stills(images, return_scores=True)
    _, again = VideoHasher.load(tmp_path).encode_stills(images, return_scores=True)
    assert torch.equal(scores, again)
    inner["_target_"] = "os.system"
    with pytest.raises(UserError, match=r"pooling\._target_=os\.system: the module is not trusted"):
        VideoHasher(config)
