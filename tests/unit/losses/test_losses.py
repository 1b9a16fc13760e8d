import itertools

import pytest
import torch

from facereel.errors import UserError
from facereel.losses import ClassificationLoss, Outputs, TripletLoss

LABELS = torch.tensor([0, 0, 1, 1, 0, 2, 1, 2])
IS_CLIP = torch.tensor([True, True, True, True, False, False, False, False])
# Anchor, positive, negative of stage 2, as the specification lists them; True is a clip.
CROSS_MODAL = {(True, False, False), (True, True, False), (False, True, True), (False, False, True)}


def outputs(scores):
    return Outputs(scores, LABELS, scores, LABELS, IS_CLIP)


def slow_triplet_loss(scores, margin, pairs, index_order):
    terms = []
    for a, p, n in itertools.product(range(len(scores)), repeat=3):
        if a == p or LABELS[a] != LABELS[p] or LABELS[a] == LABELS[n]:
            continue
        if pairs == "cross_modal" and (bool(IS_CLIP[a]), bool(IS_CLIP[p]), bool(IS_CLIP[n])) not in CROSS_MODAL:
            continue
        if index_order and not a < p < n:
            continue
        positive, negative = (scores[a] - scores[p]).square().sum(), (scores[a] - scores[n]).square().sum()
        terms.append(torch.clamp(margin + positive - negative, min=0))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("pairs", ["all", "cross_modal"])
@pytest.mark.parametrize("index_order", [False, True])
@pytest.mark.parametrize("margin", [0.5, 3.0])
def test_triplet_loss_equals_the_loop_over_triplets(pairs, index_order, margin):
    scores = torch.rand(8, 6, dtype=torch.float64)
    expected = slow_triplet_loss(scores, margin, pairs, index_order)
    loss = TripletLoss(margin, pairs, index_order)(outputs(scores))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)


def test_triplet_loss_has_the_right_gradient():
    scores = torch.rand(8, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: TripletLoss(1.0, "cross_modal")(outputs(s)), scores)


def test_margin_options():
    scores = torch.rand(8, 6)
    plain = TripletLoss(3.0)(outputs(scores))
    assert TripletLoss(0.5, n_bits=6)(outputs(scores)).item() == pytest.approx(plain.item())
    assert TripletLoss(3.0, divide_by_margin=True)(outputs(scores)).item() == pytest.approx(plain.item() / 3)


def test_a_batch_without_a_triplet_costs_nothing():
    scores = torch.rand(3, 4, requires_grad=True)
    labels, is_clip = torch.tensor([0, 1, 2]), torch.tensor([True, False, False])
    loss = TripletLoss(2.0)(Outputs(scores, labels, scores, labels, is_clip))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(scores.grad, torch.zeros(3, 4))


@pytest.mark.parametrize(("margin", "pairs"), [(0.0, "all"), (-1.0, "all"), (1.0, "hardest")])
def test_triplet_loss_rejects_wrong_options(margin, pairs):
    with pytest.raises(UserError, match="loss"):
        TripletLoss(margin, pairs)


def test_classification_loss_equals_its_definition():
    loss = ClassificationLoss(n_people=3, dim=5, scale=10.0, margin=0.3).double()
    features = torch.randn(8, 5, dtype=torch.float64)
    terms = []
    for x, y in zip(features, LABELS.tolist(), strict=True):
        logits = [10 * (x @ w / (x.norm() * w.norm()) - (0.3 if c == y else 0)) for c, w in enumerate(loss.weight)]
        terms.append(-(logits[y] - torch.logsumexp(torch.stack(logits), dim=0)))
    value = loss(Outputs(features, LABELS, features[:0], LABELS[:0], LABELS[:0].bool()))
    assert value.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-10)
