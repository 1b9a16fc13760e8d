"""The losses of codes, against loops over codes, people and bits."""

import math
from typing import Any

import pytest
import torch

from facereel.errors import UserError
from facereel.losses import (
    CodeClassificationLoss,
    HashCenterLoss,
    MetricLearningLoss,
    MultiSimilarityLoss,
    OrthoHashLoss,
    Outputs,
)
from facereel.losses.binarize import bit_balance, quantization

LABELS = torch.tensor([0, 0, 1, 1, 0, 2, 1, 2])
LOSSES = {
    "csq": lambda **options: HashCenterLoss(3, 6, **options),
    "orthohash": lambda **options: OrthoHashLoss(3, 6, **options),
    "code_classification": lambda **options: CodeClassificationLoss(3, 6, **options),
    "multi_similarity": lambda **options: MultiSimilarityLoss(**options),
}


def outputs(scores, labels=LABELS):
    labels = labels[: len(scores)]
    return Outputs(scores, labels, scores, labels, torch.zeros(len(scores), dtype=torch.bool))


def some_scores(n=8):
    return 0.05 + 0.9 * torch.rand(n, 6, dtype=torch.float64)


def slow_margin_softmax(codes, vectors, scale, margin):
    terms = []
    for x, y in zip(codes, LABELS.tolist(), strict=True):
        logits = [
            scale * (float(x @ w) / float(x.norm() * w.norm()) - (margin if c == y else 0))
            for c, w in enumerate(vectors)
        ]
        terms.append(math.log(sum(map(math.exp, logits))) - logits[y])
    return sum(terms) / len(terms)


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_csq_equals_the_loop_over_bits(weight):
    scores, loss = some_scores(), HashCenterLoss(3, 6, seed=1, quantization_weight=weight)
    terms = []
    for row, y in zip(scores.tolist(), LABELS.tolist(), strict=True):
        for s, c in zip(row, loss.centers[y].tolist(), strict=True):
            terms.append(-math.log(s if c > 0 else 1 - s) + weight * math.log(math.cosh(1 - abs(2 * s - 1))))
    assert loss(outputs(scores)).item() == pytest.approx(sum(terms) / len(terms), rel=1e-10)


def test_orthohash_equals_the_loop_over_people():
    scores, loss = some_scores(), OrthoHashLoss(3, 6, seed=1, scale=5.0, margin=0.3).double()
    expected = slow_margin_softmax(2 * scores - 1, loss.centers, 5.0, 0.3)
    assert loss(outputs(scores)).item() == pytest.approx(expected, rel=1e-10)


def test_multi_similarity_equals_the_loop_over_pairs():
    scores, loss = some_scores(), MultiSimilarityLoss(positive_scale=2.0, negative_scale=9.0, base=0.2)
    codes = (2 * scores - 1).tolist()
    terms = []
    for i, a in enumerate(codes):
        similarities = {j: sum(x * y for x, y in zip(a, b, strict=True)) / 6 for j, b in enumerate(codes) if j != i}
        same = [s for j, s in similarities.items() if LABELS[j] == LABELS[i]]
        others = [s for j, s in similarities.items() if LABELS[j] != LABELS[i]]
        terms.append(math.log(1 + sum(math.exp(-2 * (s - 0.2)) for s in same)) / 2)
        terms.append(math.log(1 + sum(math.exp(9 * (s - 0.2)) for s in others)) / 9)
    assert loss(outputs(scores)).item() == pytest.approx(sum(terms) / len(codes), rel=1e-10)


def test_multi_similarity_pushes_codes_to_bits():
    """Two codes of one person, whose signs agree: moving both toward 0 and 1 lowers the loss. A cosine sees nothing."""
    weak = torch.tensor([[0.6, 0.4, 0.6], [0.7, 0.3, 0.6]])
    strong = torch.tensor([[0.9, 0.1, 0.9], [0.95, 0.05, 0.9]])
    loss, labels = MultiSimilarityLoss(), torch.tensor([1, 1])
    assert loss(outputs(strong, labels)) < loss(outputs(weak, labels))


@pytest.mark.parametrize("relaxation", ["straight_through", "scaled_tanh"])
def test_code_classification_equals_the_loop_over_people(relaxation):
    loss = CodeClassificationLoss(
        3, 6, scale=5.0, margin=0.3, relaxation=relaxation, slope=3.0, quantization_weight=0.7, balance_weight=0.4
    ).double()
    scores = some_scores()
    codes = torch.where(scores > 0.5, 1.0, -1.0).double()
    if relaxation == "scaled_tanh":
        slow = [[math.tanh(1.5 * math.log(s / (1 - s))) for s in row] for row in scores.tolist()]
        codes = torch.tensor(slow, dtype=torch.float64)
    expected = slow_margin_softmax(codes, loss.weight.detach(), 5.0, 0.3)
    expected += 0.7 * quantization(scores).item() + 0.4 * bit_balance(scores).item()
    assert loss(outputs(scores)).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    # Its other relaxation has by design not the gradient of what it computes.
    options = {"relaxation": "scaled_tanh", "slope": 2.0} if name == "code_classification" else {}
    loss = LOSSES[name](**options).double()
    assert torch.autograd.gradcheck(lambda s: loss(outputs(s)), some_scores().requires_grad_())


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "multi_similarity"])
def test_codes_at_their_centers_cost_less_than_others(name):
    loss = LOSSES[name]()
    centers: Any = loss.weight if name == "code_classification" else loss.centers
    at_home = (centers[LABELS] > 0).float()
    assert loss(outputs(at_home)) < loss(outputs(1 - at_home))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scores", [torch.zeros(8, 6), torch.ones(8, 6), torch.full((1, 6), 0.3)])
def test_unusual_batches_give_finite_losses(name, scores):
    scores = scores.clone().requires_grad_()
    value = LOSSES[name]()(outputs(scores))
    value.backward()
    assert value.isfinite()
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_codes_costs_nothing(name):
    scores = torch.empty(0, 6, requires_grad=True)
    loss = LOSSES[name]()
    value = loss(outputs(scores))
    value.backward()
    assert value.item() == 0
    assert all(not parameter.grad.any() for parameter in loss.parameters())


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_does_not_round_codes(name):
    loss, batch = LOSSES[name](), outputs(torch.rand(8, 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(batch)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(batch))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("csq", {"quantization_weight": -1.0}),
        ("orthohash", {"scale": 0.0}),
        ("orthohash", {"margin": -0.1}),
        ("code_classification", {"scale": math.nan}),
        ("code_classification", {"slope": math.inf}),
        ("code_classification", {"balance_weight": -1.0}),
        ("code_classification", {"quantization_weight": math.inf}),
        ("code_classification", {"relaxation": "gumbel"}),
    ],
)
def test_numbers_out_of_range_raise(name, options):
    with pytest.raises(UserError, match=f"loss {next(iter(options))}="):
        LOSSES[name](**options)


def test_losses_and_miners_are_called_with_signs():
    def mine(codes, labels):
        return codes.amax(), labels

    def loss(codes, labels, found=None):
        return codes.sum() if found is None else found[0] + found[1].sum()

    scores = some_scores()
    assert MetricLearningLoss(loss)(outputs(scores)).item() == pytest.approx((2 * scores - 1).sum().item())
    mined = MetricLearningLoss(loss, mine)(outputs(scores))
    assert mined.item() == pytest.approx((2 * scores - 1).max().item() + LABELS.sum().item())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        squared = MetricLearningLoss(lambda codes, labels: (codes @ codes.T).sum())(outputs(scores.float()))
    assert squared.dtype == torch.float32
    empty = torch.empty(0, 6, requires_grad=True)
    MetricLearningLoss(loss, mine)(outputs(empty)).backward()


@pytest.mark.parametrize("mined", [False, True])
def test_adapter_gives_the_same_loss_as_pytorch_metric_learning(mined):
    reason = "needs pytorch-metric-learning: pip install 'facereel[metric]'"
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason=reason)
    miners = pytest.importorskip("pytorch_metric_learning.miners", reason=reason)
    loss, miner = losses.MultiSimilarityLoss(), miners.MultiSimilarityMiner() if mined else None
    scores = some_scores().requires_grad_()
    value = MetricLearningLoss(loss, miner)(outputs(scores))
    (gradient,) = torch.autograd.grad(value, scores)
    codes = (2 * scores.detach() - 1).requires_grad_()
    expected = loss(codes, LABELS, miner(codes, LABELS)) if mined else loss(codes, LABELS)
    expected.backward()
    assert value.item() == pytest.approx(expected.item())
    assert value.item() > 0
    torch.testing.assert_close(gradient, 2 * codes.grad)
    assert MetricLearningLoss(loss, miner)(outputs(scores[:1])).item() == 0
    assert MetricLearningLoss(loss, miner)(outputs(scores[:0])).item() == 0
