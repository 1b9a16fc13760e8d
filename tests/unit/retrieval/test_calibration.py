import math

import numpy as np
import pytest
import torch
from made_features import ABOUT, feature_of, rotation_model

from facereel.errors import UserError
from facereel.retrieval.calibration import Calibration, fit_calibration, pair_distances, read_calibration
from facereel.retrieval.encode import EncodedFace, hash_feature
from facereel.retrieval.track_index import NewTrack, TrackIndex, VideoRecord


def pairs(n_same, n_different, seed=0):
    random = np.random.default_rng(seed)
    distances = np.concatenate([random.normal(0.2, 0.05, n_same), random.normal(0.45, 0.05, n_different)])
    return distances, np.arange(len(distances)) < n_same


def test_fit_recovers_the_likelihood_ratio_of_two_normal_distributions():
    # Equal variances: the log-likelihood ratio is a line with slope (m1 - m0) / v, zero in the middle.
    found = fit_calibration(*pairs(20_000, 400_000))
    assert found.slope == pytest.approx(0.25 / 0.05**2, rel=0.1)
    assert found.intercept / found.slope == pytest.approx(0.325, abs=0.005)


def test_probabilities_are_right_on_average():
    calibration = fit_calibration(*pairs(3_000, 900_000))
    # Odds of 1 to 500 before the distance is known.
    distances, true = pairs(600, 300_000, seed=1)
    said = np.array([calibration.probability(distance, 500) for distance in distances])
    for low, high in ((0.05, 0.5), (0.5, 0.95)):
        chosen = (said >= low) & (said < high)
        expected, measured = said[chosen].mean(), true[chosen].mean()
        assert measured == pytest.approx(expected, abs=0.12)


def test_threshold_has_a_probability_of_one_half():
    calibration = Calibration(20.0, 50.0)
    assert calibration.threshold(3) == calibration.threshold(500) > calibration.threshold(501)
    for n_tracks in (1, 100, 10**6):
        assert calibration.probability(calibration.threshold(n_tracks), n_tracks) == pytest.approx(0.5)
    odds = math.exp(-1.8)
    assert calibration.probability(calibration.threshold(900, -1.8), 900) == pytest.approx(odds / (1 + odds))
    assert Calibration(1.0, 50.0).threshold(10**6) == 0
    assert calibration.probability(1e9, 10) == pytest.approx(0, abs=1e-12)


def test_separate_kinds_have_a_finite_calibration():
    distances = np.array([0.1, 0.1, 0.5, 0.5, 0.5])
    found = fit_calibration(distances, distances < 0.3)
    assert 0.1 < found.threshold(1) < 0.5
    assert math.isfinite(found.slope)


@pytest.mark.parametrize("is_same", [[True, True, True], [False, False, False]])
def test_one_kind_of_pairs_is_refused(is_same):
    with pytest.raises(UserError, match="the same people and of different people"):
        fit_calibration(np.array([0.1, 0.2, 0.3]), np.array(is_same))


def test_distances_the_wrong_way_round_are_refused():
    with pytest.raises(UserError, match="are not smaller"):
        fit_calibration(np.array([0.1, 0.2, 0.6, 0.7]), np.array([False, False, True, True]))


def test_rates_of_older_indexes_are_read():
    # The threshold of N tracks was where the false match rate is 1 / (4 N).
    rates = [[10.0**-i, 0.3 - 0.03 * i] for i in range(1, 6)]
    found = read_calibration(rates)
    assert found is not None
    for n_tracks in (2_500, 25_000):
        assert found.threshold(n_tracks) == pytest.approx(0.3 - 0.03 * math.log10(4 * n_tracks), abs=1e-9)
    assert read_calibration(None) is None
    assert read_calibration([]) is None


@pytest.mark.parametrize(
    "value", [{"intercept": 1.0, "slope": 0.0}, {"intercept": math.nan, "slope": 1.0}, {"slope": 1}]
)
def test_damaged_calibration_raises(value):
    with pytest.raises((ValueError, KeyError)):
        read_calibration(value)


def test_distances_equal_those_of_a_search(tmp_path):
    model = rotation_model()
    faces = [hash_feature(feature_of(i % 3, i), model) for i in range(9)]
    queries = [hash_feature(feature_of(i, 50 + i), model) for i in range(3)]
    for codes_only in (True, False):
        index = TrackIndex.create(tmp_path / str(codes_only), model, ABOUT, {"features": not codes_only})
        tracks = [NewTrack(i, None, None, None, one.code, b"", one.feature) for i, one in enumerate(faces)]
        index.upsert_video(VideoRecord("/a", "s", None, "t"), tracks)
        expected = pair_distances(queries, faces, codes_only)
        for query, row in zip(queries, expected, strict=True):
            feature = None if codes_only else query.feature
            found = index.search(query.code, 9, scores=query.scores, feature=feature)
            for match in found:
                assert match.distance == pytest.approx(
                    row[match.track.number], abs=2e-3 if feature is not None else 1e-5
                )


def test_distance_of_features_is_half_of_one_minus_the_cosine():
    a, b = torch.eye(3)[0], torch.tensor([0.6, 0.8, 0.0])
    nothing = torch.zeros(1, dtype=torch.bool), torch.zeros(1)
    distances = pair_distances([EncodedFace(*nothing, a)], [EncodedFace(*nothing, x) for x in (a, b, -a)], False)
    assert distances == pytest.approx(np.array([[0.0, 0.2, 1.0]]))
