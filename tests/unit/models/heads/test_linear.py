import pytest
import torch

from facereel.data import Still
from facereel.evaluation.encode import Encoded
from facereel.evaluation.metrics import evaluate_task
from facereel.models import SeparateHeads


def scored(scores, people):
    items = [Still(int(p), f"{i}", f"{i}", i) for i, p in enumerate(people)]
    return Encoded(scores > 0.5, scores, people, items)


def heads_of_two_scales(dim=16, n_bits=24):
    """Both layers with the same hyperplanes, the clips' logits a thousandth of the stills'."""
    torch.manual_seed(0)
    heads = SeparateHeads(dim, dim, n_bits).eval()
    with torch.no_grad():
        for still, clip in zip(heads.still.parameters(), heads.clip.parameters(), strict=True):
            still.mul_(10)
            clip.copy_(still / 1000)
    return heads


@torch.no_grad()
def test_calibrated_real_valued_rankings_are_at_least_as_good_as_codes():
    heads, random = heads_of_two_scales(), torch.Generator().manual_seed(1)
    people = torch.arange(20).repeat(4)
    means = torch.randn(20, 16, generator=random)
    stills, clips = (means[people] + 0.8 * torch.randn(80, 16, generator=random) for _ in range(2))

    def mean_precision():
        query = scored(heads.forward_clips(clips), people)
        result = evaluate_task(query, scored(heads.forward_stills(stills), people), "item")
        return result.metrics["mAP"], result.metrics["mAP_real_valued"]

    codes, real_valued = mean_precision()
    assert real_valued < 0.5 * codes  # what the calibration is for
    heads.calibrate(heads.forward_stills(stills), heads.forward_clips(clips))
    after, real_valued = mean_precision()
    assert after == codes
    assert real_valued > codes
    for layer, x in ((heads.still, stills), (heads.clip, clips)):
        # Outputs that rounded to 0 or 1 were taken for less than they were.
        assert layer(x).logit().abs().mean() == pytest.approx(1, abs=0.1)


def test_layer_without_scores_is_not_changed():
    heads = heads_of_two_scales()
    before = [parameter.clone() for parameter in heads.clip.parameters()]
    heads.calibrate(torch.rand(5, 24), torch.zeros(0, 24))
    assert all(torch.equal(a, b) for a, b in zip(heads.clip.parameters(), before, strict=True))
