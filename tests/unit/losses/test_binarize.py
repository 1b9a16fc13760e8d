import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facereel.errors import UserError
from facereel.losses.binarize import binarize, bit_balance, hash_centers, quantization

SCORES = torch.tensor([[0.9, 0.5, 0.2], [0.6, 0.1, 0.8]], dtype=torch.float64)


@pytest.mark.parametrize("slope", [0.5, 1.0, 4.0])
def test_scaled_tanh_equals_its_definition(slope):
    expected = [[math.tanh(slope * math.log(s / (1 - s)) / 2) for s in row] for row in SCORES.tolist()]
    torch.testing.assert_close(binarize(SCORES, "scaled_tanh", slope), torch.tensor(expected, dtype=torch.float64))


def test_scaled_tanh_with_slope_1_equals_unrounded_signs():
    torch.testing.assert_close(binarize(SCORES, "scaled_tanh"), 2 * SCORES - 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_straight_through_gives_exact_bits_with_the_tanh_gradient(dtype):
    scores = torch.rand(50, 20).to(dtype)
    scores[0, :3] = torch.tensor([0.0, 0.5, 1.0])
    gradients = []
    for how in ("straight_through", "scaled_tanh"):
        leaf = scores.clone().requires_grad_()
        out = binarize(leaf, how, 2.0)
        out.sum().backward()
        gradients.append(leaf.grad)
        if how == "straight_through":
            assert torch.equal(out > 0, scores > 0.5)
            assert torch.equal(out.abs(), torch.ones_like(out))
    assert torch.equal(*gradients)
    assert gradients[0].isfinite().all()


@pytest.mark.parametrize("function", [lambda s: binarize(s, "scaled_tanh", 3.0), quantization, bit_balance])
def test_gradients(function):
    assert torch.autograd.gradcheck(function, (0.1 + 0.3 * torch.rand(4, 5, dtype=torch.float64)).requires_grad_())


def test_quantization_equals_the_loop_and_is_zero_at_bits():
    terms = [math.log(math.cosh(1 - abs(2 * s - 1))) for row in SCORES.tolist() for s in row]
    assert quantization(SCORES).item() == pytest.approx(sum(terms) / 6, rel=1e-10)
    assert quantization(SCORES.round()).item() == 0
    assert quantization(SCORES[:0]).item() == 0


def test_bit_balance_equals_the_loop_and_is_zero_for_balanced_bits():
    means = [sum(2 * row[k] - 1 for row in SCORES.tolist()) / 2 for k in range(3)]
    assert bit_balance(SCORES).item() == pytest.approx(sum(m * m for m in means) / 3, rel=1e-10)
    assert bit_balance(torch.cat([SCORES, 1 - SCORES])).item() == pytest.approx(0)
    assert bit_balance(SCORES.round()[:1]).item() == 1
    assert bit_balance(SCORES[:0]).item() == 0


@settings(max_examples=60, deadline=None)
@given(n_bits=st.integers(2, 64), n_people=st.integers(1, 70), seed=st.integers(0, 3))
def test_centers_are_balanced_distinct_and_reproducible(n_bits, n_people, seed):
    try:
        centers = hash_centers(n_people, n_bits, seed)
    except UserError:
        assert n_people > math.comb(n_bits, n_bits // 2)
        return
    assert centers.shape == (n_people, n_bits)
    assert torch.equal(centers.abs(), torch.ones_like(centers))
    assert len(centers.unique(dim=0)) == n_people
    assert torch.equal(centers, hash_centers(n_people, n_bits, seed))
    sums = centers.sum(dim=1)
    # The pair of the rows of ones is all that is not balanced; an odd number of bits cannot be.
    assert (sums[: n_bits - 1].abs() == n_bits % 2).all() or n_bits == 2
    assert (sums.abs() > n_bits % 2).sum() <= 2


@pytest.mark.parametrize("n_bits", [2, 4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128])
def test_hadamard_centers_are_orthogonal_followed_by_complements(n_bits):
    centers = hash_centers(2 * n_bits, n_bits, 0)
    assert torch.equal(centers[:n_bits] @ centers[:n_bits].T, n_bits * torch.eye(n_bits))
    assert torch.equal(centers[n_bits:], -centers[:n_bits])
    if n_bits >= 8:
        # No bit is the same for everyone, of whom there are fewer than rows.
        assert (centers[: n_bits - 1].mean(dim=0).abs() < 1).all()


def test_other_seeds_give_other_centers():
    for n_people in (40, 200):
        assert not torch.equal(hash_centers(n_people, 48, 0), hash_centers(n_people, 48, 1))


def test_number_of_centers_is_limited_by_balanced_codes():
    assert len(hash_centers(20, 6, 0).unique(dim=0)) == 20
    with pytest.raises(UserError, match=r"n_bits=6: too few bits"):
        hash_centers(21, 6, 0)
