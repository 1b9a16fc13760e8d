import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from facereel.errors import UserError
from facereel.models import RotationHead
from facereel.models.heads.fitted import itq_directions


def vectors(n=200, dim=16, seed=0):
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.standard_normal((n, dim)) * np.linspace(2, 0.2, dim) + 1).float()


@pytest.mark.parametrize("n_bits", [8, 16, 40])
def test_fitted_directions_are_principal_components_rotated_by_itq(n_bits):
    head, pooled = RotationHead(16, 16, n_bits), vectors()
    head.fit(pooled, seed=3)
    x = normalize(pooled.double(), dim=1)
    assert torch.allclose(head.center.double(), x.mean(dim=0), atol=1e-6)
    start = 0
    for size in [16] * (n_bits // 16) + [n_bits % 16] * (n_bits % 16 > 0):
        own = head.rotation[start : start + size].double()
        cosines = normalize(own, dim=1) @ normalize(itq_directions(x, size, 3 + start, 200), dim=0)
        assert torch.allclose(cosines, torch.eye(size, dtype=torch.float64), atol=1e-5)
        start += size
    assert start == n_bits


def test_fit_keeps_the_scale_of_scores():
    before, after, pooled = RotationHead(16, 16, 40), RotationHead(16, 16, 40), vectors()
    before.center.copy_(normalize(pooled, dim=1).mean(dim=0))
    after.fit(pooled)
    spread = [head.forward_clips(pooled).logit().abs().mean() for head in (before, after)]
    assert spread[1] == pytest.approx(float(spread[0]), rel=0.2)


def test_fit_balances_the_bits_of_vectors_far_from_zero():
    head, pooled = RotationHead(16, 16, 16), vectors() + 5
    unfitted = (head.forward_clips(pooled) > 0.5).float().mean(dim=0)
    head.fit(pooled)
    fitted = (head.forward_clips(pooled) > 0.5).float().mean(dim=0)
    assert (fitted - 0.5).abs().max() < 0.2 < (unfitted - 0.5).abs().max()


@pytest.mark.parametrize("pooled", [torch.ones(5, 16), torch.full((5, 16), torch.nan), torch.ones(1, 16)])
def test_equal_vectors_cannot_be_fitted(pooled):
    with pytest.raises(UserError, match="codes cannot be fitted"):
        RotationHead(16, 16, 8).fit(pooled)
