import base64
import os
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from drawn_faces import make_folder

from facereel.data import Skipped, load_faces, read_folder
from facereel.evaluation import ClosedSet, charts, encode_part, evaluate_codes
from facereel.evaluation.charts import precision_recall_points
from facereel.evaluation.evaluate import Evaluation
from facereel.evaluation.report import query_rows, read_curves, write_report
from facereel.models import VideoHasher
from facereel.models.hasher import DEFAULT_CONFIG

DRAWN = dict(vars(charts))  # before conftest.py replaces some


@pytest.fixture(autouse=True)
def _charts_are_drawn(monkeypatch):
    for name, value in DRAWN.items():
        monkeypatch.setattr(charts, name, value)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("faces") / "<b>&", n_people=3)
    faces = load_faces(read_folder(root, Skipped()), Skipped(), size=16)
    faces.people[0] = "<script>alert(1)</script>"
    split = ClosedSet(0.3, 0.0).split(faces, 0)
    hasher = VideoHasher({**DEFAULT_CONFIG, "preprocess": {"_target_": "facereel.models.Preprocess", "size": 16}})
    results = evaluate_codes(encode_part(hasher, faces, split.test), encode_part(hasher, faces, split.train))
    return faces, split, results


def page(evaluated, path, comparison=None, verification=None):
    faces, split, results = evaluated
    tensors = {
        name: {task: torch.tensor([v]) for task, v in tasks.items()} for name, tasks in (comparison or {}).items()
    }
    metrics = {
        "protocol": "closed_set",
        "n_bits": 48,
        "seed": 0,
        "weights": "none",
        "split_sha256": split.sha256,
        "hardware": "x",
        "versions": {"torch": "2"},
        "tasks": {task: {**result.metrics, "mAP_interval": [0.2345, 0.5678]} for task, result in results.items()},
        "verification": verification,
    }
    write_report(path, Evaluation(faces, split, metrics, results, precisions=tensors))
    return path.read_text(encoding="utf-8")


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))


def test_page_is_self_contained(evaluated, tmp_path):
    html = page(evaluated, tmp_path / "report.html")
    parsed = Tags(html)
    sources = [attributes["src"] for tag, attributes in parsed.attributes if tag == "img"]
    assert len(sources) > 20
    assert all(source.startswith("data:image/") for source in sources)
    assert all(attributes.get("alt") for tag, attributes in parsed.attributes if tag == "img")
    assert not re.search(r"https?://", re.sub(r"data:[^\"]*", "", html))
    assert "script" not in parsed.tags
    assert "&lt;script&gt;" in html
    for value in (result.metrics["mAP"] for result in evaluated[2].values()):
        assert f"{value:.3f}" in html
    assert html.count("<td>0.234 to 0.568</td>") == len(evaluated[2])


def test_pairs_have_a_section_without_empty_sections(evaluated, tmp_path):
    faces, split, _ = evaluated
    kinds: dict[str, dict[str, Any]] = {
        "codes": {"accuracy": 0.812, "accuracy_std": 0.034, "eer": 0.256, "auc": 0.878},
        "real_valued": {"accuracy": 0.823, "accuracy_std": 0.045, "eer": 0.267, "auc": 0.889},
    }
    for figures in kinds.values():
        figures["roc"] = {"fpr": [0, 0.2, 1], "tpr": [0, 0.7, 1]}
        figures |= {"accuracy_interval": [0.798, 0.834], "eer_interval": None, "auc_interval": [0.86, 0.9]}
        figures |= {"tmr_at_fmr": {"0.1": 0.765, "0.01": 0.654, "0.001": None}}
        figures |= {"tmr_at_fmr_interval": {"0.1": [0.741, 0.788], "0.01": None, "0.001": None}}
    counts = {"pairs": "splits.txt", "n_pairs": 88, "n_pairs_absent": 12, "n_folds": 10}
    html = page((faces, split, {}), tmp_path / "report.html", verification={**counts, **kinds})
    for text in ("0.812", "0.034", "0.256", "0.878", "0.889", "88 pairs", "in 10 folds", "missing: 12."):
        assert text in html
    for name, cell in (
        ("accuracy, mean over folds", "0.812 (0.798 to 0.834)"),
        ("equal error rate", "0.256"),
        ("TMR at FMR 0.1", "0.765 (0.741 to 0.788)"),
        ("TMR at FMR 0.01", "0.654"),
    ):
        assert f'<th scope="row">{name}</th><td>{cell}</td>' in html
    assert "FMR 0.001" not in html
    headings = re.findall("<h2>(.*?)</h2>", html)
    assert headings == ["Verification: same person or not", "How these results were computed"]
    (chart,) = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", html)
    drawn = base64.b64decode(chart).decode()
    assert "codes, Hamming distance" in drawn
    assert "true match rate, 95% intervals" in drawn
    assert "Verification: same person or not" not in page(evaluated, tmp_path / "report.html")


def test_charts_draw_their_data(evaluated, tmp_path):
    html = page(evaluated, tmp_path / "report.html")
    charts = [base64.b64decode(uri).decode() for uri in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", html)]
    assert len(charts) == 2
    curves, histograms = charts
    for task in evaluated[2]:
        assert task.replace("_", " ") in curves
        assert task.replace("_", " ") in histograms
    # Two kinds of pairs in each of four panels, each an outline of many steps; an empty panel would have none.
    assert sum(path.count("L") > 9 for path in re.findall(r'<path d="([^"]+)"', histograms)) == 4 * 2


def test_best_value_of_a_comparison_is_bold(evaluated, tmp_path):
    tasks = evaluated[2]
    comparison = {"good": dict.fromkeys(tasks, 0.987), "bad": dict.fromkeys(tasks, 0.123)}
    html = page(evaluated, tmp_path / "report.html", comparison)
    assert html.count('class="best">0.987') == len(tasks)
    assert html.count("0.123") == len(tasks)
    assert 'class="best">0.123' not in html


def test_hits_are_the_nearest_items_and_the_farthest_match(evaluated):
    faces, _, results = evaluated
    result = results["still_to_clip"]
    for row in query_rows(result, faces):
        distances = [hit.distance for hit in row.nearest]
        assert distances == sorted(distances)
        assert [hit.rank for hit in row.nearest] == list(range(1, len(row.nearest) + 1))
        assert row.farthest_match.right
        assert all(hit.right == (hit.person == row.person) for hit in row.nearest)
    values = [row.average_precision for row in query_rows(result, faces)]
    assert values == sorted(values, reverse=True)


def test_precision_and_recall_within_each_radius():
    n_items = torch.tensor([[1, 0, 3], [0, 2, 2], [1, 1, 2]])
    n_relevant = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    recall, precision = precision_recall_points(n_items, n_relevant)
    # The third query has no match. Within radius 0 the second finds nothing: only the first has a precision.
    assert recall.tolist() == pytest.approx([0.25, 0.75, 1.0])
    assert precision.tolist() == pytest.approx([1.0, (1 + 0.5) / 2, (0.5 + 0.25) / 2])


def test_training_curves_are_read_in_order(tmp_path):
    for seconds, (name, text) in enumerate(
        {
            "stage2/metrics-before-resume-1.csv": "epoch,step,train/loss,val/mAP\n0,0,4.0,\n0,1,,0.25\n",
            "stage2/metrics.csv": "epoch,step,train/loss,val/mAP\n1,2,3.0,\n",
            "stage1/metrics.csv": "epoch,step,train/loss\n0,5,2.5\n0,6,\n",
            "fit/metrics.csv": "epoch,step,train/loss\n",
        }.items()
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        os.utime(path, (seconds, seconds))
    curves = read_curves(tmp_path)
    assert list(curves.items()) == [
        ("stage2", {"train/loss": [(0, 4.0), (2, 3.0)], "val/mAP": [(1, 0.25)]}),
        ("stage1", {"train/loss": [(5, 2.5)], "val/mAP": []}),
    ]
    assert charts.training_curves(curves).startswith("data:image/svg+xml;base64,")


def test_truncated_log_rows_are_dropped(tmp_path):
    """A cell that is no number, cells too many, none, and no text at all."""
    log = tmp_path / "stage1" / "metrics.csv"
    log.parent.mkdir()
    rows = b"step,train/loss,val/mAP\n9,1.5,\n19,1.2x,\n29,1.0,0.5,0.5\n39\n49,0.5,\n\xff\x00\n"
    log.write_bytes(rows)
    assert read_curves(tmp_path) == {"stage1": {"train/loss": [(9.0, 1.5), (49.0, 0.5)], "val/mAP": []}}
