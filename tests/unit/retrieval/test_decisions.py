"""Decisions about people: what they change, that clustering respects them, and that each can be undone."""

import json
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from drawn_index import Seen, make_index
from hypothesis import given, settings
from hypothesis import strategies as st

from facereel.errors import UserError
from facereel.retrieval import decision_log
from facereel.retrieval import people as people_module
from facereel.retrieval.calibration import Calibration
from facereel.retrieval.clustering import groups as groups_module
from facereel.retrieval.clustering.groups import group_probability, make_groups
from facereel.retrieval.clustering.linkage import cluster_tracks
from facereel.retrieval.people import People
from facereel.retrieval.suggestions import suggest
from facereel.retrieval.track_database import DATABASE
from facereel.retrieval.track_index import TrackIndex

# Tracks 1, 3, 5 are face 0; 2, 4, 6 are face 1; no two are on screen at the same time.
VIDEOS = {f"{v}.mp4": [Seen(0, 0, 4), Seen(1, 10, 14)] for v in range(3)}
# Faces are about 0.5 apart, tracks of a face up to 0.07.
THRESHOLD = 0.2


@pytest.fixture
def index(tmp_path):
    made = make_index(tmp_path, VIDEOS)
    made.set_calibration(Calibration(22.0, 40.0))
    make_groups(made, THRESHOLD)
    return made


def groups(index):
    """The sets of ids of each group."""
    found = {}
    for track in index.tracks():
        found.setdefault(track.cluster, set()).add(track.id)
    return sorted(found.values(), key=min)


def state(index):
    """All that decisions change, without the undo log."""
    tracks = [(track.id, track.person, track.cluster) for track in index.tracks()]
    photos = {person: index.people.photos(person) for person in ("Ada", "Bo", "Cy")}
    return tracks, index.people.rejected(), index.people.pairs(True), index.people.pairs(False), photos


def test_rejected_track_loses_the_name_and_leaves_the_group(index):
    index.people.name([1, 3, 5], "Ada")
    index.people.reject([3], "Ada")
    assert index.ids_of_person("Ada") == [1, 5]
    assert groups(index) == [{1, 5}, {2, 4, 6}, {3}]
    make_groups(index, THRESHOLD)
    assert groups(index) == [{1, 5}, {2, 4, 6}, {3}]


def test_confirming_a_rejected_track_ends_the_rejection(index):
    index.people.name([1], "Ada")
    index.people.reject([3, 5], "Ada")
    index.people.name([3], "Ada")
    assert index.people.rejected() == {(5, "Ada")}
    make_groups(index, THRESHOLD)
    assert groups(index) == [{1, 3}, {2, 4, 6}, {5}]


def test_tracks_rejected_together_stay_together(index):
    index.people.name([1], "Ada")
    index.people.reject([3, 5], "Ada")
    assert groups(index) == [{1}, {2, 4, 6}, {3, 5}]


def test_merged_groups_are_merged_again(index):
    assert index.people.merge([2, 1]) == 1
    assert groups(index) == [{1, 2, 3, 4, 5, 6}]
    make_groups(index, THRESHOLD)
    assert groups(index) == [{1, 2, 3, 4, 5, 6}]


@pytest.mark.parametrize("chosen", [[1], [6], [1, 2], [5, 6]])
def test_split_after_merge_stays(index, chosen):
    """Only the last decision about two tracks counts; the others stay linked, also if their link went through them."""
    before = index.people.pairs(True)
    index.people.merge([1, 2])
    index.people.split(chosen)
    rest = {1, 2, 3, 4, 5, 6} - set(chosen)
    expected = sorted([set(chosen), rest], key=min)
    assert groups(index) == expected
    make_groups(index, THRESHOLD)
    assert groups(index) == expected
    index.people.undo()
    index.people.undo()
    assert (index.people.pairs(True), index.people.pairs(False)) == (before, [])


@pytest.mark.parametrize("chosen", [[1], [2, 4]])
def test_rejection_after_merge_stays(index, chosen):
    index.people.merge([1, 2])
    index.people.name([5], "Ada")
    index.people.reject(chosen, "Ada")
    expected = sorted([set(chosen), {1, 2, 3, 4, 5, 6} - set(chosen)], key=min)
    for _ in range(2):
        assert groups(index) == expected
        make_groups(index, THRESHOLD)


def test_merge_after_split_stays(index):
    (number,) = index.people.split([5])
    index.people.merge([1, number])
    make_groups(index, THRESHOLD)
    assert groups(index) == [{1, 3, 5}, {2, 4, 6}]
    assert index.people.pairs(same=False) == []


def test_decision_while_groups_are_made_is_respected(index, monkeypatch):
    made = []

    def decide_first(*arguments, **how):
        if not made:
            index.people.split([5])
        made.append(cluster_tracks(*arguments, **how))
        return made[-1]

    monkeypatch.setattr(groups_module, "cluster_tracks", decide_first)
    make_groups(index, THRESHOLD)
    assert groups(index) == [{1, 3}, {2, 4, 6}, {5}]
    assert len(made) == 2


def test_groups_made_before_a_merge_are_merged_as_they_are(index, monkeypatch):
    """No other process changes groups between reading and writing."""
    seen = []

    def check(self, tracks, real=People._check_merge):
        real(self, tracks)
        with (
            closing(sqlite3.connect(index.folder / DATABASE, timeout=0)) as connection,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            connection.execute("UPDATE tracks SET cluster = 9")
        seen.append(tracks)

    monkeypatch.setattr(People, "_check_merge", check)
    index.people.merge([1, 2])
    assert seen == [[1, 3, 5, 2, 4, 6]]


def test_confirm_is_one_decision(index):
    before = state(index)
    index.people.confirm([1, 3], "Ada", [b"photo", b"other", b"photo"])
    assert index.ids_of_person("Ada") == [1, 3]
    assert index.people.photos("Ada") == [b"photo", b"other"]
    assert [decision.what for decision in index.people.history()] == ["2 tracks and 3 photos named Ada"]
    index.people.undo()
    assert state(index) == before


def test_split_tracks_stay_apart(index):
    (number,) = index.people.split([5])
    assert {track.id for track in index.tracks() if track.cluster == number} == {5}
    make_groups(index, THRESHOLD)
    assert groups(index) == [{1, 3}, {2, 4, 6}, {5}]


def test_different_groups_are_not_joined_at_any_threshold(index):
    index.people.differ(1, 2)
    make_groups(index, 1.0)
    assert len(groups(index)) == 2


def test_groups_of_a_person_and_a_rejected_track_cannot_be_merged(index):
    index.people.name([1, 3, 5], "Ada")
    index.people.reject([2], "Ada")
    with pytest.raises(UserError, match="track 2 was marked as not Ada"):
        index.people.merge([1, 2])


def test_renaming_a_person_keeps_photos_and_rejections(index):
    index.people.name([1], "Ada")
    index.people.add_photo("Ada", b"photo")
    index.people.reject([2], "Ada")
    before = state(index)
    index.people.name([1], "Bo")
    assert index.people.photos("Bo") == [b"photo"]
    assert index.people.rejected() == {(2, "Bo")}
    index.people.undo()
    assert state(index) == before


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda people: people.merge([1, 9]), "there is no group 9"),
        (lambda people: people.differ(1, 1), "group 1 is given twice"),
        (lambda people: people.split([99]), "track 99 is not in the index"),
        (lambda people: people.split([1, 3, 5]), "all tracks of group 1 are given"),
        (lambda people: people.undo(), "nothing to undo"),
    ],
)
def test_invalid_decisions_raise_and_change_nothing(index, act, message):
    before = state(index)
    with pytest.raises(UserError, match=message):
        act(index.people)
    assert state(index) == before
    assert index.people.history() == []


TRACKS = st.lists(st.integers(1, 6), min_size=1, unique=True)
PERSON = st.sampled_from(["Ada", "Bo", "Cy"])
ACTIONS = st.one_of(
    st.tuples(st.just("name"), TRACKS, st.one_of(PERSON, st.none())),
    st.tuples(st.just("reject"), TRACKS, PERSON),
    st.tuples(st.just("merge"), st.lists(st.integers(1, 3), min_size=2, max_size=2)),
    st.tuples(st.just("split"), TRACKS),
    st.tuples(st.just("differ"), st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.just("add_photo"), PERSON, st.just(b"photo")),
    st.tuples(st.just("confirm"), TRACKS, PERSON, st.lists(st.sampled_from([b"photo", b"other"]), max_size=2)),
)


@pytest.fixture(scope="module")
def shared_index(tmp_path_factory):
    made = make_index(tmp_path_factory.mktemp("shared"), VIDEOS)
    make_groups(made, THRESHOLD)
    return made


@given(actions=st.lists(ACTIONS, max_size=6))
@settings(max_examples=25, deadline=None)
def test_undo_takes_back_each_decision_in_turn(shared_index, actions):
    index = shared_index
    states = []
    for name, *arguments in actions:
        before = state(index)
        try:
            getattr(index.people, name)(*arguments)
        except UserError:
            assert state(index) == before
        else:
            states.append(before)
    assert len(index.people.history()) == len(states)
    for before in reversed(states):
        index.people.undo()
        assert state(index) == before


def test_undo_after_new_groups_keeps_them(index):
    index.people.name([1, 3], "Ada")
    index.people.split([5])
    make_groups(index, 1.0)
    now = groups(index)
    index.people.undo()
    assert groups(index) == now
    assert index.people.pairs(same=False) == []
    index.people.undo()
    assert index.ids_of_person("Ada") == []


def test_erased_tracks_are_not_restored(index):
    index.people.reject([2], "Ada")
    index.people.split([4])
    with closing(sqlite3.connect(index.folder / DATABASE)) as connection, connection:
        connection.execute("DELETE FROM tracks WHERE id IN (2, 4)")
    assert index.people.rejected() == set()
    assert index.people.pairs(same=False) == []
    index.people.undo()
    index.people.undo()
    assert index.people.rejected() == set()


def test_nothing_of_an_erased_person_is_left(index):
    index.people.name([1], "Ada Lovelace")
    index.people.reject([2], "Ada Lovelace")
    index.people.add_photo("Ada Lovelace", b"the photo of Ada")
    index.people.name([3], "Bo")
    assert index.remove_person("Ada Lovelace") == 1
    assert index.people.history() == []
    assert index.ids_of_person("Bo") == [3]
    content = (index.folder / DATABASE).read_bytes()
    assert b"Lovelace" not in content
    assert b"photo of Ada" not in content


def test_history_has_a_limited_length(index, monkeypatch):
    monkeypatch.setattr(decision_log, "_HISTORY", 3)
    for i in range(5):
        index.people.name([1], f"name {i}")
    assert [decision.what for decision in index.people.history()] == [f"1 track named name {i}" for i in (4, 3, 2)]


def test_number_of_photos_is_limited(index, monkeypatch):
    monkeypatch.setattr(people_module, "MOST_PHOTOS", 1)
    index.people.add_photo("Ada", b"photo")
    index.people.add_photo("Ada", b"photo")  # is not added twice
    assert index.people.photos("Ada") == [b"photo"]
    with pytest.raises(UserError, match="Ada already has 1 photos"):
        index.people.confirm([1], "Ada", [b"other"])
    assert index.ids_of_person("Ada") == []


@pytest.mark.parametrize("before", ["[", "{}", json.dumps({"clustering": 0, "tracks": [[1]]})])
def test_damaged_undo_log_raises(index, before):
    index.people.name([1], "Ada")
    with closing(sqlite3.connect(index.folder / DATABASE)) as connection, connection:
        connection.execute("UPDATE history SET before = ?", (before,))
    with pytest.raises(UserError, match="its undo log cannot be read"):
        index.people.undo()
    assert index.ids_of_person("Ada") == [1]


def test_index_of_an_earlier_version_has_no_decisions(index):
    index = TrackIndex(index.folder)
    assert (index.people.rejected(), index.people.pairs(True), index.people.history()) == (set(), [], [])
    assert index.people.photos("Ada") == []


def test_suggestions_are_the_uncertain_pairs(index):
    index.people.name([1, 3, 5], "Ada")
    (one,) = suggest(index)
    assert (str(one.first), str(one.second)) == ("Ada", "group 2")
    distance = np.mean([(1 - a @ b) / 2 for a in index.vectors.unit([1, 3, 5]) for b in index.vectors.unit([2, 4, 6])])
    p = group_probability(index.calibration, distance, 6)
    assert one.probability == pytest.approx(p, rel=1e-4)
    assert one.gain == pytest.approx(-3 * (p * np.log2(p) + (1 - p) * np.log2(1 - p)), rel=1e-3)


@pytest.mark.parametrize(
    "answer",
    [
        lambda people: people.differ(1, 2),
        lambda people: people.merge([1, 2]),
        lambda people: (people.name([1, 3, 5], "Ada"), people.reject([2], "Ada")),
        lambda people: (people.name([1, 3, 5], "Ada"), people.name([2, 4, 6], "Bo")),
    ],
)
def test_answered_suggestions_are_not_repeated(index, answer):
    assert len(suggest(index)) == 1
    answer(index.people)
    assert suggest(index) == []


def test_people_on_screen_at_the_same_time_are_not_suggested(tmp_path):
    index = make_index(tmp_path, {"0.mp4": [Seen(0, 0, 4), Seen(1, 2, 6)]})
    index.set_calibration(Calibration(22.0, 40.0))
    make_groups(index, THRESHOLD)
    assert suggest(index) == []


def test_suggestions_need_a_calibration_and_groups(tmp_path):
    index = make_index(tmp_path, VIDEOS)
    with pytest.raises(UserError, match="has no calibration"):
        suggest(index)
    index.set_calibration(Calibration(22.0, 40.0))
    with pytest.raises(UserError, match="has no groups"):
        suggest(index)


def test_undo_of_a_rename_restores_rejections_of_both_names(index):
    index.people.name([1], "Adda")
    index.people.name([2], "Ada")
    index.people.reject([4], "Adda")
    index.people.reject([4], "Ada")
    before = state(index)
    index.people.name([1], "Ada")
    index.people.undo()
    assert state(index) == before
    assert index.people.rejected() == {(4, "Adda"), (4, "Ada")}


def test_merge_of_groups_with_two_people_links_only_tracks_without_a_name(index):
    index.people.name([1], "Ada")
    index.people.name([2], "Bo")
    index.people.merge([1, 2])
    linked = {track for pair in index.people.pairs(same=True) for track in pair}
    assert linked == {3, 4, 5, 6}


def test_nothing_is_recorded_for_no_tracks(index):
    index.people.name([], "Ada")
    index.people.reject([], "Ada")
    assert index.people.history() == []


def test_names_are_found_wherever_they_are_mentioned(index):
    assert not index.people.mentions("Zoë")
    index.people.name([2], "Zoë")
    index.people.name([2], None)
    assert index.people.mentions("Zoë")
    assert not index.people.mentions("Zo")
    index.remove_person("Zoë")
    assert not index.people.mentions("Zoë")
    index.people.reject([1], "Ada")
    index.people.add_photo("Bo", b"photo")
    while index.people.history():
        index.people.undo()
    assert not index.people.mentions("Ada")


def test_a_photo_of_another_type_is_damage(index):
    index.people.add_photo("Ada", b"photo")
    with closing(sqlite3.connect(index.folder / DATABASE)) as connection, connection:
        connection.execute("UPDATE photos SET crop = 'text'")
    with pytest.raises(UserError, match="the photo of a person cannot be read"):
        index.people.photos("Ada")
