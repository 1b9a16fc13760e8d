"""facereel evaluate on drawn copies of IJB-B and IJB-C, and what a search of other people adds."""

import json
import sys

import pytest
from commands import run
from drawn_faces import make_folder
from drawn_ijb import make_insightface, make_nist

from facereel.models import VideoHasher
from facereel.models.hasher import DEFAULT_CONFIG

FIGURES = {"tmr_at_fmr": 6, "rank": 3, "tpir_at_fpir": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    VideoHasher({**DEFAULT_CONFIG, "preprocess": {"_target_": "facereel.models.Preprocess", "size": 16}}).save(folder)
    return folder


def evaluate(model, out, *arguments):
    assert run("evaluate", f"checkpoint={model}", "data.detector=null", *arguments, f"out={out}") == 0
    return json.loads((out / "metrics.json").read_text()), (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("make", [make_insightface, make_nist])
@pytest.mark.parametrize("protocol", ["ijb_verification", "ijb_identification"])
def test_templates_are_evaluated(make, protocol, model, tmp_path, capsys):
    tree = make(tmp_path / "ijb")
    metrics, report = evaluate(
        model, tmp_path / "out", "data=ijb", f"data.root={tmp_path / 'ijb'}", f"protocol={protocol}"
    )
    assert (metrics["protocol"], metrics["tasks"]) == (protocol, {})
    found = metrics["verification"] if protocol == "ijb_verification" else metrics["identification"]
    assert ("identification" in metrics) == (protocol == "ijb_identification")
    if protocol == "ijb_verification":
        counts = {"n_pairs": len(tree.pairs), "n_pairs_same": 12, "n_pairs_absent": 0, "n_templates": 18}
    else:
        counts = {"n_probes": 12, "n_templates_absent": 0}
        assert found["galleries"] == {
            gallery: {"n_templates": 3, "n_mated": 6, "n_non_mated": 6} for gallery in ("G1", "G2")
        }
    assert {name: found[name] for name in counts} == counts
    for kind in ("codes", "real_valued"):
        for name in found[kind].keys() & FIGURES.keys():
            values = found[kind][name]
            assert len(values) == FIGURES[name]
            assert all(value is None or 0 <= value <= 1 for value in values.values())
    output = capsys.readouterr().out
    words = "TMR at FMR 0.1" if protocol == "ijb_verification" else "found within rank 1"
    assert words in output
    assert words in report
    assert "Search by code" not in report


def test_lists_may_be_in_another_folder_than_the_crops(model, tmp_path):
    make_insightface(tmp_path / "ijb")
    prepared = tmp_path / "prepared"
    options = ["--size", 16, "--detector", "none", "--workers", 1]
    assert run("prepare", "ijb", tmp_path / "ijb", prepared, *options) == 0
    arguments = ["protocol=ijb_verification", f"protocol.root={tmp_path / 'ijb'}"]
    out = tmp_path / "out"
    assert run("evaluate", f"checkpoint={model}", f"data.manifest={prepared}", *arguments, f"out={out}") == 0
    assert json.loads((out / "metrics.json").read_text())["verification"]["n_templates"] == 18


def test_mistakes_with_templates_give_one_line_errors(model, tmp_path, capsys):
    make_insightface(tmp_path / "ijb")
    ijb = ["data=ijb", f"data.root={tmp_path / 'ijb'}", "protocol=ijb_verification"]
    for arguments, message in (
        ([*ijb, "baselines=true"], "baselines=true: protocol=ijb_verification has no search to compare"),
        ([*ijb, "rerank_k=3"], "rerank_k=3: protocol=ijb_verification has no search to rank"),
        (["data=orl", "protocol=ijb_identification"], "protocol=ijb_identification needs protocol.root=DIR"),
        (["data=ijb", "protocol=ijb_verification"], "data=ijb needs data.root=DIR"),
    ):
        assert run("evaluate", f"checkpoint={model}", *arguments) == 2
        assert message in capsys.readouterr().err


def test_leave_one_out_has_open_set_metrics_and_clusters(model, tmp_path, monkeypatch, capsys):
    root = make_folder(tmp_path / "faces", n_people=4)
    arguments = ["data=folder", f"data.root={root}", "protocol=leave_one_out"]
    metrics, _ = evaluate(model, tmp_path / "out", *arguments)
    for figures in metrics["tasks"].values():
        for kind in ("codes", "real_valued"):
            assert figures["tpir_at_fpir"][kind].keys() == {"0.1", "0.01", "0.001"}
        assert figures["n_non_mated"] == figures["n_queries"]
    found = metrics["clustering"]
    assert (found["n_items"], found["n_people"]) == (12, 4)
    assert found["n_clusters"] <= 4  # fewer where the untrained codes are equal
    assert found["stopped_at"] == "number of people"
    assert 0 < found["b_cubed"]["f"] <= 1

    monkeypatch.setitem(sys.modules, "faiss", None)
    metrics, _ = evaluate(model, tmp_path / "without", *arguments)
    assert "clustering" not in metrics
    assert "note: clips are not clustered: FAISS is not installed" in capsys.readouterr().out
