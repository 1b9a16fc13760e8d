import pytest
import torch

from facereel.functional import asymmetric_distance, hamming_distance, pack_codes


@pytest.mark.parametrize("n_bits", [1, 8, 12, 24, 48, 64, 128])
@pytest.mark.parametrize(("n_queries", "n_codes"), [(0, 3), (3, 0), (1, 40), (37, 20)])
def test_equals_the_definition(n_bits, n_queries, n_codes):
    scores, codes = torch.rand(n_queries, n_bits), torch.rand(n_codes, n_bits) > 0.5
    found = asymmetric_distance(scores, codes)
    assert found.shape == (n_queries, n_codes)
    assert found.dtype == torch.float64
    for q in range(n_queries):
        for n in range(n_codes):
            expected = sum(
                (s - float(c)) ** 2 for s, c in zip(scores[q].double().tolist(), codes[n].tolist(), strict=True)
            )
            assert float(found[q, n]) == pytest.approx(expected, abs=1e-12)


def test_binary_scores_give_the_hamming_distance():
    a, b = torch.rand(20, 48) > 0.5, torch.rand(30, 48) > 0.5
    assert torch.equal(asymmetric_distance(a.float(), b).long(), hamming_distance(pack_codes(a), pack_codes(b)))


def test_equal_codes_tie_exactly_at_any_position():
    codes = (torch.rand(7, 48) > 0.5).repeat(41, 1)
    distances = asymmetric_distance(torch.rand(33, 48), codes).view(33, 41, 7)
    assert torch.equal(distances, distances[:, :1].expand_as(distances))


@pytest.mark.parametrize(
    ("scores", "codes", "message"),
    [
        (torch.rand(2, 8), torch.zeros(2, 9, dtype=torch.bool), r"scores must be float \(Q, K\)"),
        (torch.zeros(2, 8, dtype=torch.bool), torch.zeros(2, 8, dtype=torch.bool), "scores must be float"),
        (torch.rand(8), torch.zeros(2, 8, dtype=torch.bool), "scores must be float"),
        (torch.rand(2, 8), torch.rand(2, 8), "codes must be bool"),
    ],
)
def test_wrong_input_raises(scores, codes, message):
    with pytest.raises(ValueError, match=message):
        asymmetric_distance(scores, codes)
