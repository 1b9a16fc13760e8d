import shutil
import threading

import numpy as np
import pytest
import torch
from made_features import ABOUT, DIM, feature_of, rotation_model

from facereel.errors import UserError
from facereel.retrieval.encode import hash_feature
from facereel.retrieval.track_database import connect
from facereel.retrieval.track_features import pack_feature, unpack_features
from facereel.retrieval.track_index import NewTrack, TrackIndex, VideoRecord

N_PEOPLE = 12


def new(number, person, model):
    feature = feature_of(person, number)
    return NewTrack(
        number, 1.0 * number, number + 0.5, str(person), hash_feature(feature, model).code, b"jpeg", feature
    )


@pytest.fixture
def index(tmp_path):
    model = rotation_model()
    index = TrackIndex.create(tmp_path / "index", model, ABOUT, {"features": True})
    for video in range(4):
        tracks = [new(12 * video + i, i, model) for i in range(N_PEOPLE)]
        index.upsert_video(VideoRecord(f"/{video}.mp4", "s", None, "t"), tracks)
    return index


def first_right(index):
    """The fraction of tracks whose nearest other track, by codes, shows the same person."""
    tracks = index.tracks()
    nearest = [next(m for m in index.search(index.vectors.code(t.id), 3) if m.track.id != t.id) for t in tracks]
    return np.mean([match.track.person == track.person for match, track in zip(nearest, tracks, strict=True)])


def test_eight_bits_keep_the_direction(tmp_path):
    features = torch.stack([feature_of(i, i) for i in range(50)])
    stored = unpack_features(tmp_path, [pack_feature(17 * feature) for feature in features])
    assert torch.allclose(stored.norm(dim=1), torch.ones(50), atol=1e-6)
    assert ((features * stored).sum(dim=1) > 0.9998).all()
    assert len(pack_feature(features[0])) == DIM
    assert pack_feature(torch.zeros(DIM)) == bytes(DIM)


def test_features_rank_the_tracks(index):
    query = feature_of(3, 999)
    code = hash_feature(query, index.model()).code
    found = index.search(code, 48, feature=query)
    stored = index.vectors.features([match.track.id for match in found])
    expected = (1 - stored @ query.double().numpy()) / 2
    assert np.allclose([match.distance for match in found], expected, atol=1e-6)
    assert (np.diff([match.distance for match in found]) >= 0).all()
    assert {match.track.person for match in found[:4]} == {"3"}
    assert index.search(code, 3, feature=query) == found[:3]


def test_fitted_codes_find_better_and_are_the_same_each_time(index, tmp_path):
    other = shutil.copytree(index.folder, tmp_path / "other")
    before, tracks = first_right(index), index.tracks()
    names, thumbnails = [track.person for track in tracks], [track.thumbnail.read_bytes() for track in tracks]
    index.refit()
    assert first_right(index) > before
    again = TrackIndex(other)
    again.refit()
    assert [index.vectors.code(t.id).tolist() for t in tracks] == [again.vectors.code(t.id).tolist() for t in tracks]
    assert index.model().fingerprint() == again.model().fingerprint() == index.about["model"]
    assert index.about["fitted_to"] == 48
    after = index.tracks()
    assert [track.person for track in after] == names
    assert [track.thumbnail.read_bytes() for track in after] == thumbnails
    # Half of the tracks have each bit, as at the mean.
    codes = torch.stack([index.vectors.code(track.id) for track in after]).float()
    assert 0.3 < codes.mean(dim=0).min() < codes.mean(dim=0).max() < 0.7
    assert [path.name for path in index.folder.glob("model*")] == [index.about["model_folder"]]


def test_tracks_added_after_a_fit_have_fitted_codes(index):
    index.refit()
    model = index.model()
    index.upsert_video(VideoRecord("/new.mp4", "s", None, "t"), [new(77, 5, model)])
    (track,) = index.tracks(video="/new.mp4")
    feature = torch.from_numpy(index.vectors.features([track.id])[0]).float()
    assert torch.equal(index.vectors.code(track.id), hash_feature(feature, model).code)
    matches = index.search(index.vectors.code(track.id), 5)
    assert {match.track.person for match in matches} == {"5"}


def test_codes_of_the_model_before_the_fit_are_refused(index):
    model = index.model()
    TrackIndex(index.folder).refit()
    with pytest.raises(UserError, match="were fitted in the meantime: run the same command again"):
        index.upsert_video(VideoRecord("/new.mp4", "s", None, "t"), [new(77, 5, model)])
    assert "/new.mp4" not in index.videos()


def test_interrupted_fit_changes_nothing(index, monkeypatch):
    before = [index.vectors.code(track.id).tolist() for track in index.tracks()]

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("facereel.retrieval.track_database.TrackDatabase.set_about", stop)
    with pytest.raises(KeyboardInterrupt):
        index.refit()
    monkeypatch.undo()
    index = TrackIndex(index.folder)
    assert [index.vectors.code(track.id).tolist() for track in index.tracks()] == before
    assert index.model().fingerprint() == index.about["model"]
    index.refit()
    assert len(list(index.folder.glob("model*"))) == 1


def test_searches_during_a_fit_read_old_or_new_codes(index):
    query = feature_of(3, 999)
    wrong: list[str] = []
    done = threading.Event()

    def search():
        reader = TrackIndex(index.folder)
        while not done.is_set():
            code = hash_feature(query, reader.model()).code
            if {match.track.person for match in reader.search(code, 4, feature=query)} != {"3"}:
                wrong.append("wrong")

    thread = threading.Thread(target=search)
    thread.start()
    for seed in range(3):
        index.refit(seed)
    done.set()
    thread.join()
    assert not wrong


@pytest.mark.parametrize("n_tracks", [0, 1])
def test_too_few_tracks_cannot_be_fitted(tmp_path, n_tracks):
    model = rotation_model()
    index = TrackIndex.create(tmp_path / "index", model, ABOUT, {"features": True})
    index.upsert_video(VideoRecord("/a.mp4", "s", None, "t"), [new(i, i, model) for i in range(n_tracks)])
    with pytest.raises(UserError, match="cannot be fitted"):
        index.refit()
    assert index.model().fingerprint() == model.fingerprint()


def test_index_of_codes_alone_has_no_features(tmp_path):
    model = rotation_model()
    index = TrackIndex.create(tmp_path / "index", model, ABOUT, {"features": False})
    index.upsert_video(VideoRecord("/a.mp4", "s", None, "t"), [new(i, i, model) for i in range(3)])
    assert not index.has_features
    with connect(index.folder) as connection:
        assert "feature" not in [row[1] for row in connection.execute("PRAGMA table_info(tracks)")]
    with pytest.raises(UserError, match="has no features to fit codes to"):
        index.refit()


def read_all(folder):
    index = TrackIndex(folder)
    return index.vectors.features([1, 2, 3]), index.calibration


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("UPDATE tracks SET feature = x'00' WHERE id = 2", "feature is missing or has another length"),
        ("UPDATE tracks SET feature = NULL WHERE id = 2", "feature is missing or has another length"),
        ("INSERT OR REPLACE INTO about VALUES ('model_folder', '\"../model\"')", "model's folder is invalid"),
        ("INSERT OR REPLACE INTO about VALUES ('calibration', '{\"intercept\": 1}')", "calibration cannot be read"),
    ],
)
def test_damaged_index_is_reported(index, harm, message):
    with connect(index.folder) as connection:
        connection.execute(harm)
    with pytest.raises(UserError, match=message):
        read_all(index.folder)
