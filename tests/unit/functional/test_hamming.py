import numpy as np
import pytest
import torch

from facereel.functional import hamming_distance, pack_codes, unpack_codes


@pytest.mark.parametrize("n_bits", [1, 7, 8, 12, 48, 65])
def test_packing_matches_numpy_and_is_invertible(n_bits):
    codes = torch.rand(11, n_bits) > 0.5
    packed = pack_codes(codes)
    assert np.array_equal(packed.numpy(), np.packbits(codes.numpy(), axis=1))
    assert torch.equal(unpack_codes(packed, n_bits), codes)


@pytest.mark.parametrize("n_bits", [1, 12, 48, 130])
def test_distance_counts_differing_bits(n_bits):
    a, b = torch.rand(5, n_bits) > 0.5, torch.rand(9, n_bits) > 0.5
    expected = [[sum(x != y for x, y in zip(p, q, strict=True)) for q in b.tolist()] for p in a.tolist()]
    assert hamming_distance(pack_codes(a), pack_codes(b)).tolist() == expected


def test_empty_inputs_give_the_right_shapes():
    none, some = torch.zeros(0, 12, dtype=torch.bool), torch.ones(3, 12, dtype=torch.bool)
    assert hamming_distance(pack_codes(none), pack_codes(some)).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pack_codes(torch.zeros(2, 3)), "codes must be bool"),
        (lambda: pack_codes(torch.zeros(3, dtype=torch.bool)), "codes must be bool"),
        (lambda: unpack_codes(torch.zeros(2, 1, dtype=torch.uint8), 9), "9 bits need 2 bytes"),
        (lambda: hamming_distance(torch.zeros(2, 1), torch.zeros(2, 1)), "must be uint8"),
        (
            lambda: hamming_distance(torch.zeros(2, 1, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.uint8)),
            "must have the same width",
        ),
    ],
)
def test_wrong_input_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call()
