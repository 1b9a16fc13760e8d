"""The benchmarks' own references: what they compare with must be right, at sizes that take no time."""

import json

import benchmark_log_covariance
import benchmark_map
import benchmark_search
import cv2
import gpu
import numpy as np
import pytest
import torch

from facereel.functional import asymmetric_distance, mean_average_precision, unpack_codes
from facereel.video.align import TEMPLATE, TEMPLATE_MARGIN

CLIPS = benchmark_log_covariance.clips_of_interest(4, 6)


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize(("n_frames", "dim"), [(4, 6), (7, 4)])
def test_float64_gradient_against_80_digits(name, n_frames, dim):
    torch.manual_seed(1)
    clip = benchmark_log_covariance.clips_of_interest(n_frames, dim)[name][0]
    assert benchmark_log_covariance.slope_error(clip, torch.randn(dim, dim)) < 1e-9


@pytest.mark.parametrize("name", benchmark_log_covariance.OTHERS)
def test_other_implementations_give_the_same_result(name):
    frames = torch.randn(2, 4, 6, dtype=torch.float64)
    expected = benchmark_log_covariance.facereel(frames)
    assert torch.allclose(benchmark_log_covariance.POOLINGS[name](frames), expected, atol=1e-8)


def test_peak_memory_is_at_most_four_matrices_per_clip():
    """Result, incoming gradient, and little beside them; both are counted."""
    assert 2 <= benchmark_log_covariance.peak_matrices(8, 10, 320) <= 4


def test_map_agrees_with_the_loop_the_ranking_and_the_definition(monkeypatch):
    monkeypatch.setattr(benchmark_map, "N_PEOPLE", 5)  # so that every query has a match
    codes = benchmark_map.problem(20, 300)
    ordered = mean_average_precision(*codes, ties="database_order")
    assert ordered == pytest.approx(benchmark_map.usual_loop(codes, kind="stable"), abs=1e-12)
    assert mean_average_precision(*codes) == pytest.approx(benchmark_map.expected_by_definition(codes), abs=1e-12)
    bounds = [mean_average_precision(*codes, ties=ties) for ties in ("worst", "best")]
    assert bounds[0] <= benchmark_map.full_faiss_ranking(codes) <= bounds[1]


@pytest.mark.parametrize("n_codes", [4, 300])
def test_searches_agree_with_a_sort_of_all(n_codes):
    index, packed, scores = benchmark_search.problem(64, n_codes, 5)
    distances, expected = asymmetric_distance(scores, unpack_codes(packed, 64)).sort(dim=1)
    expected = expected[:, :10]
    for kind in ("all", 300):
        assert torch.equal(benchmark_search.search(index, scores, kind), expected)
    assert torch.equal(benchmark_search.product_search(packed, scores), expected)
    assert benchmark_search.error(packed, scores, distances[:, :10], expected) < 1e-12
    assert benchmark_search.error(packed, scores, distances[:, :10] + 0.5, expected) == pytest.approx(0.5)
    assert benchmark_search.found_again(expected.flip(1), expected) == 1
    assert benchmark_search.found_again(expected[:, :2], expected) == 2 / expected.shape[1]


def test_benchmark_of_the_gpu_makes_its_page_on_a_cpu(tmp_path, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path)])
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert not stop.value.code, page
    assert "no number here means anything" in page
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert {"command", "hardware", "driver", "cuda", "versions", "commit"} < found.keys()
    assert [f"## {name}" for name in gpu.SECTIONS] == [line for line in page.splitlines() if line.startswith("## ")]
    for name in gpu.SECTIONS:
        section = found["sections"][name]
        assert section["rows"]
        assert section["peak_mb"] > 0
        assert all(row.keys() == section["rows"][0].keys() for row in section["rows"])
        assert f"| {' | '.join(section['rows'][0])} |" in page
    steps = found["sections"]["A training step"]["rows"]
    assert [row["case"] for row in steps] == list(gpu.CASES)
    assert all(row["images a second"] > 0 and row["busy share"] > 0 for row in steps)
    assert found["sections"]["From film to codes"]["rows"][0]["tracks"] == 2


def test_failed_section_of_the_gpu_benchmark_is_reported_and_the_next_one_runs(tmp_path, monkeypatch):
    def fails(benchmark):
        """Fail."""
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu, "SECTIONS", {"A": fails, "Log-covariance": gpu.pooling})
    with pytest.raises(SystemExit, match="A runs: RuntimeError: out of memory"):
        gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path)])
    sections = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["sections"]
    assert (sections["A"]["rows"], len(sections["Log-covariance"]["rows"])) == ([], 2)


def dlib_benchmark():
    pytest.importorskip("dlib", reason="needs dlib: pip install dlib-bin", exc_type=ImportError)
    import benchmark_dlib_alignment

    return benchmark_dlib_alignment


def test_margin_and_shift_match_the_crop():
    benchmark = dlib_benchmark()
    # A crop of twice the standard margin whose middle lies a tenth right of and a fifth below the template's.
    points = (TEMPLATE.astype(float) - 56) * (150 / 112 / 2) + 75 - np.array([15, 30])
    margin, shift, error = benchmark.margin_and_shift(points)
    assert (margin, *shift, error) == pytest.approx((2 * TEMPLATE_MARGIN, 0.1, 0.2, 0), abs=1e-5)


def test_matrix_equals_the_dlib_chip():
    benchmark = dlib_benchmark()
    import dlib

    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (300, 320, 3), np.uint8), (0, 0), 4)
    corners = [(190, 110), (170, 114), (110, 130), (130, 124), (155, 165)]  # as its predictor of five points has them
    box = dlib.rectangle(90, 80, 210, 200)
    shape = dlib.full_object_detection(box, [dlib.point(*corner) for corner in corners])
    chip = dlib.get_face_chip(image, shape, size=150, padding=0.25)
    matrix = benchmark.chip_matrix(image, box, lambda *_: shape)
    assert np.abs(cv2.warpAffine(image, matrix, (150, 150)).astype(int) - chip).max() <= 2
