"""An index encoded again by another model: nothing that a user decided is lost, and it can be stopped at any time."""

import copy
import sqlite3
from contextlib import closing, contextmanager

import pytest
import torch
from drawn_index import Seen, make_index

from facereel import VideoHasher
from facereel.errors import UserError
from facereel.retrieval import change_model as module
from facereel.retrieval import track_features
from facereel.retrieval.calibration import Calibration
from facereel.retrieval.change_model import change_model
from facereel.retrieval.clustering.groups import make_groups
from facereel.retrieval.encode import encode_clip
from facereel.retrieval.face_search import FaceSearch
from facereel.retrieval.track_crops import read_crops
from facereel.retrieval.track_database import DATABASE
from facereel.retrieval.track_features import fit_head, pack_feature, unpack_features
from facereel.retrieval.track_index import TrackIndex

VIDEOS = {f"{v}.mp4": [Seen(face, 10 * face, 10 * face + 4) for face in range(4)] for v in range(3)}


def hasher(head="RotationHead", n_bits=32, seed=1):
    torch.manual_seed(seed)
    return VideoHasher(
        {
            "preprocess": {"_target_": "facereel.models.Preprocess", "size": 32},
            "encoder": {"_target_": "facereel.models.CasiaEncoder", "width": 0.125},
            "pooling": {"_target_": "facereel.models.MeanPooling"},
            "head": {"_target_": f"facereel.models.{head}", "n_bits": n_bits},
        }
    ).eval()


@pytest.fixture
def index(tmp_path):
    made = make_index(tmp_path, VIDEOS)
    make_groups(made, 0.2)
    made.people.name([1, 5], "Ada")
    made.people.reject([9], "Ada")
    made.people.split([6])
    made.people.add_photo("Bo", b"photo")
    return made


def decisions(index):
    tracks = [(t.id, t.video, t.number, t.person, t.cluster) for t in index.tracks()]
    people = index.people
    return tracks, people.rejected(), people.pairs(False), people.photos("Bo"), people.history()


def codes(index):
    return {id_: index.vectors.code(id_).tolist() for id_ in index.codes().ids.tolist()}


def expected_codes(index, model):
    made = {t.id: encode_clip(crops, 1.2, model) for t, crops in read_crops(index.tracks())}
    return {id_: one.code.tolist() for id_, one in sorted(made.items())}


@pytest.mark.parametrize("head", ["SharedHead", "RotationHead"])
def test_all_tracks_get_the_codes_of_the_new_model(index, head):
    before, model = decisions(index), hasher(head, n_bits=24)
    assert change_model(index, copy.deepcopy(model), Calibration(3.0, 4.0))
    index = TrackIndex(index.folder)
    assert decisions(index) == before
    assert (index.n_bits, index.has_features) == (24, head == "RotationHead")
    assert codes(index) == expected_codes(index, model)
    assert index.calibration == Calibration(3.0, 4.0)
    assert index.model().fingerprint() == model.fingerprint()
    assert [path.name for path in index.folder.glob("model*")] == [f"model-{model.fingerprint()[:16]}"]
    if head == "RotationHead":
        (crops,) = [crops for track, crops in read_crops(index.tracks([1]))]
        stored = unpack_features(index.folder, [pack_feature(encode_clip(crops, 1.2, model).feature)])
        assert torch.equal(torch.from_numpy(index.vectors.features([1])).float(), stored)


def test_codes_are_fitted_if_there_are_enough_tracks(index, monkeypatch):
    monkeypatch.setattr(module, "FIT_TRACKS", 10)
    model = hasher()
    assert change_model(index, copy.deepcopy(model))
    fitted = TrackIndex(index.folder)
    assert fitted.about["fitted_to"] == 12
    assert fitted.model().fingerprint() != model.fingerprint()
    assert codes(fitted) == {
        id_: (fitted.model().hash_pooled(fitted.vectors.find_features([id_])[id_][None]) > 0.5)[0].tolist()
        for id_ in codes(fitted)
    }
    assert not change_model(fitted, copy.deepcopy(model))


def test_features_can_be_left_out(index):
    assert change_model(index, hasher())
    assert index.has_features
    assert change_model(index, hasher(), codes_only=True)
    assert not TrackIndex(index.folder).has_features
    assert codes(index) == expected_codes(index, hasher())


def test_the_old_index_answers_until_the_switch(index, monkeypatch):
    before, search = codes(index), FaceSearch(index.folder)
    query = search.like(1)
    seen = []
    monkeypatch.setattr(module, "_AT_ONCE", 4)
    assert change_model(index, hasher(), advance=lambda done, of: seen.append((done, codes(index) == before)))
    assert seen == [(0, True), (4, True), (4, True), (4, True)]
    with pytest.raises(UserError, match="encoded by another model in the meantime"):
        search.search(query)
    assert search.search(search.like(1), top=1)[0].best.track.id == 1


def test_a_stopped_run_continues(index, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(done, of):
        if done:
            raise Stopped

    before = codes(index)
    monkeypatch.setattr(module, "_AT_ONCE", 5)
    with pytest.raises(Stopped):
        change_model(index, hasher(), advance=stop)
    assert codes(TrackIndex(index.folder)) == before
    index.remove_video(index.videos()[0])
    done = []
    assert change_model(index, hasher(), advance=lambda n, of: done.append(n))
    assert done[0] == 1  # of 5 encoded tracks, 4 were erased
    assert codes(index) == expected_codes(index, hasher())


def test_another_model_starts_again(index, monkeypatch):
    monkeypatch.setattr(module._ModelChange, "_switch", lambda self: True)
    change_model(index, hasher(seed=1))
    monkeypatch.undo()
    done = []
    assert change_model(index, hasher(seed=2), advance=lambda n, of: done.append(n))
    assert done == [0, 12]
    assert codes(index) == expected_codes(index, hasher(seed=2))


def test_tracks_added_before_the_switch_are_encoded_too(index, tmp_path, monkeypatch):
    added = []

    def missing(self, real=module._ModelChange._missing):
        found = real(self)
        if not found and not added:
            added.append(make_index(tmp_path, {"new.mp4": [Seen(1, 0, 4)]}))
        return found

    monkeypatch.setattr(module._ModelChange, "_missing", missing)
    assert change_model(index, hasher())
    assert len(TrackIndex(index.folder)) == 13
    assert codes(index) == expected_codes(index, hasher())


def model_folders(index):
    return [path.name for path in index.folder.glob("model*")]


def test_model_of_a_killed_run_is_removed(index, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "remove_other_models", lambda database: None)  # killed before it
        change_model(index, hasher())
    assert len(model_folders(index)) == 2
    assert not change_model(index, hasher())
    assert model_folders(index) == [f"model-{hasher().fingerprint()[:16]}"]


def test_no_other_process_removes_the_new_model_before_the_switch(index, monkeypatch):
    """Another process that changes the model removes all other models after it; it has to wait."""
    is_locked = []

    def save(self, folder, real=VideoHasher.save):
        with closing(sqlite3.connect(index.folder / DATABASE, timeout=0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                is_locked.append(folder.name)
        real(self, folder)

    monkeypatch.setattr(VideoHasher, "save", save)
    change_model(index, hasher())
    assert is_locked == model_folders(index) == [index.about["model_folder"]]
    index.refit()
    assert is_locked[1:] == model_folders(index) == [index.about["model_folder"]]


def test_fit_that_was_begun_before_the_switch_is_refused(index, monkeypatch):
    change_model(index, hasher(seed=1))
    other = TrackIndex(index.folder)

    def switch_first(*arguments):
        n_tracks = fit_head(*arguments)
        change_model(TrackIndex(index.folder), hasher(seed=2))
        return n_tracks

    monkeypatch.setattr(track_features, "fit_head", switch_first)
    with pytest.raises(UserError, match="changed in the meantime"):
        other.refit()
    assert TrackIndex(index.folder).model().fingerprint() == hasher(seed=2).fingerprint()
    assert codes(index) == expected_codes(index, hasher(seed=2))


def test_two_models_at_once_without_locks(index, monkeypatch):
    """Codes of one model never become those of the other: the later call wins, and the earlier one raises."""

    @contextmanager
    def no_lock(path):
        yield []

    def encode_other_first(self, ids, real=module._ModelChange._encode):
        monkeypatch.setattr(module._ModelChange, "_encode", real)
        with pytest.raises(Stopped):
            change_model(index, hasher(seed=2), advance=stop)
        self._encode(ids)

    class Stopped(Exception):
        pass

    def stop(done, of):
        raise Stopped

    monkeypatch.setattr(module, "file_lock", no_lock)
    monkeypatch.setattr(module._ModelChange, "_encode", encode_other_first)
    with pytest.raises(UserError, match="another process is encoding"):
        change_model(index, hasher(seed=1))
    assert change_model(index, hasher(seed=2))
    assert codes(index) == expected_codes(index, hasher(seed=2))


def test_codes_that_moved_to_milvus_are_not_changed(index, monkeypatch):
    def move_first(self, real=module._ModelChange._switch):
        with self._database.write() as connection:
            self._database.set_about(connection, {"codes": {"uri": "x", "collection": "y", "seal": "z"}})
        return real(self)

    monkeypatch.setattr(module._ModelChange, "_switch", move_first)
    before = index.about["model"]
    with pytest.raises(UserError, match="the codes are in Milvus"):
        change_model(index, hasher("SharedHead"))
    assert index.about["model"] == before


def test_groups_made_during_the_change_stay(index, monkeypatch):
    def group(self, ids, real=module._ModelChange._encode):
        make_groups(index, 1.0)
        real(self, ids)

    monkeypatch.setattr(module._ModelChange, "_encode", group)
    change_model(index, hasher())
    made = [track.cluster for track in index.tracks()]
    make_groups(index, 1.0)
    assert len(set(made)) == len({track.cluster for track in index.tracks()})


def test_missing_crops_change_nothing(index):
    before = codes(index)
    next((index.folder.parent / "tracks").glob("1-*")).unlink()
    with pytest.raises(UserError, match="1-"):
        change_model(index, hasher())
    assert codes(TrackIndex(index.folder)) == before


def test_too_narrow_crops_raise(index):
    wide = hasher()
    wide.preprocess.margin = 2.0
    with pytest.raises(UserError, match="margin"):
        change_model(index, wide)
