import json

import pytest
from bare_faces import make_faces

from facereel.data import Clip, FaceSet
from facereel.errors import UserError
from facereel.evaluation import ClosedSet, IdentityDisjoint, LeaveOneOut, Part, SavedSplit, Split


@pytest.fixture
def faces():
    #                people: 0  1  2  3  4  5  6  7  8  9
    return make_faces([4, 4, 3, 3, 2, 2, 1, 4, 3, 0], [5, 1, 0, 2, 1, 4, 2, 3, 3, 6])


def people(items):
    return {item.person for item in items}


def sources(part):
    return {item.source for item in (*part.clips, *part.stills)}


PROTOCOLS = [ClosedSet(0.3, 0.2), IdentityDisjoint(0.3, 0.2), LeaveOneOut()]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("own_source", [True, False])
def test_sources_are_in_one_part_and_no_item_is_lost(faces, protocol, own_source):
    faces = make_faces([4, 4, 3, 3], [5, 4, 3, 4], own_source)
    for seed in range(5):
        split = protocol.split(faces, seed)
        parts = (split.train, split.val, split.test)
        assert sum(len(part.clips) for part in parts) == len(faces.clips)
        assert sum(len(part.stills) for part in parts) == len(faces.stills)
        assert not sources(split.train) & sources(split.test)
        assert not sources(split.train) & sources(split.val)
        assert not sources(split.val) & sources(split.test)


def test_closed_set_queries_and_gallery_have_the_same_people(faces):
    split = ClosedSet(0.3, 0.0).split(faces, 0)
    assert split.searches_train
    assert split.gallery(split.test) is split.train
    assert people(split.test.clips) == {0, 1, 2, 3, 4, 5, 7, 8}  # 6 has one source video only
    assert people(split.train.clips) == {0, 1, 2, 3, 4, 5, 6, 7, 8}
    assert split.notes["people with one source video, so they have no clip query"] == 1


def test_closed_set_stills_from_elsewhere_follow_the_rule(faces):
    split = ClosedSet(0.3, 0.0).split(faces, 0)
    test_keys = {still.key for still in split.test.stills}
    assert "stills/p0/4" in test_keys  # of more the last is the query
    assert "stills/p1/0" in test_keys  # the only one is the query
    assert len(test_keys) == 8
    train = {person: [s.key for s in split.train.stills if s.person == person] for person in range(9)}
    assert train[0] == [f"stills/p0/{i}" for i in range(4)]
    # 1, 2 and 4 have no still to train on: three frames a training clip would be taken, two are all there are.
    for person in (1, 2, 4):
        clips = [clip for clip in split.train.clips if clip.person == person]
        assert len(train[person]) == 2 * len(clips)
        assert not any(key.startswith("stills/") for key in train[person])
    assert split.notes["people trained with frames as stills"] == 3
    assert {still.person for still in split.pretrain_only} == {9}


def test_frames_replace_missing_stills(faces):
    faces = make_faces([4, 4], [0, 0])
    split = ClosedSet(0.3, 0.0).split(faces, 0)
    assert len(split.test.stills) == len(split.test.clips)
    assert len(split.train.stills) == 2 * len(split.train.clips)


def test_val_is_taken_from_train(faces):
    with_val, without = ClosedSet(0.3, 0.2).split(faces, 3), ClosedSet(0.3, 0.0).split(faces, 3)
    assert with_val.val.clips
    assert {c.key for c in with_val.test.clips} == {c.key for c in without.test.clips}
    both = {c.key for c in (*with_val.train.clips, *with_val.val.clips)}
    assert both == {c.key for c in without.train.clips}
    assert people(with_val.val.clips) <= people(with_val.train.clips)
    disjoint = IdentityDisjoint(0.3, 0.3).split(faces, 3)
    assert disjoint.val.clips
    assert not people(disjoint.val.clips) & people(disjoint.train.clips)


@pytest.mark.parametrize("protocol", [ClosedSet, IdentityDisjoint])
def test_settings_are_compared_on_val_without_reading_test(faces, protocol, tmp_path):
    tested, compared = (protocol(0.3, 0.4, search).split(faces, 0) for search in ("test", "val"))
    assert compared.protocol == f"{protocol.name}_val"
    assert compared.test.keys() == tested.val.keys()
    assert compared.train.keys() == tested.train.keys()
    assert not compared.val.items
    held = {item.key for items in compared.items_by_part().values() for item in items}
    assert not held & {item.key for item in tested.test.items}
    compared.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json", faces).sha256 == compared.sha256 != tested.sha256
    with pytest.raises(UserError, match=r"protocol\.search=train: must be test or val"):
        protocol(search="train")
    with pytest.raises(UserError, match="there is no query"):
        protocol(0.3, 0.0, "val").split(faces, 0)


def test_identity_disjoint_parts_share_no_person(faces):
    for seed in range(5):
        split = IdentityDisjoint(0.3, 0.2).split(faces, seed)
        trained = people((*split.train.clips, *split.train.stills, *split.pretrain_only))
        assert not trained & people((*split.test.clips, *split.test.stills))
        assert split.gallery(split.test) is split.test


def test_leave_one_out_tests_on_everything(faces):
    split = LeaveOneOut().split(faces, 0)
    assert len(split.test.clips) == len(faces.clips)
    assert len(split.test.stills) == len(faces.stills)
    assert not split.train.clips


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_split_files_are_restored_and_differ_in_their_hash(faces, protocol, tmp_path):
    split = protocol.split(faces, 0)
    split.save(tmp_path / "split.json")
    loaded = Split.load(tmp_path / "split.json", faces)
    assert loaded.as_dict() == split.as_dict()
    for name in ("train", "val", "test"):
        assert getattr(loaded, name) == getattr(split, name)
    assert loaded.sha256 == split.sha256 == protocol.split(faces, 0).sha256
    assert json.loads((tmp_path / "split.json").read_text())["sha256"] == split.sha256
    assert protocol.split(faces, 1).sha256 != split.sha256


def test_bad_split_files_raise(faces, tmp_path):
    path = tmp_path / "split.json"
    with pytest.raises(UserError, match="there is no split file"):
        Split.load(path, faces)
    path.write_text("[]")
    with pytest.raises(UserError, match="is not a split file"):
        Split.load(path, faces)
    split = ClosedSet().split(faces, 0)
    split.save(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "test": {"clips": ["p0/c77"], "stills": []}}))
    with pytest.raises(UserError, match="p0/c77"):
        Split.load(path, faces)
    path.write_text(json.dumps({**content, "val": content["train"]}))
    with pytest.raises(UserError, match="in both train and val"):
        Split.load(path, faces)


def test_data_set_without_a_search_raises():
    with pytest.raises(UserError, match="there is no query"):
        ClosedSet().split(make_faces([1, 1], [0, 0]), 0)
    with pytest.raises(UserError, match=r"there is no query|the gallery has no clip"):
        ClosedSet().split(make_faces([0, 0], [3, 3]), 0)
    with pytest.raises(UserError, match="the gallery has no clip"):
        LeaveOneOut().split(make_faces([0, 0], [3, 3]), 0)


@pytest.mark.parametrize("value", [-0.1, 1.0, 2.0])
def test_fractions_are_checked(value):
    with pytest.raises(UserError, match="test_fraction"):
        ClosedSet(test_fraction=value)
    with pytest.raises(UserError, match="val_fraction"):
        IdentityDisjoint(val_fraction=value)


@pytest.mark.slow
def test_counts_on_the_shared_data_set(shared):
    from facereel.data import Skipped, load_faces, read_stills, read_youtube_faces

    skipped = Skipped()
    rows = [
        *read_youtube_faces(shared / "data" / "youtube_faces", skipped),
        *read_stills(shared / "data" / "lfw", skipped),
    ]
    faces = load_faces(rows, skipped, size=8, max_frames=1)  # of each clip: it is people and clips that are counted
    split = ClosedSet(0.3, 0.1).split(faces, 0)
    assert people(split.test.clips) == people(split.train.clips)
    assert len(people(split.test.clips)) == 258
    assert len(split.test.stills) == 257
    assert split.notes == {
        "people without a still query": 1,
        "people trained with frames as stills": 156,
        "people without a clip, excluded from the search (their stills are for pretraining)": 385,
    }


def test_source_in_two_parts_raises():
    clip = Clip(0, "p0/c0", "p0/c0", (0,))
    split = Split("closed_set", 0, True, train=Part([clip]), test=Part([Clip(0, "p0/c0", "p0/c0b", (1,))]))
    with pytest.raises(UserError, match="the source p0/c0 in both train and test"):
        split.check()


def test_excluding_only_the_item_is_another_protocol(faces, tmp_path):
    by_source, by_item = LeaveOneOut().split(faces, 0), LeaveOneOut("item").split(faces, 0)
    assert by_item.protocol == "leave_one_item_out"
    assert by_source.sha256 != by_item.sha256
    by_item.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json", faces).leaves_out == "item"
    assert "leaves_out" not in by_source.as_dict()
    with pytest.raises(UserError, match=r"protocol\.leave_out=clip: must be source or item"):
        LeaveOneOut("clip")


def test_pieces_of_a_video_match_only_if_just_the_item_is_excluded():
    faces = make_faces([1, 1], [0, 0])
    clips = [
        Clip(clip.person, clip.source, f"{clip.key}#{i}", (row,))
        for clip in faces.clips
        for i, row in enumerate(clip.rows)
    ]
    pieces = FaceSet(faces.people, faces.crops, faces.rows, clips, faces.stills)
    with pytest.raises(UserError, match="from another source"):
        LeaveOneOut().split(pieces, 0)
    assert len(LeaveOneOut("item").split(pieces, 0).test.clips) == 4


def test_saved_split_is_used_unchanged(faces, tmp_path):
    split = IdentityDisjoint(0.3, 0.2).split(faces, 5)
    split.save(tmp_path / "split.json")
    assert SavedSplit(tmp_path / "split.json").split(faces, 0).as_dict() == split.as_dict()
    with pytest.raises(UserError, match=r"protocol=saved needs protocol\.file=FILE"):
        SavedSplit(None)


def test_pretraining_stills_are_not_searched_and_items_are_unique(faces, tmp_path):
    path = tmp_path / "split.json"
    ClosedSet().split(faces, 0).save(path)
    content = json.loads(path.read_text())

    def refused(change, message):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(UserError, match=message):
            Split.load(path, faces)

    test = content["test"]
    refused({"pretrain_only": test["stills"]}, "in both test and pretrain_only")
    refused({"test": {**test, "stills": test["stills"] * 2}}, "twice in test")
    refused({"test": {**test, "clips": [*test["clips"], test["clips"][0]]}}, "twice in test")
    refused({"leaves_out": "clip"}, "must be one of source, item, nothing")
