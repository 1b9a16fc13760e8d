import math

import faiss
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from facereel.errors import UserError
from facereel.functional import hamming_distance, pack_codes
from facereel.models import ItqHead, LdaItqHead, LshHead
from facereel.models.heads.fitted import itq_rotation

HEADS = (LshHead, ItqHead, LdaItqHead)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rotation(dim, seed):
    return torch.linalg.qr(torch.randn(dim, dim, generator=generator(seed))).Q


def people(n_people=30, n_each=20, dim=24, noise=0.5, seed=0) -> tuple[Tensor, Tensor]:
    """Features of people, with a mean that is far from zero."""
    random = generator(seed)
    labels = torch.arange(n_people).repeat_interleave(n_each)
    means = torch.randn(n_people, dim, generator=random) + 1.5
    return means[labels] + noise * torch.randn(len(labels), dim, generator=random), labels


def fitted(head, x, labels, n_bits=12, seed=0):
    head = head(x.shape[1], x.shape[1], n_bits)
    head.fit(x, labels, seed)
    return head


def logits(head, x):
    return head.forward_clips(x).logit().detach()


def quantization_error(values):
    """Of rotated components: the mean squared distance from their signs."""
    return (values - values.sign()).square().mean().item()


@pytest.mark.parametrize("head", HEADS)
def test_scores_have_unit_mean_magnitude_and_bits_are_balanced(head):
    x, labels = people()
    values = logits(fitted(head, x, labels), x)
    assert values.abs().mean() == pytest.approx(1, abs=1e-3)
    # Through the mean of unit features.
    assert values.mean(dim=0).abs().max() < 1e-3
    share = (values > 0).float().mean(dim=0)
    assert ((share > 0.3) & (share < 0.7)).all()


@pytest.mark.parametrize("head", HEADS)
def test_stills_and_clips_share_a_layer_that_ignores_their_length(head):
    x, labels = people()
    layer = fitted(head, x, labels)
    assert torch.equal(layer.forward_stills(x), layer.forward_clips(x))
    lengths = 0.1 + 5 * torch.rand(len(x), 1, generator=generator(4))
    assert torch.allclose(layer.forward_clips(x * lengths), layer.forward_clips(x), atol=1e-5)
    again = fitted(head, x * lengths, labels)
    assert ((again.forward_clips(x) > 0.5) == (layer.forward_clips(x) > 0.5)).float().mean() > 0.95


@pytest.mark.parametrize("head", HEADS)
def test_seeds_are_reproducible_and_keep_the_global_generator(head):
    x, labels = people()
    first = fitted(head, x, labels, seed=3)
    before = torch.get_rng_state()
    again = head(24, 24, 12)
    between = torch.get_rng_state()
    again.fit(x, labels, 3)
    assert torch.equal(torch.get_rng_state(), between)
    assert not torch.equal(before, between)
    assert torch.equal(first.both.weight, again.both.weight)
    assert torch.equal(first.both.bias, again.both.bias)
    assert not torch.allclose(first.both.weight, fitted(head, x, labels, seed=4).both.weight)


@pytest.mark.parametrize("head", HEADS)
def test_a_fitted_layer_can_be_trained_further(head):
    x, labels = people()
    layer = fitted(head, x, labels)
    layer.forward_clips(x).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


def test_lsh_distances_follow_the_angle():
    """A bit of two features differs with a chance of their angle over pi, seen from the mean (Charikar 2002)."""
    n_bits = 8192
    x = torch.randn(400, 16, generator=generator()) + 1
    layer = fitted(LshHead, x, torch.zeros(400), n_bits=n_bits)
    centered = normalize(x, dim=1)
    centered = normalize(centered - centered.mean(dim=0), dim=1)[:40]
    angles = (centered @ centered.T).clamp(-1, 1).arccos()
    codes = pack_codes(layer.forward_clips(x[:40]) > 0.5)
    shares = hamming_distance(codes, codes) / n_bits
    off = (shares - angles / math.pi)[~torch.eye(40, dtype=torch.bool)]
    assert off.abs().max() < 5 * 0.5 / math.sqrt(n_bits)
    assert angles.max() > 2  # all sorts of angles
    assert angles[~torch.eye(40, dtype=torch.bool)].min() < 1.2


def test_lsh_accepts_more_bits_than_features():
    x, labels = people()
    assert fitted(LshHead, x, labels, n_bits=100).forward_clips(x).shape == (600, 100)


def test_itq_finds_a_planted_rotation_up_to_order_and_signs():
    """Corners of a cube, turned: turned back, each component is a corner's."""
    dim = 6
    corners = torch.randint(0, 2, (3000, dim), generator=generator()).float() * 2 - 1
    corners += 0.1 * torch.randn(corners.shape, generator=generator(1))
    turned = corners @ rotation(dim, 2)
    turned -= turned.mean(dim=0)
    # A local optimum: some starts end beside the best one.
    found = min((itq_rotation(turned, seed) for seed in range(6)), key=lambda r: quantization_error(turned @ r))
    best = (rotation(dim, 2) @ found).abs()
    assert torch.equal(best.round().sum(dim=0), torch.ones(dim))
    assert torch.equal(best.round().sum(dim=1), torch.ones(dim))
    assert (best - best.round()).abs().max() < 0.05


def test_itq_is_orthogonal_and_beats_random_rotations():
    x = torch.randn(1000, 8, generator=generator()) * torch.linspace(0.3, 2, 8)
    x -= x.mean(dim=0)
    for seed in range(3):
        matrix = itq_rotation(x, seed)
        assert torch.allclose(matrix @ matrix.T, torch.eye(8), atol=1e-5)
        random = min(quantization_error(x @ rotation(8, i)) for i in range(20))
        assert quantization_error(x @ matrix) < 0.97 * random


def test_itq_iterations_never_increase_the_error():
    x = torch.randn(500, 8, generator=generator()) * torch.linspace(0.3, 2, 8)
    x -= x.mean(dim=0)
    errors = [quantization_error(x @ itq_rotation(x, 0, n)) for n in range(30)]
    assert (np.diff(errors) < 1e-5 * errors[0]).all()
    assert errors[-1] < 0.95 * errors[0]


def test_itq_quantizes_at_least_as_well_as_faiss():
    x, labels = people(n_people=100)
    unit = normalize(x, dim=1)
    layer = fitted(ItqHead, x, labels, n_bits=12)
    transform = faiss.ITQTransform(24, 12, True)
    transform.train(unit.numpy())
    expected = torch.from_numpy(transform.apply(unit.numpy()))

    def error(values):
        return quantization_error(values / values.square().mean().sqrt())

    assert error(logits(layer, x)) < 1.02 * error(expected)
    # Both project on the same principal components.
    directions = torch.linalg.qr(layer.both.weight.detach().T).Q
    centered = unit - unit.mean(dim=0)
    components = torch.linalg.svd(centered, full_matrices=False).Vh[:12].T
    assert torch.linalg.svdvals(directions.T @ components).min() > 0.999


def test_discriminants_ignore_variation_within_people():
    """A nuisance in a few directions takes ITQ's first bits; WhitenedItq spends next to nothing on it."""
    x, labels = people(n_people=60, dim=32, noise=0.3)
    nuisance = rotation(32, 5)[:8]
    x += 3 * torch.randn(len(x), 8, generator=generator(6)) @ nuisance
    train, test = labels < 40, labels >= 40

    def measured(head):
        """How much more two people differ than one does, in bits; and the nuisance's share of the weights."""
        layer = fitted(head, x[train], labels[train], n_bits=8)
        codes = pack_codes(layer.forward_clips(x[test]) > 0.5)
        distances = hamming_distance(codes, codes).float()
        same = labels[test][:, None] == labels[test]
        weight = layer.both.weight.detach()
        share = (weight @ nuisance.T).square().sum() / weight.square().sum()
        return (distances[~same].mean() - distances[same].mean()).item(), share.item()

    (itq, itq_share), (whitened, whitened_share) = measured(ItqHead), measured(LdaItqHead)
    assert itq_share > 0.9
    assert whitened_share < 0.05
    assert whitened > max(1.5, 2 * itq)


def test_more_shrinkage_suppresses_the_nuisance_more():
    x, labels = people(n_people=40, dim=32, noise=0.3)
    nuisance = rotation(32, 5)[:1]
    x += 8 * torch.randn(len(x), 1, generator=generator(6)) @ nuisance

    def share(shrinkage):
        head = LdaItqHead(32, 32, 16, shrinkage)
        head.fit(x, labels, 0)
        weight = head.both.weight.detach()
        return ((weight @ nuisance.T).square().sum() / weight.square().sum()).item()

    assert share(0.0) < share(2.0) < share(1000.0)


def test_only_discriminants_use_labels():
    x, labels = people()
    mixed = labels[torch.randperm(len(labels), generator=generator(1))]
    for head in HEADS:
        same = torch.allclose(fitted(head, x, labels).both.weight, fitted(head, x, mixed).both.weight)
        assert same == (head is not LdaItqHead)


@pytest.mark.parametrize(
    ("head", "n_people", "n_each", "n_bits", "message"),
    [
        (ItqHead, 30, 20, 25, r"n_bits=25: ITQ needs at least as many features \(24\) and .* \(600\) as bits"),
        (ItqHead, 5, 2, 11, r"n_bits=11: .* \(24\) and .* \(10\)"),
        (LdaItqHead, 12, 20, 12, r"n_bits=12: .* of 12 people have at most 11"),
        (LdaItqHead, 40, 20, 25, r"n_bits=25: .* at most 24"),
        (LdaItqHead, 40, 1, 5, r"n_bits=5: .* of 40 training items of 40 people have at most 0"),
        (LshHead, 1, 1, 8, "a single image or clip, or to identical ones"),
        (ItqHead, 1, 1, 1, "a single image or clip, or to identical ones"),
    ],
)
def test_too_little_data_gives_a_one_line_error(head, n_people, n_each, n_bits, message):
    with pytest.raises(UserError, match=message) as caught:
        fitted(head, *people(n_people, n_each), n_bits=n_bits)
    assert "\n" not in str(caught.value)


def test_largest_possible_number_of_bits_is_accepted():
    assert fitted(ItqHead, *people(30, 20), n_bits=24).both.weight.isfinite().all()
    assert fitted(LdaItqHead, *people(13, 20), n_bits=12).both.weight.isfinite().all()


@pytest.mark.parametrize(("options", "message"), [({"n_bits": 0}, "n_bits=0"), ({"shrinkage": -1.0}, "shrinkage=-1")])
def test_numbers_out_of_range_raise(options, message):
    with pytest.raises(UserError, match=message):
        LdaItqHead(**{"still_dim": 4, "clip_dim": 4, "n_bits": 3, **options})


@pytest.mark.parametrize("head", HEADS)
def test_input_length_changes_the_gradient_but_not_the_scores(head):
    x, labels = people()
    short, long = fitted(head, x, labels), head(24, 24, 12, length=30.0)
    long.fit(x, labels, 0)
    assert torch.allclose(short.forward_clips(x), long.forward_clips(x), atol=1e-5)
    for each in (short, long):
        each.forward_clips(x).sum().backward()
    assert long.both.weight.grad.norm() == pytest.approx(30 * short.both.weight.grad.norm().item(), rel=1e-3)
    with pytest.raises(UserError, match="length=0: must be > 0"):
        head(24, 24, 12, length=0)
