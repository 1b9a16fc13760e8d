import numpy as np
import pytest
import torch
from commands import run
from mean_hasher import CONFIG

from facereel.errors import UserError
from facereel.models import VideoHasher
from facereel.retrieval import face_search
from facereel.retrieval.calibration import Calibration
from facereel.retrieval.face_search import Query
from facereel.retrieval.several_indexes import SeveralIndexes
from facereel.retrieval.track_index import NewTrack, TrackIndex, VideoRecord, Within

N_BITS = 48
ABOUT = {"detector": "mtcnn", "size": 200, "margin": 1.4}


def codes(seed, n_codes):
    return torch.rand(n_codes, N_BITS, generator=torch.Generator().manual_seed(seed)) > 0.5


@pytest.fixture(autouse=True)
def no_detector(monkeypatch):
    monkeypatch.setattr(face_search, "make_detector", lambda name: None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, model):
    """One index of 20 videos with 6 tracks each, and four with five of these videos."""
    root = tmp_path_factory.mktemp("indexes")
    whole, *shards = (TrackIndex.create(root / str(i), model, ABOUT) for i in range(5))
    for video in range(20):
        record = VideoRecord(f"/{video % 3}/{video}.mp4", "s", float(video), "t")
        tracks = [NewTrack(i, float(i), i + 1.0, None, code, b"") for i, code in enumerate(codes(video, 6))]
        whole.upsert_video(record, tracks)
        shards[video % 4].upsert_video(record, tracks)
    for index in (whole, *shards):
        index.set_calibration(Calibration(20.0, 50.0))
    return [index.folder for index in (whole, *shards)]


def query(seed, scores=True):
    drawn = torch.rand(N_BITS, generator=torch.Generator().manual_seed(seed))
    return Query(None, np.zeros((1, 1, 3), np.uint8), drawn > 0.5, drawn if scores else None)


def listed(results):
    best = [result.best for result in results]
    return [(m.track.video, m.track.number, round(m.distance, 6), round(m.probability, 6)) for m in best]


@pytest.mark.parametrize("per_video", [True, False])
@pytest.mark.parametrize("within", [None, Within(folder="/1"), Within(since=12.0)])
def test_four_indexes_answer_as_one(folders, per_video, within):
    one, four = SeveralIndexes(folders[:1]), SeveralIndexes(folders[1:])
    assert len(one) == len(four) == 120
    assert one.threshold == four.threshold
    for seed in range(100, 104):
        for scores in (True, False):
            found, expected = (
                listed(searched.search(query(seed, scores), 8, per_video=per_video, within=within))
                for searched in (four, one)
            )
            assert [best[2:] for best in found] == [best[2:] for best in expected]  # distances and probabilities
            # Equal distances may be in another order, and at the last place another track may be chosen.
            assert {best for best in found if best[2] < found[-1][2]} == {
                best for best in expected if best[2] < expected[-1][2]
            }


def test_a_video_in_two_indexes_is_one_result(folders):
    two = SeveralIndexes(folders[:2])
    found = two.search(query(100), 40)
    assert len({result.video for result in found}) == len(found) == 20
    assert sum(1 + len(result.others) for result in found) == 120 + 30
    assert [result.distance for result in found] == sorted(result.distance for result in found)
    assert all(result.distance <= min(match.distance for match in result.others) for result in found)
    assert len(two.search(query(100), 400, per_video=False)) == 150


def test_several_faces_are_one_person(folders):
    four = SeveralIndexes(folders[1:])
    found = four.search([query(100), query(101)], 5)
    assert listed(found) == listed(SeveralIndexes(folders[:1]).search([query(100), query(101)], 5))


def test_indexes_of_different_models_raise(folders, tmp_path):
    torch.manual_seed(7)
    other = TrackIndex.create(tmp_path / "other", VideoHasher(CONFIG).eval(), ABOUT)
    with pytest.raises(UserError, match="were made by different models, so their distances cannot be compared"):
        SeveralIndexes([folders[0], other.folder])


def test_without_a_calibration_of_each_there_is_no_threshold(folders, model, tmp_path):
    bare = TrackIndex.create(tmp_path / "bare", model, ABOUT)
    assert SeveralIndexes([folders[0], bare.folder]).threshold is None


@pytest.mark.parametrize("option", [["--person", "Ada"], ["--intervals"], ["--with", "b.jpg"], ["--export", "a.csv"]])
def test_options_for_one_index_are_refused(option, capsys):
    assert run("search", "a.jpg", "--index", "a", "--index", "b", *option) == 2
    assert "search one index: give --index once" in capsys.readouterr().err
